//! The connection and what is done on it: a session begins when the log was looked at and is trusted, and ends with the connection.

use super::{Online, Service, ServiceError};
use crate::{
    node::{Next, Node, PublishError},
    publish::settle_offers,
    settle::Why,
};
use common::{
    blobs::BlobStore, error_chain, log::EventLog, nodes::Reporter, path::MediaPath, trust::Session,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Until a broker that is connected but does not answer is asked again.
const SESSION_RETRY: Duration = Duration::from_millis(500);

/// What came of opening a session: `None`: there is no connection. With it the paths of offers that were settled.
pub(super) type Opened = Result<Option<(Session, Vec<MediaPath>)>, PublishError>;

impl<L: EventLog, B: BlobStore> Service<L, B> {
    /// The broker has been reached for the first time.
    pub(super) fn go_online(&mut self, online: Online<L, B>) -> Reporter {
        self.node = Some(Arc::new(online.node));
        let mut connection = online.reporter.connection();
        connection.mark_unchanged();
        self.connection = Some(connection);
        self.next_session = Instant::now();
        online.reporter
    }

    /// Whether there is a connection to the broker.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.borrow().connected)
    }

    /// The connection was lost, or it was lost and is there again.
    pub(super) fn lose_broker(&mut self) {
        self.away.get_or_insert_with(Instant::now);
        self.end_session();
    }

    pub(super) fn end_session(&mut self) {
        let now = Instant::now();
        self.session = None;
        self.live.send_replace(None);
        self.next_session = now;
        // The next session looks at everything again.
        self.checking = None;
        self.outbox.begin_again(now);
        for (path, waiting) in std::mem::take(&mut self.cleared) {
            self.keep(path, Why::Gone, waiting.since, now);
        }
    }

    /// Beside the loop, which goes on noticing while the broker takes its time.
    pub(super) fn open_session(&mut self) {
        let Some(node) = self.node.clone() else { return };
        // What is in flight settles its own.
        let idle = self.in_flight.is_empty();
        self.opening.spawn(async move { open(&node, idle).await });
    }

    pub(super) fn begin_session(&mut self, opened: Opened) -> Result<(), ServiceError> {
        let connection = self.connection.as_ref().map(|connection| *connection.borrow());
        let connected = connection.is_some_and(|connection| connection.connected);
        match opened {
            Ok(None) => Ok(()),
            // On the connection that is there now it may be another log.
            Ok(Some((session, _)))
                if connection.is_none_or(|now| now.epoch != session.epoch) || !connected =>
            {
                self.next_session = Instant::now();
                Ok(())
            }
            Ok(Some((session, offered))) => {
                self.say_begun(&session)?;
                let other = self.last_full.is_none_or(|(_, generation, _)| generation != session.generation);
                // What happened meanwhile was noticed as far as that goes; the scan is the proof.
                self.rescan |= other || self.away.take().is_some();
                self.live.send_replace(self.node.clone().zip(Some(session.clone())));
                self.session = Some(session);
                let now = Instant::now();
                for path in offered {
                    self.keep(path, Why::Again, now, now);
                }
                Ok(())
            }
            Err(error) if error.next() == Next::Halt => Err(ServiceError::Halted(error)),
            Err(error) => {
                match error.next() {
                    Next::Pause => self.pause.begin(error_chain(&error), Instant::now()),
                    Next::NewSession if !connected => {}
                    _ => self.trouble(&error),
                }
                self.next_session = Instant::now() + SESSION_RETRY;
                Ok(())
            }
        }
    }

    fn say_begun(&mut self, session: &Session) -> Result<(), ServiceError> {
        if let Some(why) = &session.began {
            tracing::warn!(%why, generation = session.generation.0, "the log is read again from its start");
        }
        self.outbox.count = self.index.outbox_count()?;
        let waiting = self.outbox.waiting() + self.settle.len() as u64;
        let away_s = self.away.map(|since| since.elapsed().as_secs());
        match (away_s, session.epoch) {
            (Some(away_s), 2..) => tracing::info!(away_s, waiting, "the broker is back; publishing"),
            (Some(waited_s), _) => tracing::info!(waited_s, waiting, "the log is trusted; publishing"),
            (None, _) => tracing::info!(waiting, "the log is trusted; publishing"),
        }
        Ok(())
    }
}

/// Looks at the log before anything is published (rule 9), then at what an earlier life of this process left.
async fn open<L: EventLog, B: BlobStore>(node: &Node<L, B>, idle: bool) -> Opened {
    let Some(session) = node.trust().await? else { return Ok(None) };
    for (path, intent) in node.index.intents()? {
        // One that cannot be finished keeps its own path waiting, and no other.
        if let Err(error) = node.resolve_abandoned(&path, &intent).await {
            tracing::warn!(%path, error = %error_chain(&error), "an intent cannot be finished yet");
        }
    }
    let offered = if idle { settle_offers(node, &session).await? } else { Vec::new() };
    Ok(Some((session, offered)))
}
