//! A session begins when the log was looked at and is trusted, and ends with the connection.

use super::{DeliveryOf, SESSION_RETRY, STATE_DISK, Service, ServiceError};
use crate::{
    check::{self, Check},
    node::{ApplyError, Next},
    recovery,
    tracker::Tracker,
    upkeep::PROBE,
};
use common::{
    blobs::BlobStore,
    broker::BrokerError,
    error_chain,
    hash::ContentHash,
    log::{EventLog, Follower},
    place::left_behind,
    root::UPLOAD,
};
use std::sync::Arc;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;

/// Events that the consumer's task holds for the loop.
const DELIVERED: usize = 64;

impl<L: EventLog, B: BlobStore> Service<L, B> {
    pub(super) fn end_session(&mut self) {
        self.session = None;
        self.next_session = Instant::now();
        // All of it is read again, or delivered again.
        self.fresh.clear();
        self.again.clear();
        self.desk.clear();
        self.listening.clear();
        self.unchecked |= self.check.take().is_some();
        self.outstanding.clear();
        self.taken.clear();
        self.room.forget_all_but(STATE_DISK);
        self.reads.abort_all();
        self.reads.detach_all();
        self.forget_asked();
        self.pauses.abort_all();
        self.pauses.detach_all();
        // What rests was taken away with its rest; what runs ends by itself.
        self.busy.retain(|_, busy| busy.running);
        self.busy.values_mut().for_each(|busy| busy.waiting.clear());
    }

    /// Looks at the log before anything is applied (rule 9); finishes what an earlier run began; then reads again what was delivered and not applied, rather than
    /// waiting until the broker delivers it again.
    pub(super) async fn begin_session(&mut self) -> Result<Option<Followed<DeliveryOf<L>>>, ServiceError> {
        let node = Arc::clone(&self.node);
        let begun = async {
            let Some(session) = node.trust().await? else { return Ok(None) };
            let finished = async {
                recovery::resolve_abandoned(&node).await?;
                if self.left.is_none() {
                    self.left = Some({
                        // The watcher's are in use, or it tidies them itself.
                        let ours = |name: &str| !name.starts_with(PROBE) && !name.starts_with(UPLOAD);
                        left_behind(&node.root, &node.index, ours).await?.into()
                    });
                }
                Ok::<_, ApplyError>(())
            };
            let followed = async {
                let mut follower = node.log.follow(&node.name).await?;
                let consumer = follower.state().await?;
                Ok::<_, ApplyError>((follower, consumer))
            };
            let ((), (follower, consumer)) = tokio::try_join!(finished, followed)?;
            Ok::<_, ApplyError>(Some((session, follower, consumer)))
        };
        match begun.await {
            Ok(None) => Ok(None),
            Ok(Some((session, follower, consumer))) => {
                if let Some(why) = &session.began {
                    tracing::warn!(%why, generation = session.generation.0, "the log is read again from its start");
                }
                self.tidy();
                let state = self.node.index.node()?;
                self.tracker = Tracker::new(state.version, state.at_version.clone());
                for (from, to) in &state.beyond {
                    tracing::debug!(%from, %to, "applied past the version before");
                }
                self.stored = state.version;
                let delivered = consumer.delivered.max(consumer.acknowledged);
                self.look_at_consumer(delivered, session.log.last, state.version);
                self.tracker.read_after(delivered);
                self.log_end = session.log.last;
                self.listening.undelivered = consumer.pending;
                tracing::info!(version = %state.version, head = %session.log.last, "the log is trusted; following");
                if check::is_due(std::mem::take(&mut self.unchecked), &state) {
                    self.check = Some(Check::new(session.generation, session.log.last));
                }
                self.session = Some(session);
                self.wanted_changed = true;
                Ok(Some(Followed::start(follower)))
            }
            Err(error) => match error.next(ContentHash::of_nothing()) {
                Next::Halt => Err(ServiceError::Halted(error)),
                Next::Pause => {
                    self.room.add(STATE_DISK, error_chain(&error));
                    self.next_session = Instant::now() + SESSION_RETRY;
                    Ok(None)
                }
                _ => {
                    self.trouble(error_chain(&error));
                    self.next_session = Instant::now() + SESSION_RETRY;
                    Ok(None)
                }
            },
        }
    }
}

/// The consumer on a task of its own, so that whatever it does to recover is not cut short by what else happens here.
pub(super) struct Followed<D> {
    delivered: mpsc::Receiver<Result<D, BrokerError>>,
    _task: AbortOnDropHandle<()>,
}

impl<D: Send + 'static> Followed<D> {
    fn start<F: Follower<Delivery = D>>(mut follower: F) -> Self {
        let (sender, delivered) = mpsc::channel(DELIVERED);
        let task = tokio::spawn(async move {
            loop {
                let next = follower.next().await;
                let failed = next.is_err();
                if sender.send(next).await.is_err() || failed {
                    return;
                }
            }
        });
        Self { delivered, _task: AbortOnDropHandle::new(task) }
    }
}

pub(super) async fn next<D>(followed: &mut Option<Followed<D>>) -> Result<D, BrokerError> {
    let ended = || BrokerError::Away {
        doing: "following the log".into(),
        reason: "the consumer's task ended".into(),
    };
    match followed {
        Some(followed) => followed.delivered.recv().await.unwrap_or_else(|| Err(ended())),
        None => std::future::pending().await,
    }
}
