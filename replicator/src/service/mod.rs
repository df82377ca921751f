//! The replicator's loop: it picks what happens next, and hands each event to [`work`](crate::work).

mod asked;
mod hints;
mod intake;
mod neighbours;
mod sessions;
mod told;
mod upkeep;
mod urgent;
mod work;

pub use urgent::{Answer, Begun, End, Nothing, Urgent};

use crate::{
    check::{Check, read_page},
    node::{ApplyError, Node},
    space::Waiting,
    tracker::Tracker,
    work::{Item, Tried},
};
use common::{
    blobs::BlobStore,
    broker::BrokerError,
    error_chain,
    event::Version,
    hash::ContentHash,
    index::{Generation, IndexError},
    log::{EventLog, Follower, Logged},
    nodes::{ReportError, Reporter},
    troubles::Troubles,
    trust::Session,
};
use sessions::{Followed, next};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Events taken and not yet begun.
const READY: usize = 256;
/// How often the loop looks after itself.
const TICK: Duration = Duration::from_millis(200);
/// How often what is in work is reported as such to the broker, which waits 30 s.
const PROGRESS: Duration = Duration::from_secs(10);
/// How often the trash is looked after.
const UPKEEP: Duration = Duration::from_secs(2);
/// Until a broker that is connected but does not answer is asked again.
const SESSION_RETRY: Duration = Duration::from_millis(500);
/// What is waited for when the disk under the index is full.
const STATE_DISK: &str = "";
/// Blobs asked for at most.
const WANTED: usize = 1000;

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// An event showed that nothing here can be trusted.
    #[error(transparent)]
    Halted(ApplyError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Another process writes under this node's name.
    #[error(transparent)]
    Report(#[from] ReportError),
}

struct Ended<D> {
    item: Item<D>,
    generation: Generation,
    result: Result<Tried, ApplyError>,
    took: Duration,
}

struct Read {
    generation: Generation,
    result: Result<(Vec<Logged>, Version), BrokerError>,
}

/// A path whose event is in work.
struct Busy<D> {
    /// It is being tried now, rather than resting before the next try.
    running: bool,
    /// Its later events, in order.
    waiting: VecDeque<Item<D>>,
}

type DeliveryOf<L> = <<L as EventLog>::Follower as Follower>::Delivery;

/// The loop's state.
pub struct Service<L: EventLog, B> {
    node: Arc<Node<L, B>>,
    transfers: usize,
    trash_days: u64,
    session: Option<Session>,
    next_session: Instant,
    tracker: Tracker,
    stored: Version,
    /// Ready to be tried: what the consumer delivered now goes before what is read again.
    fresh: VecDeque<Item<DeliveryOf<L>>>,
    again: VecDeque<Item<DeliveryOf<L>>>,
    /// What is to be applied out of turn.
    desk: urgent::Desk<DeliveryOf<L>>,
    listening: hints::Listening,
    /// By subject: one event of a path at a time.
    busy: HashMap<String, Busy<DeliveryOf<L>>>,
    work: JoinSet<Ended<DeliveryOf<L>>>,
    pauses: JoinSet<Item<DeliveryOf<L>>>,
    reads: JoinSet<Read>,
    /// Where the log ends, as far as that matters to what is read of it.
    log_end: Version,
    outstanding: HashMap<Version, Arc<DeliveryOf<L>>>,
    /// When each event that is not applied yet was taken.
    taken: BTreeMap<Version, Instant>,
    check: Option<Check>,
    /// The broker was away, or the process was, since the log was read through.
    unchecked: bool,
    upkeep: JoinSet<Result<(), ApplyError>>,
    /// Names in `.mirror/tmp` that an earlier run has left, until they are tidied.
    left: Option<Arc<[String]>>,
    tidying: JoinSet<Result<(), ApplyError>>,
    wanted: BTreeSet<ContentHash>,
    wanted_changed: bool,
    /// Wanted by a check, not by an event.
    asked: BTreeSet<ContentHash>,
    repairs: JoinSet<asked::Repairs>,
    restock: JoinSet<Result<(), ApplyError>>,
    restocked: Instant,
    held_said: bool,
    heeded: neighbours::Heeded,
    /// What is slow and may wait looks at it.
    busy_now: Arc<AtomicBool>,
    room: Waiting,
    troubles: Troubles,
    last_error: Option<String>,
}

impl<L: EventLog, B: BlobStore> Service<L, B> {
    /// Nothing is touched yet. `transfers`: events in work at once.
    pub fn new(node: Node<L, B>, transfers: usize, trash_days: u64) -> Self {
        Self {
            node: Arc::new(node),
            transfers,
            trash_days,
            session: None,
            next_session: Instant::now(),
            tracker: Tracker::default(),
            stored: Version::ZERO,
            fresh: VecDeque::new(),
            again: VecDeque::new(),
            desk: urgent::Desk::new(),
            listening: hints::Listening::new(),
            busy: HashMap::new(),
            work: JoinSet::new(),
            pauses: JoinSet::new(),
            reads: JoinSet::new(),
            log_end: Version::ZERO,
            outstanding: HashMap::new(),
            taken: BTreeMap::new(),
            check: None,
            unchecked: true,
            upkeep: JoinSet::new(),
            left: None,
            tidying: JoinSet::new(),
            wanted: BTreeSet::new(),
            wanted_changed: false,
            asked: BTreeSet::new(),
            repairs: JoinSet::new(),
            restock: JoinSet::new(),
            restocked: Instant::now(),
            held_said: false,
            heeded: neighbours::Heeded::default(),
            busy_now: Arc::default(),
            room: Waiting::default(),
            troubles: Troubles::default(),
            last_error: None,
        }
    }

    /// What the stages share, and whether there is work: for what goes on beside the loop.
    pub fn beside(&self) -> (Arc<Node<L, B>>, Arc<AtomicBool>) {
        (Arc::clone(&self.node), Arc::clone(&self.busy_now))
    }

    /// Runs until it is told to stop. What is in flight then is finished, or comes again at the next start.
    pub async fn run(mut self, mut reporter: Reporter, stop: CancellationToken) -> Result<(), ServiceError> {
        let mut follower: Option<Followed<DeliveryOf<L>>> = None;
        let mut connection = reporter.connection();
        let (mut tick, mut progress) = (interval(TICK), interval(PROGRESS));
        let (mut asking, mut keep) = (asked::asking(), interval(UPKEEP));
        for timer in [&mut tick, &mut progress, &mut keep] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = self.work.join_next(), if !self.work.is_empty() => self.end(panics(ended)).await?,
                delivered = next(&mut follower), if self.fresh.len() < READY => match delivered {
                    Ok(delivery) => self.take(delivery),
                    Err(error) => {
                        self.trouble(error_chain(&error));
                        self.end_session();
                        self.next_session = Instant::now() + SESSION_RETRY;
                    }
                },
                Some(ask) = self.desk.asks.recv(), if self.desk.is_open() => self.take_ask(ask),
                hint = hints::next(&mut self.listening) => self.take_hint(hint),
                Some(looked) = self.desk.looks.join_next(), if !self.desk.looks.is_empty() => self.take_looked(panics(looked)),
                Some(item) = self.pauses.join_next(), if !self.pauses.is_empty() => self.fresh.push_back(panics(item)),
                Some(read) = self.reads.join_next(), if !self.reads.is_empty() => self.take_read(panics(read)),
                Some(done) = self.upkeep.join_next(), if !self.upkeep.is_empty() => self.kept_up(panics(done))?,
                Some(done) = self.tidying.join_next(), if !self.tidying.is_empty() => self.tidied(panics(done)),
                page = read_page(&mut self.check) => {
                    let missing = self.check.as_mut().map(|check| check.take(page)).unwrap_or_default();
                    self.take_again(missing);
                }
                Ok(()) = connection.changed() => {
                    self.unchecked = true;
                    self.end_session();
                }
                () = sleep_until(self.next_session), if self.session.is_none() && connection.borrow().connected => {
                    follower = self.begin_session().await?;
                }
                _ = progress.tick() => self.report_progress(),
                _ = asking.tick(), if self.session.is_some() => self.look_for_asked()?,
                Some(found) = self.repairs.join_next(), if !self.repairs.is_empty() => self.take_repairs(panics(found)).await?,
                Some(done) = self.restock.join_next(), if !self.restock.is_empty() => self.restocked(panics(done)),
                _ = keep.tick() => self.keep_up(),
                _ = tick.tick() => self.look_after(&mut reporter).await?,
            }
            if self.session.is_none() {
                follower = None;
            }
            self.read_on();
            self.check_on();
            self.start();
        }
        self.wind_down().await;
        let stored = self.store_version().await;
        self.unless_full(stored)?;
        reporter.stopping(&self.node.index, &self.node.root).await;
        Ok(())
    }
}

/// A task that panicked takes the service with it.
fn panics<T>(joined: Result<T, tokio::task::JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
