//! Hints: what is published, as it happens, for a node that would come to it late.
//!
//! A plain subscription to the log's subjects, which costs the broker no consumer. It sees each publish before the log has stored it, and also those that the log refuses;
//! while nobody listens, or when more come than are taken, there are none. So a hint says where to look, and nothing else.

use super::BrokerError;
use crate::{event::Event, event::Version, path::MediaPath, subject::Subjects};
use async_nats::Client;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Hints that wait to be taken. What comes while there are so many is left out.
const HELD: usize = 64;

/// Somebody publishes something about this path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint {
    /// The path.
    pub path: MediaPath,
    /// The path's event so far, as the writer saw it: once the log has stored what the hint is of, the path's newest event is above this.
    pub replaces: Version,
}

impl Hint {
    pub(super) fn of(event: Event) -> Self {
        Self { path: event.path, replaces: event.replaces }
    }
}

/// Hints from now on, until this is dropped.
pub struct Hints {
    received: mpsc::Receiver<Hint>,
    _task: AbortOnDropHandle<()>,
}

impl Hints {
    pub(super) fn start<F: Future<Output = ()> + Send + 'static>(
        listen: impl FnOnce(mpsc::Sender<Hint>) -> F,
    ) -> Self {
        let (sender, received) = mpsc::channel(HELD);
        Self { received, _task: AbortOnDropHandle::new(tokio::spawn(listen(sender))) }
    }

    /// What a client sees on the log's subjects.
    pub(super) async fn subscribe(client: &Client, subjects: Subjects) -> Result<Self, BrokerError> {
        let mut published = client.subscribe(subjects.all()).await.map_err(|error| BrokerError::Away {
            doing: format!("subscribing to {}", subjects.all()),
            reason: error.to_string(),
        })?;
        Ok(Self::start(async move |sender| {
            while let Some(message) = published.next().await {
                // Decoded only when it can be held.
                if let Ok(room) = sender.try_reserve()
                    && let Ok(event) = Event::decode(&subjects, &message.subject, &message.payload)
                {
                    room.send(Hint::of(event));
                }
            }
        }))
    }

    /// The next one. `None`: there will be no more. Safe to drop.
    pub async fn next(&mut self) -> Option<Hint> {
        self.received.recv().await
    }
}
