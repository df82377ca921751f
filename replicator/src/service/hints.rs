//! Fresh first: while this node is far behind, what is published now is applied out of turn, and the backlog is worked off beside it. [`Hints`] tell of it, and
//! [`urgent`](super::urgent) does the rest: the path's newest event is read by Direct Get and applied by the same rules as any other.
//!
//! A mass of uploads does not gain by it, as each event costs a question of its own here: at most [`PER_SECOND`] go this way, the others come in their turn.

use super::{Service, urgent::Asked};
use common::{
    blobs::BlobStore,
    error_chain,
    log::{EventLog, Hint, Hints},
};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::{num::NonZeroU32, time::Duration};

/// Events before a new one from which on it would come late.
const FAR: u64 = 1000;
/// Not so many any more: it comes in its turn soon enough.
const NEAR: u64 = 100;
/// Hints that are followed.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
/// Paths hinted at that are looked at, or applied, at once.
const AT_ONCE: usize = 32;
/// A hint may come before the log has the event: until the log is asked again. After the last of these the publish was refused.
pub(super) const LOOK_AGAIN: [Duration; 5] = [
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(100),
    Duration::from_millis(400),
];

/// Whether hints are listened to, and how many of them are followed.
pub(super) struct Listening {
    hints: Option<Hints>,
    /// What the consumer had not delivered when it was last heard of.
    pub(super) undelivered: u64,
    rate: DefaultDirectRateLimiter,
}

impl Listening {
    pub(super) fn new() -> Self {
        Self { hints: None, undelivered: 0, rate: RateLimiter::direct(Quota::per_second(PER_SECOND)) }
    }

    pub(super) fn clear(&mut self) {
        self.hints = None;
    }
}

/// The next hint, if there is a subscription.
pub(super) async fn next(listening: &mut Listening) -> Option<Hint> {
    match &mut listening.hints {
        Some(hints) => hints.next().await,
        None => std::future::pending().await,
    }
}

impl<L: EventLog, B: BlobStore> Service<L, B> {
    /// Events that a new one would have to wait for.
    fn before_a_new_one(&self) -> u64 {
        let to_read = self.tracker.to_read(self.log_end).map_or(0, |(from, to)| to.get() + 1 - from.get());
        self.listening.undelivered + to_read + self.pending()
    }

    /// Begins to listen when this node is far behind, and ends it when it is not any more.
    pub(super) async fn listen_while_behind(&mut self) {
        let before = self.before_a_new_one();
        match self.listening.hints {
            None if before >= FAR && self.session.is_some() => match self.node.log.hints().await {
                Ok(hints) => {
                    tracing::info!(behind = before, "far behind: what is published now is applied first");
                    self.listening.hints = Some(hints);
                }
                Err(error) => self.trouble(error_chain(&error)),
            },
            Some(_) if before <= NEAR => self.listening.clear(),
            _ => {}
        }
    }

    pub(super) fn take_hint(&mut self, hint: Option<Hint>) {
        let Some(hint) = hint else { return self.listening.clear() };
        if self.desk.in_hand() < AT_ONCE && self.listening.rate.check().is_ok() {
            self.look_at_newest(hint.path, Asked::ByHint(hint.replaces));
        }
    }
}
