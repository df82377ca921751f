//! How a process is: what its loop tells at each turn, what the log tells when it is asked, and what follows from both, for `/readyz`, `/metrics`, the node's
//! record and the service manager.
//!
//! The loop says that it turns by turning: nothing else feeds the watchdog.

mod health;
mod hook;
mod metrics;
pub mod neighbours;
mod notify;
pub mod probe;
mod samples;
pub mod table;
mod underway;

pub use health::{Health, Reason, Standstill, Verdict, judge};
pub use hook::Hook;
pub use metrics::{Direction, Metrics};
pub use samples::{Sample, Samples};
pub use underway::Long;

use crate::{
    blobs::Blobs,
    broker::{Broker, Connection, Denials},
    event::Version,
    index::{Index, IndexError},
    limits::RateLimit,
    nodes::{NodeRecord, NodeRunState, Progress, Reporter, Role, Underway},
    root::Root,
    settings::NotifySettings,
    time::Timestamp,
};
use health::{DEAD, Facts};
use metrics::number;
use neighbours::Neighbours;
use notify::Notify;
use probe::Probed;
use std::{
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, interval},
};
use tokio_util::sync::CancellationToken;
use underway::Course;

/// How often the index is counted for the metrics.
const COUNTS: Duration = Duration::from_secs(1);
/// How often a process that waits for the broker at its start says that it does.
const WAITING: Duration = Duration::from_secs(1);

/// What a loop tells at a turn.
pub struct Turn {
    /// What it is going to say in its record.
    pub progress: Progress,
    /// Whether the log is trusted.
    pub session: bool,
    /// Whether something waits for room.
    pub no_room: bool,
    /// Whether there is work that could go on now.
    pub work: bool,
    /// When the oldest work was begun.
    pub oldest: Option<Instant>,
    /// Something long that it is at.
    pub long: Option<Long>,
}

/// What is known of the loop.
struct Seen {
    turned: Instant,
    state: NodeRunState,
    version: Option<Version>,
    session: bool,
    no_room: bool,
    work: bool,
    oldest: Option<Instant>,
    /// What had got done when something last did, and when that was.
    done: (Version, u64, u64),
    moved: Instant,
    counted: Option<Instant>,
    parked: u64,
    held: u64,
    course: Course,
}

/// The vital signs of one process, shared by all who write or read them.
pub struct Vitals {
    /// The numbers.
    pub metrics: Metrics,
    /// The last hour.
    pub samples: Samples,
    /// The command that is told of changes.
    pub hook: Hook,
    role: Role,
    max_lag: Duration,
    stop: CancellationToken,
    notify: Option<Notify>,
    connection: OnceLock<(watch::Receiver<Connection>, Denials)>,
    blobs: OnceLock<Blobs>,
    record: OnceLock<watch::Receiver<Option<NodeRecord>>>,
    meter: RateLimit,
    done: AtomicU64,
    seen: Mutex<Seen>,
    probed: Mutex<Probed>,
    neighbours: Mutex<Neighbours>,
}

impl Vitals {
    /// Of a process that begins. `meter`: what its content passes through. `stop`: it is told to end.
    pub fn new(
        role: Role,
        max_lag: Duration,
        meter: RateLimit,
        notify: Option<&NotifySettings>,
        stop: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        let notify = notify.and_then(|settings| {
            let failed =
                |error: &std::io::Error| tracing::warn!(%error, "the service manager cannot be told");
            Notify::new(settings).inspect_err(failed).ok()
        });
        let seen = Seen {
            turned: now,
            state: NodeRunState::Starting,
            version: None,
            session: false,
            no_room: false,
            work: false,
            oldest: None,
            done: (Version::ZERO, 0, 0),
            moved: now,
            counted: None,
            parked: 0,
            held: 0,
            course: Course::default(),
        };
        Self {
            metrics: Metrics::new(role, Timestamp::now().nanos() as f64 / 1e9),
            samples: Samples::default(),
            hook: Hook::default(),
            role,
            max_lag,
            stop,
            notify,
            connection: OnceLock::new(),
            blobs: OnceLock::new(),
            record: OnceLock::new(),
            meter,
            done: AtomicU64::new(0),
            seen: Mutex::new(seen),
            probed: Mutex::default(),
            neighbours: Mutex::default(),
        }
    }

