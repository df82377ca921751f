//! One try of one event, and what its failure comes to (rule 11).

use crate::{
    apply::{Outcome, apply},
    node::{ApplyError, Next, Node},
    repair::repair,
    space::make_room,
};
use backon::{BackoffBuilder, ExponentialBuilder};
use common::{
    blobs::BlobStore,
    error_chain,
    event::Event,
    hash::ContentHash,
    index::{Parked, Repair},
    log::{EventLog, Logged},
    time::Timestamp,
    trust::Session,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// An event that makes no progress for this long, while broker and disk are available, is parked.
pub const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a parked event rests before it is tried again, at first and at most.
const REST: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// A blob that was asked for in vain for this long, in seconds, will not come: the watcher may publish over its event.
const IN_VAIN: f64 = 86_400.0;

/// An event on its way.
pub struct Item<D> {
    /// What was delivered or read.
    pub logged: Arc<Logged>,
    /// To be acknowledged, when the consumer delivered it.
    pub delivery: Option<Arc<D>>,
    /// When it failed first.
    pub failing: Option<Instant>,
    /// How often it failed.
    pub tries: usize,
    /// It comes from the parked events, where it has been tried so often.
    pub parked: Option<u32>,
    /// It is brought to the disk once more, on request.
    pub repair: Option<Repair>,
    /// It is applied out of turn, once.
    pub urgent: bool,
}

impl<D> Item<D> {
    /// A new one.
    pub fn new(logged: Logged, delivery: Option<Arc<D>>) -> Self {
        let logged = Arc::new(logged);
        Self { logged, delivery, failing: None, tries: 0, parked: None, repair: None, urgent: false }
    }
}

/// What a try came to.
pub enum Tried {
    /// Applied.
    Done(Outcome),
    /// Set aside in the index until an operator answers (rule 8).
    Held,
    /// A repair that failed: it stays in the index, and rests.
    Rested { reason: String },
    /// Set aside in the index.
    Parked { reason: String, permanent: bool },
    /// To be tried again after a pause. `want`: the store does not have it, so the other nodes are asked.
    Again { reason: String, pause: Duration, want: Option<ContentHash> },
    /// To be tried again once there is room. `need`: the length of what it has to write, when that is what does not fit.
    NoRoom { reason: String, need: Option<u64> },
    /// To be tried again after a pause, however often.
    StoreAway { reason: String, pause: Duration },
    /// The log must be looked at first.
    SessionOver,
    /// Nothing here can be trusted.
    Halt(ApplyError),
}

/// Tries an event once.
pub async fn try_once<L: EventLog, B: BlobStore, D>(
    node: &Node<L, B>,
    session: &Session,
    item: &Item<D>,
) -> Result<Tried, ApplyError> {
    let logged = &item.logged;
    let event = match &logged.event {
        Ok(event) => event,
        Err(invalid) => {
            node.vitals.metrics.failed("decode", "invalid", false);
            return park(node, session, item, invalid.to_string(), true).await;
        }
    };
    let applied = match &item.repair {
        None => apply(node, session, logged, event).await,
        Some(_) => repair(node, session, logged, event).await,
    };
    let error = match applied {
        Ok(outcome) => {
            if let Some(Repair { path, since, .. }) = item.repair.clone() {
                node.index.write(move |tx| tx.end_repair(&path, since)).await?;
            }
            if item.parked.is_some() {
                let (subject, version) = (logged.subject.clone(), logged.version);
                node.index.write(move |tx| tx.unpark(&subject, version)).await?;
            }
            return Ok(Tried::Done(outcome));
        }
        Err(error) => error,
    };
    let reason = error_chain(&error);
    let next = error.next(event.sha256);
    let (stage, why) = error.label();
    node.vitals.metrics.failed(stage, why, !matches!(next, Next::Park | Next::Hold | Next::Halt));
    let want = match next {
        Next::Want(content) => Some(content),
        _ => None,
    };
    match next {
        Next::NewSession => Ok(Tried::SessionOver),
        Next::Halt => Ok(Tried::Halt(error)),
        Next::Park | Next::Hold if item.repair.is_some() => rest(node, item, reason).await,
        Next::Park => park(node, session, item, reason, true).await,
        Next::Hold => match park(node, session, item, reason, false).await? {
            Tried::Parked { .. } => Ok(Tried::Held),
            over => Ok(over),
        },
        Next::Pause => no_room(node, &error, event, reason).await,
        Next::StoreAway if item.parked.is_none() && item.repair.is_none() => {
            Ok(Tried::StoreAway { reason, pause: pause(item.tries) })
        }
        Next::Retry | Next::StoreAway | Next::Want(_) => {
            let tired = item.failing.is_some_and(|since| since.elapsed() > PATIENCE);
            if tired && item.repair.is_some() {
                return rest(node, item, reason).await;
            }
            if tired || item.parked.is_some() {
                let in_vain = want.is_some() && parked_for(node, item)? > IN_VAIN;
                return park(node, session, item, reason, in_vain).await;
            }
            Ok(Tried::Again { reason, pause: pause(item.tries), want })
        }
    }
}

/// A repair that fails for as long as an event may is tried again later, and given up after a day: the file's absence counts as absence then.
async fn rest<L: EventLog, B: BlobStore, D>(
    node: &Node<L, B>,
    item: &Item<D>,
    reason: String,
) -> Result<Tried, ApplyError> {
    let Some(Repair { path, since, tries }) = item.repair.clone() else {
        return Ok(Tried::Rested { reason });
    };
    let now = Timestamp::now();
    if now.seconds_since(since) > IN_VAIN {
        tracing::error!(%path, reason, "could not be repaired for a day: given up");
        node.index.write(move |tx| tx.end_repair(&path, since)).await?;
    } else {
        let next_try = later(now, resting(tries));
        node.index.write(move |tx| tx.rest_repair(&path, next_try)).await?;
    }
    Ok(Tried::Rested { reason })
}

fn resting(tries: u32) -> Duration {
    REST.0.saturating_mul(1 << tries.min(8)).min(REST.1)
}

fn later(now: Timestamp, rest: Duration) -> Timestamp {
    Timestamp::from_nanos(now.nanos() + i128::try_from(rest.as_nanos()).unwrap_or(0))
}

async fn no_room<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    error: &ApplyError,
    event: &Event,
    reason: String,
) -> Result<Tried, ApplyError> {
    let need = match error {
        ApplyError::NoRoom(lack) => Some(lack.need),
        _ => None,
    };
    // The root's disk had no room although it seemed to have: trash may be what is in the way.
    let refused = matches!(error, ApplyError::Disk(_) | ApplyError::Rename(_));
    let size = event.added.map_or(0, |added| added.size);
    if refused && make_room(node, size, true).await? {
        return Ok(Tried::Again { reason, pause: FIRST_PAUSE, want: None });
    }
    Ok(Tried::NoRoom { reason, need })
}

