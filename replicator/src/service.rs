//! The replicator's loop: it picks what happens next, and hands each event to [`work`](crate::work).

mod asked;
mod neighbours;
mod told;

use crate::{
    apply::Outcome,
    check::{self, Check, read_page},
    node::{ApplyError, Next, Node},
    parts, recovery,
    space::Waiting,
    tracker::Tracker,
    upkeep,
    work::{Item, Tried, try_once},
};
use common::{
    blobs::BlobStore,
    broker::BrokerError,
    error_chain,
    event::Version,
    hash::ContentHash,
    index::{Generation, IndexError, Landmark},
    log::{Delivery, EventLog, Follower, Logged},
    nodes::{NodeRunState, Progress, ReportError, Reporter},
    time::Timestamp,
    trust::Session,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Events taken and not yet begun.
const READY: usize = 256;
/// Events that the consumer's task holds for the loop.
const DELIVERED: usize = 64;
/// Events read at once by Direct Get.
const READ: usize = 256;
/// How often the loop looks after itself.
const TICK: Duration = Duration::from_millis(200);
/// How often what is in work is reported as such to the broker, which waits 30 s.
const PROGRESS: Duration = Duration::from_secs(10);
/// How often the trash is looked after.
const UPKEEP: Duration = Duration::from_secs(2);
/// Until a broker that is connected but does not answer is asked again.
const SESSION_RETRY: Duration = Duration::from_millis(500);
/// Events that wait, for room or for their next try, while more are read again at most: what is not read costs no memory.
const WAITING: usize = 4096;
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
    last_trouble: Option<String>,
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
            last_trouble: None,
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

    // ---- sessions -----------------------------------------------------------------------------------------------

    fn end_session(&mut self) {
        self.session = None;
        self.next_session = Instant::now();
        // All of it is read again, or delivered again.
        self.fresh.clear();
        self.again.clear();
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
    async fn begin_session(&mut self) -> Result<Option<Followed<DeliveryOf<L>>>, ServiceError> {
        let node = Arc::clone(&self.node);
        let begun = async {
            let Some(session) = node.trust().await? else { return Ok(None) };
            let finished = async {
                recovery::resolve_abandoned(&node).await?;
                if self.left.is_none() {
                    self.left = Some(upkeep::left_behind(&node).await?.into());
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

    // ---- events in ----------------------------------------------------------------------------------------------

    fn take(&mut self, delivery: DeliveryOf<L>) {
        let delivery = Arc::new(delivery);
        let logged = delivery.logged().clone();
        self.tracker.begin(logged.version);
        self.taken.entry(logged.version).or_insert_with(Instant::now);
        self.outstanding.insert(logged.version, Arc::clone(&delivery));
        self.fresh.push_back(Item::new(logged, Some(delivery)));
    }

    fn read_on(&mut self) {
        let Some((from, to)) = self.tracker.to_read(self.log_end) else { return };
        let enough = self.again.len() >= READY || self.pauses.len() >= WAITING;
        if !self.reads.is_empty() || enough || self.session.is_none() {
            return;
        }
        let Ok(state) = self.node.index.node() else { return };
        // In the first reading of a generation only the newest event of each path counts (rule 12).
        let newest_only = state.fresh && !state.log_read;
        let (log, generation) = (self.node.log.clone(), state.generation);
        self.reads.spawn(async move {
            let result = read(&log, from, to, newest_only).await;
            Read { generation, result }
        });
    }

    fn take_read(&mut self, read: Read) {
        if self.session.as_ref().is_none_or(|session| session.generation != read.generation) {
            return;
        }
        match read.result {
            Ok((events, next)) => {
                self.take_again(events);
                self.tracker.read_up_to(next);
            }
            Err(error) => {
                self.trouble(error_chain(&error));
                self.end_session();
                self.next_session = Instant::now() + SESSION_RETRY;
            }
        }
    }

    fn take_again(&mut self, events: Vec<Logged>) {
        for logged in events {
            self.tracker.begin(logged.version);
            self.taken.entry(logged.version).or_insert_with(Instant::now);
            self.again.push_back(Item::new(logged, None));
        }
    }

    /// Goes on with the check while nothing waits.
    fn check_on(&mut self) {
        self.check.take_if(|check| check.is_over());
        let waiting = !self.fresh.is_empty() || !self.again.is_empty() || self.is_reading();
        let (version, idle) = (self.tracker.version().0, self.pending() == 0);
        if let Some(check) = self.check.as_mut().filter(|_| !waiting) {
            check.go_on(&self.node.log, &self.node.index, version, idle);
        }
    }

    // ---- work ---------------------------------------------------------------------------------------------------

    fn start(&mut self) {
        let Some(session) = self.session.clone() else { return };
        while self.work.len() < self.transfers {
            let Some(item) = self.fresh.pop_front().or_else(|| self.again.pop_front()) else { break };
            // A path whose event pauses stays busy, so that its events stay in order.
            let begun = item.failing.is_some();
            match self.busy.get_mut(&item.logged.subject) {
                Some(busy) if !begun || busy.running => {
                    busy.waiting.push_back(item);
                    continue;
                }
                Some(busy) => busy.running = true,
                None => {
                    let busy = Busy { running: true, waiting: VecDeque::new() };
                    self.busy.insert(item.logged.subject.clone(), busy);
                }
            }
            let (node, session) = (Arc::clone(&self.node), session.clone());
            self.work.spawn(async move {
                let began = Instant::now();
                let result = try_once(&node, &session, &item).await;
                Ended { item, generation: session.generation, result, took: began.elapsed() }
            });
        }
    }

    async fn end(&mut self, ended: Ended<DeliveryOf<L>>) -> Result<(), ServiceError> {
        let Ended { mut item, generation, result, took } = ended;
        let current = self.session.as_ref().is_some_and(|session| session.generation == generation);
        match result {
            Ok(Tried::Done(outcome)) => {
                self.say(&item, outcome, took);
                if let Ok(event) = &item.logged.event
                    && self.wanted.remove(&event.sha256)
                {
                    self.wanted_changed = true;
                }
                self.applied(&item, current).await;
            }
            Ok(Tried::Parked { reason, permanent }) => {
                let logged = &item.logged;
                if item.parked.is_none() {
                    tracing::error!(version = %logged.version, subject = %logged.subject, reason, permanent, "parked");
                }
                self.last_error = Some(reason);
                self.applied(&item, current).await;
            }
            Ok(Tried::Held) => {
                self.say_held();
                self.applied(&item, current).await;
            }
            Ok(Tried::Rested { reason }) => self.trouble(reason),
            Ok(Tried::NoRoom { reason, need }) => {
                self.room.add(&item.logged.subject, reason);
                if current {
                    let (node, version) = (Arc::clone(&self.node), item.logged.version);
                    let item = self.newest_first(item);
                    let need = need.filter(|_| item.logged.version == version);
                    self.rest(item, async move { node.space.wait(need).await }, true);
                    return Ok(());
                }
            }
            Ok(Tried::Again { reason, pause, want }) => {
                self.room.remove(&item.logged.subject);
                if let Some(content) = want
                    && self.wanted.len() < WANTED
                {
                    self.wanted_changed |= self.wanted.insert(content);
                }
                self.trouble(reason);
                if current {
                    item.tries += 1;
                    self.rest(item, sleep(pause), false);
                    return Ok(());
                }
            }
            Ok(Tried::SessionOver) => {
                if current {
                    self.end_session();
                }
            }
            Ok(Tried::Halt(error)) => return Err(ServiceError::Halted(error)),
            Err(error) => {
                match error.next(ContentHash::of_nothing()) {
                    Next::Pause => self.room.add(STATE_DISK, error_chain(&error)),
                    _ => self.trouble(error_chain(&error)),
                }
                if current {
                    self.end_session();
                    self.next_session = Instant::now() + SESSION_RETRY;
                }
            }
        }
        self.room.remove(&item.logged.subject);
        self.free(&item.logged.subject);
        Ok(())
    }

    /// What there is no room for may be replaced or removed by now: the newest event of its path goes first, and the others find themselves superseded.
    fn newest_first(&mut self, item: Item<DeliveryOf<L>>) -> Item<DeliveryOf<L>> {
        let Some(busy) = self.busy.get_mut(&item.logged.subject) else { return item };
        match busy.waiting.pop_back() {
            Some(newest) if newest.logged.version > item.logged.version => {
                busy.waiting.push_front(item);
                newest
            }
            older => {
                busy.waiting.extend(older);
                item
            }
        }
    }

    /// Lets an event rest until its next try. `full`: time in which there was no room does not count as failing (rule 11).
    fn rest(
        &mut self,
        mut item: Item<DeliveryOf<L>>,
        pause: impl Future<Output = ()> + Send + 'static,
        full: bool,
    ) {
        item.failing = item.failing.filter(|_| !full).or(Some(Instant::now()));
        if let Some(busy) = self.busy.get_mut(&item.logged.subject) {
            busy.running = false;
        }
        self.pauses.spawn(async move {
            pause.await;
            if full {
                item.failing = Some(Instant::now());
            }
            item
        });
    }

    /// The path's next event may go.
    fn free(&mut self, subject: &str) {
        if let Some(mut busy) = self.busy.remove(subject) {
            while let Some(item) = busy.waiting.pop_back() {
                self.fresh.push_front(item);
            }
        }
    }

    async fn applied(&mut self, item: &Item<DeliveryOf<L>>, current: bool) {
        if item.repair.is_some() {
            return; // The version does not depend on it.
        }
        if current {
            let event = item.logged.id(self.node.log.subjects());
            let subject = item.logged.subject.clone();
            self.tracker.end(Landmark { version: item.logged.version, subject, event });
        }
        self.outstanding.remove(&item.logged.version);
        self.taken.remove(&item.logged.version);
        self.node.vitals.got_done();
        if let Some(delivery) = &item.delivery {
            delivery.acknowledge().await;
        }
    }

    fn say(&mut self, item: &Item<DeliveryOf<L>>, outcome: Outcome, took: Duration) {
        let Ok(event) = &item.logged.event else { return };
        let (version, path, elapsed_ms) = (item.logged.version, &event.path, took.as_millis());
        let bytes = event.added.map(|added| added.size);
        let latency = Timestamp::now().seconds_since(event.detected).max(0.0);
        let latency_ms = (latency * 1000.0).round();
        self.count(outcome, latency);
        match outcome {
            Outcome::Placed { fetched } => {
                tracing::info!(%version, %path, bytes, fetched, elapsed_ms, latency_ms, from = %event.node, "placed");
            }
            Outcome::Removed => {
                tracing::info!(%version, %path, elapsed_ms, latency_ms, from = %event.node, "removed")
            }
            Outcome::Kept => {
                tracing::warn!(%version, %path, "what stands here stays, for the watcher to publish")
            }
            Outcome::LeftAlone => {
                tracing::warn!(%version, %path, "removed elsewhere; what stands here was left alone")
            }
            Outcome::Superseded | Outcome::Own | Outcome::Adopted | Outcome::Gone => {
                tracing::debug!(%version, %path, ?outcome, "applied");
            }
        }
    }

    /// One warning when trouble begins, not one for each event.
    fn trouble(&mut self, text: String) {
        if self.last_trouble.as_ref() != Some(&text) {
            tracing::warn!(error = %text, "will be tried again");
        }
        self.last_error = Some(text.clone());
        self.last_trouble = Some(text);
    }

    // ---- now and then -------------------------------------------------------------------------------------------

    async fn look_after(&mut self, reporter: &mut Reporter) -> Result<(), ServiceError> {
        let node = self.node.index.node()?;
        if self.session.as_ref().is_some_and(|session| session.generation != node.generation || node.restored)
        {
            self.end_session();
        }
        let stored = self.store_version().await;
        let has_room = stored.is_ok() && self.room.has(STATE_DISK);
        self.unless_full(stored)?;
        if has_room && self.node.index.write(|tx| tx.probe()).await.is_ok() {
            self.room.remove(STATE_DISK);
        }
        self.busy_now.store(self.pending() > 0, Ordering::Relaxed);
        if self.session.is_some() && self.tracker.reads_beyond(self.log_end) {
            self.follow_by_reading().await;
        }
        if self.work.is_empty() && self.pauses.is_empty() {
            self.last_trouble = None;
            if self.is_idle() {
                self.room.idle();
            }
        }
        if self.wanted_changed && self.session.is_some() {
            self.wanted_changed = false;
            reporter.want(self.wanted_list());
        }
        let progress = self.tell(Progress {
            state: self.state(),
            head: self.session.as_ref().map(|session| session.log.last),
            version: Some(self.tracker.version().0),
            beyond: self.tracker.beyond(),
            pending: self.pending(),
            diverged: None,
            underway: None,
            last_error: self.room.reason().or_else(|| self.last_error.clone()),
        });
        reporter.write(&self.node.index, &self.node.root, progress).await?;
        Ok(())
    }

    fn pending(&self) -> u64 {
        (self.fresh.len() + self.again.len() + self.work.len() + self.pauses.len()) as u64
    }

    fn state(&self) -> NodeRunState {
        match &self.session {
            None if self.stored == Version::ZERO => NodeRunState::Starting,
            None => NodeRunState::Degraded,
            Some(_) if self.room.reason().is_some() => NodeRunState::Degraded,
            Some(session) if self.tracker.version().0 < session.log.last => NodeRunState::Syncing,
            Some(_) if self.pending() > 0 => NodeRunState::Syncing,
            Some(_) if self.node.index.parked_count().unwrap_or(0) > 0 => NodeRunState::Degraded,
            Some(_) => NodeRunState::Ready,
        }
    }

    /// Acknowledged events may lie above the stored version after a crash: they are read again then, and found superseded.
    async fn store_version(&mut self) -> Result<(), ServiceError> {
        let Some(session) = &self.session else { return Ok(()) };
        let (version, at_version) = self.tracker.version();
        let state = self.node.index.node()?;
        let log_read = version >= session.log.last && !self.is_reading();
        if version == self.stored && (state.log_read || !log_read) {
            return Ok(());
        }
        let (at_version, beyond, generation) =
            (at_version.cloned(), self.tracker.beyond(), session.generation);
        self.node
            .index
            .write(move |tx| {
                let node = tx.node_mut();
                if node.generation == generation {
                    node.version = version;
                    node.at_version = at_version.or(node.at_version.take());
                    node.beyond = beyond;
                    node.log_read |= log_read;
                }
                Ok(())
            })
            .await?;
        self.stored = version;
        Ok(())
    }

    /// Waits for the disk under the index as for any other: what could not be written now is written with the next look.
    fn unless_full(&mut self, written: Result<(), ServiceError>) -> Result<(), ServiceError> {
        match written {
            Err(ServiceError::Index(error)) if error.is_full() => {
                self.room.add(STATE_DISK, error_chain(&error));
                Ok(())
            }
            Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Everything that the log had when it was looked at is applied or parked.
    fn is_idle(&self) -> bool {
        let head = self.session.as_ref().map(|session| session.log.last);
        let caught_up = head.is_some_and(|head| self.tracker.version().0 >= head);
        caught_up && !self.is_reading() && self.pending() == 0
    }

    fn keep_up(&mut self) {
        self.tidy();
        if self.upkeep.is_empty() {
            let (node, days, idle) = (Arc::clone(&self.node), self.trash_days, self.is_idle());
            self.upkeep.spawn(async move {
                parts::drop_unwanted(&node, idle).await?;
                Ok(upkeep::run(&node, days).await?)
            });
        }
    }

    fn kept_up(&mut self, done: Result<(), ApplyError>) -> Result<(), ServiceError> {
        match done {
            Ok(()) => {}
            Err(ApplyError::Index(error)) => self.unless_full(Err(error.into()))?,
            Err(error) => self.trouble(error_chain(&error)),
        }
        Ok(())
    }

    /// Beside the work: what was left may have to be read.
    fn tidy(&mut self) {
        if let (true, Some(left)) =
            (self.tidying.is_empty(), self.left.clone().filter(|left| !left.is_empty()))
        {
            let node = Arc::clone(&self.node);
            self.tidying.spawn(async move { upkeep::tidy_temp(&node, &left).await });
        }
    }

    fn tidied(&mut self, done: Result<(), ApplyError>) {
        match done {
            Ok(()) => self.left = Some(Arc::default()),
            Err(error) => self.trouble(error_chain(&error)),
        }
    }

    /// Something of the log is still to be read.
    fn is_reading(&self) -> bool {
        self.tracker.to_read(self.log_end).is_some()
    }

    /// The consumer is ahead of its log: what is new is read by Direct Get until the log has passed it.
    async fn follow_by_reading(&mut self) {
        if let Ok(state) = self.node.log.state().await {
            self.log_end = state.last;
        }
    }

    fn report_progress(&self) {
        for delivery in self.outstanding.values() {
            let delivery = Arc::clone(delivery);
            tokio::spawn(async move { delivery.progress().await });
        }
    }

    /// Lets what is in flight end, within the time a process has to stop.
    async fn wind_down(&mut self) {
        let deadline = sleep(Duration::from_secs(5));
        tokio::pin!(deadline);
        while !self.work.is_empty() {
            tokio::select! {
                () = &mut deadline => break,
                ended = self.work.join_next() => {
                    if let Some(Ok(ended)) = ended {
                        let _ = self.end(ended).await;
                    }
                }
            }
        }
        self.work.abort_all();
    }
}

/// Events from `from` to `to`, and where to go on.
async fn read<L: EventLog>(
    log: &L,
    from: Version,
    to: Version,
    newest_only: bool,
) -> Result<(Vec<Logged>, Version), BrokerError> {
    let mut events = log.read(from, READ).await?;
    let next = events.last().map_or(to, |last| last.version.min(to)).next();
    events.retain(|logged| logged.version <= to);
    if newest_only {
        let paths: Vec<_> =
            events.iter().filter_map(|logged| Some(logged.event.as_ref().ok()?.path.clone())).collect();
        let newest: BTreeSet<Version> =
            log.lasts(&paths).await?.into_iter().flatten().map(|last| last.version).collect();
        events.retain(|logged| logged.event.is_err() || newest.contains(&logged.version));
    }
    Ok((events, next))
}

/// The consumer on a task of its own, so that whatever it does to recover is not cut short by what else happens here.
struct Followed<D> {
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

async fn next<D>(followed: &mut Option<Followed<D>>) -> Result<D, BrokerError> {
    let ended = || BrokerError::Away {
        doing: "following the log".into(),
        reason: "the consumer's task ended".into(),
    };
    match followed {
        Some(followed) => followed.delivered.recv().await.unwrap_or_else(|| Err(ended())),
        None => std::future::pending().await,
    }
}

/// A task that panicked takes the service with it.
fn panics<T>(joined: Result<T, tokio::task::JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