    /// The process has what it needs on this machine: its manager need not wait for the broker.
    pub fn ready(&self) {
        self.notify.iter().for_each(Notify::ready);
    }

    /// The process was told to end.
    pub fn stopping(&self) {
        self.notify.iter().for_each(Notify::stopping);
    }

    /// Waits for what the loop cannot begin without, and turns meanwhile in its place.
    pub async fn while_waiting<T>(&self, wait: impl Future<Output = T>) -> T {
        let mut wait = std::pin::pin!(wait);
        let mut timer = interval(WAITING);
        loop {
            tokio::select! {
                done = &mut wait => return done,
                _ = timer.tick() => self.turned(Instant::now()),
            }
        }
    }

    /// The broker, once there is a connection.
    pub fn connected_to(&self, broker: &Broker) {
        // A second connection would be to the same broker.
        let _ = self.connection.set((broker.connection(), broker.denials()));
        broker.durable().into_iter().for_each(|durable| self.metrics.set_durable(durable));
    }

    /// The blob store is known.
    pub fn stores_in(&self, blobs: &Blobs) {
        // The same, however often it moves.
        let _ = self.blobs.set(blobs.clone());
    }

    fn store_away(&self) -> bool {
        self.blobs.get().is_some_and(Blobs::is_away)
    }

    /// The loop reports from now on.
    pub fn reported_by(&self, reporter: &Reporter) {
        // A second one would report of the same process.
        let _ = self.record.set(reporter.now());
    }

    /// The record of this process as it is now; `None`: it has not reached the broker since it was started.
    pub fn record(&self) -> Option<NodeRecord> {
        self.record.get()?.borrow().clone()
    }

    /// The process is told to end when this is cancelled.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Something got done: an event or a path has come to its end.
    pub fn got_done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// A file was placed, so many seconds after its change was noticed.
    pub fn placed(&self, latency: f64) {
        self.metrics.placed(latency);
        self.samples.placed(latency);
    }

    /// The loop turns. Returns what it is to say in its record: a stall is said there, too, and the end of the log as the log tells it.
    pub fn turn(&self, index: &Index, root: &Root, turn: Turn) -> Progress {
        self.turn_at(Instant::now(), index, root, turn)
    }

    fn turn_at(&self, now: Instant, index: &Index, root: &Root, turn: Turn) -> Progress {
        let Turn { mut progress, session, no_room, work, oldest, long } = turn;
        let head = self.probed.lock().unwrap_or_else(PoisonError::into_inner).head;
        {
            let mut seen = self.seen();
            let version = progress.version.or_else(|| Some(index.node().ok()?.version)).unwrap_or_default();
            let bytes = self.meter.passed() + root.gone_on();
            let done = (version, self.done.load(Ordering::Relaxed), bytes);
            // Without work, or when it cannot go on for a reason that has a name, nothing stands still.
            let behind = self.role == Role::Replicator && head.is_some_and(|head| version < head);
            let first = seen.version.is_none();
            let waits = no_room || self.store_away() || !session;
            if first || done != seen.done || !(work || behind) || waits {
                (seen.done, seen.moved) = (done, now);
            }
            seen.version = Some(version);
            (seen.session, seen.no_room, seen.work, seen.oldest) = (session, no_room, work || behind, oldest);
            if seen.counted.is_none_or(|at| now.duration_since(at) >= COUNTS) {
                seen.counted = Some(now);
                // An index that cannot be read is the loop's trouble.
                if let Err(error) = self.count(index, root, &mut seen) {
                    tracing::debug!(%error, "the index could not be counted");
                }
            }
            if session {
                progress.head = head.or(progress.head);
            }
            if behind && progress.state == NodeRunState::Ready {
                progress.state = NodeRunState::Syncing;
            }
            let behind = head.filter(|_| behind && session);
            let catching_up =
                |head: Version| Long { what: "catching up", done: version.get(), total: head.get() };
            let (underway, say) = seen.course.turn(now, behind.map(catching_up).or(long));
            if let (Some(Underway { what, percent, left_s }), true) = (&underway, say) {
                tracing::info!(what, percent, left_s, "under way");
            }
            progress.underway = underway;
        }
        self.turned(now);
        progress.diverged = self.neighbours().diverged;
        let trouble =
            health::to_record(&self.facts(now)).filter(|_| session).map(|trouble| trouble.to_string());
        let denied = self.denied().map(|denied| format!("the broker denies us to {denied}"));
        for trouble in [trouble, denied].into_iter().flatten() {
            progress.state = NodeRunState::Degraded;
            progress.last_error = Some(match progress.last_error {
                Some(error) => format!("{trouble}; {error}"),
                None => trouble,
            });
        }
        let mut seen = self.seen();
        seen.state = progress.state;
        self.metrics.gauges.pending.set(number(progress.pending));
        progress
    }