fn pause(tries: usize) -> Duration {
    let backoff = ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter();
    backoff.build().nth(tries.min(16)).unwrap_or(LONGEST_PAUSE)
}

/// For how many seconds this very event has been parked.
fn parked_for<L: EventLog, B: BlobStore, D>(node: &Node<L, B>, item: &Item<D>) -> Result<f64, ApplyError> {
    let Ok(event) = &item.logged.event else { return Ok(0.0) };
    let parked = node.index.parked_of(&event.path)?.filter(|parked| parked.version == item.logged.version);
    Ok(parked.map_or(0.0, |parked| Timestamp::now().seconds_since(parked.since)))
}

async fn park<L: EventLog, B: BlobStore, D>(
    node: &Node<L, B>,
    session: &Session,
    item: &Item<D>,
    reason: String,
    permanent: bool,
) -> Result<Tried, ApplyError> {
    let now = Timestamp::now();
    let tries = item.parked.map_or(0, |tries| tries + 1);
    let logged = &item.logged;
    let parked = Parked {
        subject: logged.subject.clone(),
        path: match &logged.event {
            Ok(event) => Some(event.path.clone()),
            Err(_) => node.log.subjects().path(&logged.subject),
        },
        version: logged.version,
        stamp: logged.time,
        payload: logged.payload.to_vec(),
        reason: reason.clone(),
        permanent,
        since: now,
        tries,
        next_try: later(now, resting(tries)),
    };
    let (generation, event) = (session.generation, logged.id(node.log.subjects()));
    let kept = node
        .index
        .write(move |tx| {
            if tx.node().generation != generation {
                return Ok(None);
            }
            // It is parked since it was parked first.
            let before = tx.parked(&parked.subject)?.filter(|before| before.version == parked.version);
            let since = before.map_or(parked.since, |before| before.since);
            tx.park(&Parked { since, ..parked }, event).map(Some)
        })
        .await?;
    Ok(match kept {
        Some(true) => Tried::Parked { reason, permanent },
        Some(false) => Tried::Done(Outcome::Superseded),
        None => Tried::SessionOver,
    })
}
