//! A small process that stands between an owner and its `nats-server`, so that the server never outlives the owner,
//! whatever kills either.
//!
//! The owner holds the other end of our standard input: end-of-file means that it died, or that it wants the server ended.
//! The server is started through a second stage of this executable, which asks the kernel for a SIGTERM at our own death
//! and then becomes the server. `server.lock` is inherited by the server, so it is held for exactly as long as anything
//! works on the data; the next guard waits for it.

use super::embedded::{CONFIG, SERVER_LOCK};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal},
};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{ExitCode, Stdio},
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, timeout},
};

/// The hidden subcommand.
pub(super) const SUBCOMMAND: &str = "broker-guard";
/// How long the previous server may take to be gone.
const PREVIOUS_GONE: Duration = Duration::from_secs(10);
/// How long a server may take to end by itself: 1.7 s were measured with 10 GiB.
const SERVER_ENDS: Duration = Duration::from_secs(8);
/// What the server's Go runtime tries to stay below; JetStream keeps the data itself on disk.
const MEMORY: &str = "512MiB";

/// Whether this process was started to be a guard. Both programs ask this first thing in `main`, before there are threads, and
/// end with the code when there is one.
pub fn maybe_run() -> Option<ExitCode> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let done = match args.iter().map(OsString::as_os_str).collect::<Vec<_>>().as_slice() {
        [sub, stage, server, dir] if *sub == SUBCOMMAND && *stage == "serve" => {
            serve(Path::new(server), Path::new(dir))
        }
        [sub, stage, server, dir, parent] if *sub == SUBCOMMAND && *stage == "become" => {
            become_server(Path::new(server), Path::new(dir), parent)
        }
        [sub, ..] if *sub == SUBCOMMAND => {
            Err(io::Error::other("this is started by the programs themselves"))
        }
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{SUBCOMMAND}: {error}"); // Standard error is the server's log file here.
            ExitCode::FAILURE
        }
    })
}

/// The command that an owner starts, without its standard streams.
pub(super) fn command(server: &Path, dir: &Path) -> std::process::Command {
    let mut command = this_program("mediamirror-broker-guard");
    // In a group of its own, so that Ctrl-C ends the owner first and the owner ends the server.
    command.args([OsStr::new(SUBCOMMAND), "serve".as_ref(), server.as_ref(), dir.as_ref()]).process_group(0);
    command
}

/// This executable, also when its file was replaced by an upgrade since.
pub fn this_program(name: &str) -> std::process::Command {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(name);
    command
}

/// One thread only: the server's death signal is tied to the thread that started it.
fn serve(server: &Path, dir: &Path) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        let owner: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
        let mut owner = pipe::Receiver::from_owned_fd(owner)?;
        let stop = async {
            let mut rest = [0; 64];
            tokio::select! {
                () = async { while matches!(owner.read(&mut rest).await, Ok(1..)) {} } => {}
                _ = terminated.recv() => {}
            }
        };
        tokio::pin!(stop);

        let path = dir.join(SERVER_LOCK);
        let _lock = tokio::select! {
            lock = lock(&path) => lock?,
            () = &mut stop => return Ok(()),
        };
        let parent = std::process::id().to_string();
        let mut command = this_program("mediamirror-broker");
        command.args([OsStr::new(SUBCOMMAND), "become".as_ref(), server.as_ref(), dir.as_ref()]).arg(parent);
        let mut child = tokio::process::Command::from(command).stdin(Stdio::null()).spawn()?;
        tokio::select! {
            status = child.wait() => return Err(io::Error::other(format!("nats-server ended by itself: {}", status?))),
            () = &mut stop => {}
        }
        if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            kill_process(pid, Signal::TERM)?;
        }
        match timeout(SERVER_ENDS, child.wait()).await {
            Ok(status) => status.map(|_| ()),
            Err(_) => child.kill().await,
        }
    })
}

/// Not closed on exec: the server inherits it, and holds the lock with us.
async fn lock(path: &Path) -> io::Result<OwnedFd> {
    let file = open(path, OFlags::RDWR | OFlags::CREATE, Mode::RUSR | Mode::WUSR)?;
    let deadline = Instant::now() + PREVIOUS_GONE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                sleep(Duration::from_millis(20)).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::other("another nats-server still works on this data"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns only when the server could not be started.
fn become_server(server: &Path, dir: &Path, parent: &OsStr) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // Had the guard died before that line, no signal would ever come.
    let now = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if now.as_deref().map(OsStr::new) != Some(parent) {
        return Err(io::Error::other("the guard is gone"));
    }
    let mut command = std::process::Command::new(server);
    command.arg("-c").arg(dir.join(CONFIG));
    if std::env::var_os("GOMEMLIMIT").is_none() {
        command.env("GOMEMLIMIT", MEMORY);
    }
    Err(command.exec())
}