    fn turned(&self, now: Instant) {
        self.seen().turned = now;
        self.samples.turn(now, Timestamp::now(), self.meter.passed(), self.is_connected());
        self.notify.iter().for_each(|notify| notify.working(now));
    }

    fn count(&self, index: &Index, root: &Root, seen: &mut Seen) -> Result<(), IndexError> {
        let (node, held) = (index.node()?, index.held_count()?);
        let gauges = &self.metrics.gauges;
        seen.parked = index.parked_count()?;
        seen.held = match self.role {
            Role::Watcher => held.removals,
            Role::Replicator => held.replacements,
        };
        self.metrics.set_held(held.removals, held.replacements);
        gauges.parked.set(number(seen.parked));
        gauges.outbox.set(number(index.outbox_count()?));
        gauges.files.set(number(node.files));
        gauges.bytes.set(number(node.bytes));
        if let Some(coverage) = index.coverage()? {
            gauges.folders.set(number(coverage.folders));
            gauges.unwatched.set(number(coverage.folders.saturating_sub(coverage.watched)));
        }
        let seconds = |at: Option<Timestamp>| at.map_or(0.0, |at| at.nanos() as f64 / 1e9);
        gauges.scrubbed.set(seconds(index.scrub()?.finished));
        gauges.verified.set(seconds(index.verified()?));
        if let Ok(free) = root.disk_free() {
            gauges.disk_free.set(number(free));
        }
        Ok(())
    }

    /// How the process is now.
    pub fn health(&self) -> Health {
        judge(&self.facts(Instant::now()))
    }

    /// The process will not recover by itself: its loop has not turned for half a minute.
    pub fn is_dead(&self) -> bool {
        Instant::now().duration_since(self.seen().turned) > DEAD
    }

