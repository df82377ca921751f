//! What the client says of its connection, as log lines for people and as [`Connection`]s for programs. Each is said once.

use async_nats::{ClientError, Event, ServerError};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// How many denied subjects are remembered as warned about.
const DENIED: usize = 1_000;
/// What is needed is asked for again within this time; what has not been denied for so long is permitted, or no longer asked for.
const RECENT: Duration = Duration::from_secs(60);
/// Not needed: what a broken upload left waits for the collector, which is an operator's.
const SPARED: &str = "$JS.API.STREAM.PURGE.";

/// Whether the broker is there, and how often it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connection {
    /// Whether it is there now, as far as is known.
    pub connected: bool,
    /// How many connections there were, this one included. Whoever sees it grow checks the log.
    pub epoch: u64,
}

/// The subjects that the broker denies us, which to a request look like a broker that does not answer.
#[derive(Clone, Default, Debug)]
pub struct Denials(Arc<Mutex<HashMap<String, Instant>>>);

impl Denials {
    /// True the first time, as long as there is room to remember it.
    fn note(&self, what: &str, subject: &str, now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = known.len() < DENIED;
        let denied = format!("{what} {subject}");
        let news = !known.contains_key(&denied);
        if room || !news {
            known.insert(denied, now);
        }
        news && room
    }

    /// What was denied last, within the last minute: `publish $KV.MIRROR_MEDIA_NODES.a.watcher`.
    pub fn recent(&self, now: Instant) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = known.iter().filter(|(_, at)| now.saturating_duration_since(**at) < RECENT);
        recent.max_by_key(|(_, at)| **at).map(|(denied, _)| denied.clone())
    }
}

/// What was said about a broker that is away.
#[derive(Default)]
struct Complaint {
    /// One warning is enough until it is back.
    warned: bool,
    /// What the attempts to reach it end with, said when it changes.
    reason: String,
}

/// Turns the client's events into log lines and [`Connection`]s.
pub(super) struct Listener {
    changes: watch::Sender<Connection>,
    servers: String,
    denials: Denials,
    /// Said until the next connection.
    complaint: Mutex<Complaint>,
    /// We end: that the connection ends too is no news.
    leaving: CancellationToken,
}

impl Listener {
    pub(super) fn new(
        changes: watch::Sender<Connection>,
        servers: String,
        leaving: CancellationToken,
        denials: Denials,
    ) -> Self {
        Self { changes, servers, denials, complaint: Mutex::default(), leaving }
    }

    pub(super) fn hear(&self, event: Event) {
        if self.leaving.is_cancelled() {
            return;
        }
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Connected => {
                *complaint = Complaint::default();
                self.changes.send_modify(|now| *now = Connection { connected: true, epoch: now.epoch + 1 });
                tracing::info!(servers = self.servers, "connected to the broker");
            }
            Event::Disconnected => {
                self.changes.send_modify(|now| now.connected = false);
                if !std::mem::replace(&mut complaint.warned, true) {
                    tracing::warn!(servers = self.servers, "lost the broker; reconnecting");
                }
            }
            Event::Closed => self.changes.send_modify(|now| now.connected = false),
            Event::ServerError(ServerError::Other(text)) => match denied(&text) {
                Some((_, subject)) if subject.starts_with(SPARED) => {
                    tracing::debug!(subject, "no right to tidy up; the collector will");
                }
                Some((what, subject)) => {
                    if self.denials.note(what, subject, Instant::now()) {
                        tracing::warn!(what, subject, "the broker denies us a subject");
                    }
                }
                None => tracing::warn!(error = text, "the broker reports an error"),
            },
            Event::ServerError(error) => tracing::warn!(%error, "the broker reports an error"),
            Event::SlowConsumer(subscription) => {
                tracing::warn!(subscription, "messages came faster than they were read, and were dropped");
            }
            // One for each attempt; the first of a kind is enough.
            Event::ClientError(ClientError::Other(text)) if complaint.reason != text => {
                let (servers, error) = (&self.servers, &text);
                match std::mem::replace(&mut complaint.warned, true) {
                    false => tracing::warn!(servers, error, "the broker cannot be reached; still trying"),
                    true => tracing::info!(servers, error, "the broker cannot be reached; still trying"),
                }
                complaint.reason = text;
            }
            Event::ClientError(ClientError::Other(_)) => {}
            Event::ClientError(error) => tracing::warn!(%error, "the client reports an error"),
            Event::LameDuckMode => tracing::info!("the broker is about to end"),
            Event::Draining => {}
        }
    }
}

/// `publish` or `subscribe`, and the subject, of a message such as `Permissions Violation for Publish to "a.b"`.
fn denied(text: &str) -> Option<(&'static str, &str)> {
    let lower = text.to_ascii_lowercase();
    if !lower.contains("permissions violation for") {
        return None;
    }
    let what = if lower.contains("for publish") { "publish" } else { "subscribe" };
    let subject = text.split_once('"').and_then(|(_, rest)| rest.split('"').next());
    Some((what, subject.unwrap_or(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_of_a_violation_is_found() {
        for (text, expected) in [
            ("Permissions Violation for Publish to \"a.b\"", Some(("publish", "a.b"))),
            (
                "Permissions Violation for Subscription to \"x.>\" using queue \"q\"",
                Some(("subscribe", "x.>")),
            ),
            (
                "permissions violation for something",
                Some(("subscribe", "permissions violation for something")),
            ),
            ("Maximum Payload Violation", None),
        ] {
            assert_eq!(denied(text), expected, "{text}");
        }
    }

    #[test]
    fn each_connection_is_counted_and_a_denied_subject_remembered_once() {
        let (changes, seen) = watch::channel(Connection::default());
        let denials = Denials::default();
        let listener = Listener::new(changes, "h:4222".into(), CancellationToken::new(), denials.clone());
        listener.hear(Event::Connected);
        listener.hear(Event::Disconnected);
        assert_eq!(*seen.borrow(), Connection { connected: false, epoch: 1 });
        listener.hear(Event::Connected);
        assert_eq!(*seen.borrow(), Connection { connected: true, epoch: 2 });
        for _ in 0..3 {
            let text = "Permissions Violation for Publish to \"a\"";
            listener.hear(Event::ServerError(ServerError::Other(text.into())));
        }
        let purge = "Permissions Violation for Publish to \"$JS.API.STREAM.PURGE.S\"";
        listener.hear(Event::ServerError(ServerError::Other(purge.into())));
        assert_eq!(denials.0.lock().expect("not poisoned").len(), 1);
        let now = Instant::now();
        assert_eq!(denials.recent(now).as_deref(), Some("publish a"));
        assert_eq!(denials.recent(now + RECENT), None);
        assert!(!denials.note("publish", "a", now + RECENT), "it was warned about");
        assert_eq!(denials.recent(now + RECENT).as_deref(), Some("publish a"));
    }
}
