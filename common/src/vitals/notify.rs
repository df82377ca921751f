//! What a service manager wants to hear, by its protocol of one datagram for each word: that we have started, still work, and are about to end.

use crate::settings::NotifySettings;
use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How often within its limit the watchdog is told that we work.
const OFTEN: u32 = 3;

/// The manager's socket. What cannot be sent is not: it notices by itself.
pub struct Notify {
    socket: UnixDatagram,
    to: SocketAddr,
    every: Option<Duration>,
    fed: Mutex<Option<Instant>>,
}

impl Notify {
    /// Sends nothing yet.
    pub fn new(settings: &NotifySettings) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let to = address(settings.socket.as_os_str(), &settings.socket)?;
        let every = settings.watchdog.map(|limit| limit / OFTEN);
        Ok(Self { socket, to, every, fed: Mutex::default() })
    }

    /// The process has begun its work.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// It is about to end.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// It works. Sent as often as the watchdog needs it, where there is one.
    pub fn working(&self, now: Instant) {
        let Some(every) = self.every else { return };
        let mut fed = self.fed.lock().unwrap_or_else(PoisonError::into_inner);
        if fed.is_none_or(|at| now.duration_since(at) >= every) {
            *fed = Some(now);
            self.say("WATCHDOG=1");
        }
    }

    fn say(&self, word: &str) {
        if let Err(error) = self.socket.send_to_addr(word.as_bytes(), &self.to) {
            tracing::debug!(%error, word, "the service manager could not be told");
        }
    }
}

fn address(text: &OsStr, path: &Path) -> io::Result<SocketAddr> {
    match text.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_three_times_within_its_limit_and_not_at_each_turn() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        manager.set_nonblocking(true).expect("a setting");
        let heard = || {
            let mut word = [0; 64];
            manager.recv(&mut word).ok().map(|n| String::from_utf8_lossy(&word[..n]).into_owned())
        };
        let settings = NotifySettings { socket: path, watchdog: Some(Duration::from_secs(3)) };
        let notify = Notify::new(&settings).expect("a socket");
        notify.ready();
        let now = Instant::now();
        notify.working(now);
        notify.working(now + Duration::from_millis(999));
        notify.working(now + Duration::from_millis(1000));
        notify.stopping();
        for expected in ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"] {
            assert_eq!(heard().as_deref(), Some(expected));
        }
        assert_eq!(heard(), None);
    }
}