    /// All metrics, in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let facts = self.facts(Instant::now());
        let (version, state) = {
            let seen = self.seen();
            (seen.version.unwrap_or_default(), seen.state)
        };
        let head = self.probed.lock().unwrap_or_else(PoisonError::into_inner).head.unwrap_or(version);
        let gauges = &self.metrics.gauges;
        gauges.ready.set(i64::from(judge(&facts).verdict != Verdict::Unready));
        gauges.connected.set(i64::from(facts.connected));
        gauges.version.set(number(version.get()));
        gauges.head.set(number(head.get()));
        gauges.lag_events.set(number(head.get().saturating_sub(version.get())));
        gauges.no_room.set(i64::from(facts.no_room && !facts.store_away));
        gauges.store_away.set(i64::from(facts.store_away));
        gauges.lag.set(facts.lag.as_secs_f64());
        gauges.oldest.set(facts.oldest.as_secs_f64());
        self.metrics.set_state(if facts.stopping { NodeRunState::Stopping } else { state });
        for (what, age) in Standstill::ALL.into_iter().zip(facts.still) {
            self.metrics.set_stalled(what, age.as_secs_f64());
        }
        let direction = if self.role == Role::Watcher { Direction::Out } else { Direction::In };
        self.metrics.set_bytes(direction, self.meter.passed());
        self.metrics.text()
    }

    fn facts(&self, now: Instant) -> Facts {
        let seen = self.seen();
        let probed = self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        let neighbours = self.neighbours();
        let since = |at: Instant| now.saturating_duration_since(at);
        let work = if seen.work { since(seen.moved) } else { Duration::ZERO };
        Facts {
            role: self.role,
            stopping: self.stop.is_cancelled(),
            connected: self.is_connected(),
            session: seen.session,
            no_room: seen.no_room,
            store_away: self.store_away(),
            denied: self.denied().is_some(),
            still: [since(seen.turned), probed.asked.map_or(Duration::ZERO, since), work],
            lag: probed.lag(seen.version.unwrap_or_default(), now),
            oldest: seen.oldest.map_or(Duration::ZERO, since),
            parked: seen.parked,
            held: seen.held,
            most_down: neighbours.most_down,
            diverged: neighbours.diverged.is_some(),
            hook_fails: self.hook.failing(now),
            max_lag: self.max_lag,
        }
    }

    /// The right that the broker denied last, within the last minute.
    fn denied(&self) -> Option<String> {
        self.connection.get()?.1.recent(Instant::now())
    }

    fn is_connected(&self) -> bool {
        self.epoch().is_some()
    }

    /// The connection's number, while there is one.
    fn epoch(&self) -> Option<u64> {
        let connection = *self.connection.get()?.0.borrow();
        connection.connected.then_some(connection.epoch)
    }

    fn version(&self) -> Option<Version> {
        self.seen().version.filter(|_| self.role == Role::Replicator)
    }

    fn probed(&self, change: impl FnOnce(&mut Probed)) {
        change(&mut self.probed.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the record says at turns so many seconds after the first; between them something may happen.
    struct Loop {
        vitals: Vitals,
        index: Index,
        root: Root,
        began: Instant,
        _dir: tempfile::TempDir,
    }

    impl Loop {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let root = dir.path().join("root");
            std::fs::create_dir(&root).expect("a root");
            let index = Index::open(&dir.path().join("index.db")).expect("an index");
            let (lag, stop) = (Duration::from_secs(15), CancellationToken::new());
            let vitals = Vitals::new(Role::Watcher, lag, RateLimit::default(), None, stop);
            let root = Root::open(&root).expect("a root");
            let began = Instant::now() + Duration::from_secs(3600);
            Self { vitals, index, root, began, _dir: dir }
        }

        fn turn(&self, seconds: u64, change: impl FnOnce(&mut Turn)) -> Progress {
            let progress = Progress { state: NodeRunState::Ready, ..Progress::starting() };
            let mut turn =
                Turn { progress, session: true, no_room: false, work: true, oldest: None, long: None };
            change(&mut turn);
            self.vitals.turn_at(self.began + Duration::from_secs(seconds), &self.index, &self.root, turn)
        }
    }

    #[tokio::test]
    async fn work_of_which_nothing_gets_done_is_a_stall_until_something_does() {
        let process = Loop::new();
        // However long it had waited for the broker before.
        assert_eq!(process.turn(0, |_| {}).state, NodeRunState::Ready);
        assert_eq!(process.turn(15, |_| {}).state, NodeRunState::Ready);
        let stalled = process.turn(16, |turn| turn.progress.last_error = Some("why".into()));
        assert_eq!(stalled.state, NodeRunState::Degraded);
        let text = stalled.last_error.expect("the stall");
        assert_eq!(text, "there is work, and none of it got done for 16 s; why");
        process.vitals.got_done();
        assert_eq!(process.turn(17, |_| {}).state, NodeRunState::Ready);
        assert_eq!(process.turn(33, |_| {}).state, NodeRunState::Degraded);
    }

    #[tokio::test]
    async fn nothing_stands_still_that_reads_a_large_file_or_has_no_work_or_waits_for_something_named() {
        let process = Loop::new();
        process.turn(0, |_| {});
        process.turn(10, |_| process.root.got_on(1));
        assert_eq!(process.turn(20, |_| {}).state, NodeRunState::Ready);
        let named: [fn(&mut Turn); 3] =
            [|turn| turn.work = false, |turn| turn.no_room = true, |turn| turn.session = false];
        for because in named {
            process.turn(100, because);
            assert_eq!(process.turn(200, because).state, NodeRunState::Ready);
        }
    }
}
