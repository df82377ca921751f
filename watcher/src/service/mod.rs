//! The watcher's loop: it picks what happens next, and hands each path to [`publish`](crate::publish).
//!
//! It begins before the broker is there. Without a session it watches, scans and settles all the same; what ripens goes to the outbox.

mod intake;
mod outbox;
mod pause;
mod scans;
mod sessions;
mod upkeep;
mod work;

use crate::{
    coverage::Coverage,
    node::{Next, Node, PublishError, Rules, Working},
    publish::Outcome,
    scan::Found,
    settle::{Settle, Waiting},
    wanted,
    watches::{Noticed, Watches},
};
use common::{
    blobs::BlobStore,
    broker::Connection,
    bulk::Counter,
    exit::Failure,
    index::{Generation, Index, IndexError},
    log::EventLog,
    nodes::{ReportError, Reporter},
    path::MediaPath,
    root::Root,
    troubles::Troubles,
    trust::Session,
    vitals::Vitals,
};
use outbox::Outbox;
use pause::Pause;
use scans::ScanDone;
use sessions::Opened;
use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

/// What a scan has found and the loop has not taken.
const FOUND: usize = 256;
/// A scan waits while this many paths wait, so that memory does not grow with the tree.
const BACKLOG: usize = 4096;
/// How often the loop looks after itself: records, held removals, scans that are due.
const TICK: Duration = Duration::from_millis(500);
/// How long what is in flight gets to end when the process is told to stop.
const WIND_DOWN: Duration = Duration::from_secs(5);
/// How long a connection that is just being made gets to be given up in order: an embedded broker that was started for it has to end first.
const GIVE_UP: Duration = Duration::from_secs(9);

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A path showed that nothing here can be trusted.
    #[error(transparent)]
    Halted(PublishError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Another process writes under this node's name.
    #[error(transparent)]
    Report(#[from] ReportError),
}

/// What the service is to do.
pub enum Mode {
    /// Until it is told to stop.
    Run,
    /// One pass, and everything it found; `expected` counts what was found, `done` what is finished.
    Scan {
        /// Bytes and files found so far.
        found: Arc<Tally>,
        /// Of them finished.
        done: Arc<Tally>,
    },
}

/// Files and bytes.
#[derive(Default)]
pub struct Tally {
    pub files: AtomicU64,
    pub bytes: AtomicU64,
}

impl Tally {
    fn add(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub published: u64,
    pub removed: u64,
    pub bytes: u64,
    pub failed: u64,
    pub held: u64,
    pub files: u64,
}

/// What the service has without the broker.
pub struct Ground {
    pub root: Arc<Root>,
    pub index: Index,
    pub rules: Rules,
    /// The patterns of `--ignore`, for when the rules are read again.
    pub patterns: Vec<String>,
    pub vitals: Arc<Vitals>,
    /// Removals of the last minute.
    pub removals: Arc<Mutex<Counter>>,
}

/// What it has with it, once the broker has been reached for the first time.
pub struct Online<L, B> {
    pub node: Node<L, B>,
    pub reporter: Reporter,
}

struct Finished {
    path: MediaPath,
    waiting: Waiting,
    result: Result<Outcome, PublishError>,
    took: Duration,
    /// The session that it was worked on in.
    session: Option<(Generation, u64)>,
}

/// The check of a generation against the disk, after the log was read to its end: a full scan, and everything that it found.
struct Checking {
    generation: Generation,
    /// What was noticed up to here belongs to it.
    end: Instant,
    /// The outbox has been read through since, so that nothing of it is left there.
    outbox: bool,
}

/// How far a scan is.
#[derive(Default)]
struct Walk {
    /// Files that it has met.
    met: AtomicU64,
    /// Files that the index knows as present.
    known: AtomicU64,
}

/// What a scan found, whether a live watch stands on its folder, and when the scan was asked for: what it finds was there by then.
type LiveFound = (Found, bool, Instant);

type Notices = mpsc::Receiver<std::io::Result<Vec<Noticed>>>;

/// The loop's state.
pub struct Service<L, B> {
    root: Arc<Root>,
    index: Index,
    rules: Rules,
    patterns: Vec<String>,
    vitals: Arc<Vitals>,
    mode: Mode,
    /// Paths in work at once.
    transfers: usize,
    /// `None` until the broker has been reached once.
    node: Option<Arc<Node<L, B>>>,
    connection: Option<watch::Receiver<Connection>>,
    watches: Option<Arc<Watches>>,
    events: Option<Notices>,
    coverage: Coverage,
    next_poll: Instant,
    settle: Settle,
    /// Removals that may go as soon as there is room.
    cleared: VecDeque<(MediaPath, Waiting)>,
    outbox: Outbox,
    work: JoinSet<Finished>,
    in_flight: HashMap<MediaPath, Instant>,
    scans: JoinSet<ScanDone>,
    wanted: JoinSet<Result<(), PublishError>>,
    found: (mpsc::Sender<LiveFound>, mpsc::Receiver<LiveFound>),
    folders: VecDeque<(PathBuf, Instant)>,
    full_scan: Option<Instant>,
    /// How far the full scan is.
    walk: Arc<Walk>,
    /// Paths whose work has come to its end.
    ended: u64,
    folder_scan: bool,
    poll: bool,
    rescan: bool,
    last_full: Option<(Instant, Generation, bool)>,
    checking: Option<Checking>,
    session: Option<Session>,
    opening: JoinSet<Opened>,
    next_session: Instant,
    /// Since when the broker has been away.
    away: Option<Instant>,
    removals: Arc<Mutex<Counter>>,
    /// Others work in the same sessions.
    live: watch::Sender<Working<L, B>>,
    held_turn: usize,
    /// How often most of the nodes had come back when that was heeded last.
    returned: u64,
    racy: VecDeque<(Instant, MediaPath)>,
    summary: Summary,
    /// Since there was nothing to do.
    last_trouble: Option<String>,
    troubles: Troubles,
    pause: Pause,
}

impl<L: EventLog, B: BlobStore> Service<L, B> {
    /// Nothing is touched yet.
    pub fn new(ground: Ground, mode: Mode, transfers: usize) -> Self {
        let now = Instant::now();
        Self {
            root: ground.root,
            index: ground.index,
            rules: ground.rules,
            patterns: ground.patterns,
            vitals: ground.vitals,
            mode,
            transfers,
            node: None,
            connection: None,
            watches: None,
            events: None,
            coverage: Coverage::default(),
            next_poll: now,
            settle: Settle::default(),
            cleared: VecDeque::new(),
            outbox: Outbox::new(now),
            work: JoinSet::new(),
            in_flight: HashMap::new(),
            scans: JoinSet::new(),
            wanted: JoinSet::new(),
            found: mpsc::channel(FOUND),
            folders: VecDeque::new(),
            full_scan: None,
            walk: Arc::default(),
            ended: 0,
            folder_scan: false,
            poll: false,
            rescan: true,
            last_full: None,
            checking: None,
            session: None,
            opening: JoinSet::new(),
            next_session: now,
            away: Some(now),
            removals: ground.removals,
            live: watch::Sender::new(None),
            held_turn: 0,
            returned: 0,
            racy: VecDeque::new(),
            summary: Summary::default(),
            last_trouble: None,
            troubles: Troubles::default(),
            pause: Pause::default(),
        }
    }

    /// Tells of its sessions.
    pub fn telling(mut self, live: watch::Sender<Working<L, B>>) -> Self {
        self.live = live;
        self
    }

    fn removals(&self) -> MutexGuard<'_, Counter> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs until it is told to stop, or (a scan) until all is done. What is in flight then is finished or left as offers, which the next start settles.
    /// `connect` reaches the broker for the first time, however long that takes; `None`: it was told to stop.
    pub async fn run(
        mut self,
        connect: impl Future<Output = Result<Option<Online<L, B>>, Failure>>,
        stop: CancellationToken,
    ) -> Result<Summary, Failure> {
        let mut connect = std::pin::pin!(connect);
        let (mut reporter, mut connecting): (Option<Reporter>, bool) = (None, true);
        self.begin_watching();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wanted = interval(wanted::EVERY);
        wanted.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.next_due();
            let connected = self.is_connected();
            tokio::select! {
                () = stop.cancelled() => break,
                online = &mut connect, if connecting => {
                    connecting = false;
                    match online? {
                        Some(online) => reporter = Some(self.go_online(online)),
                        None => break,
                    }
                }
                noticed = notices(&mut self.events) => self.notice(noticed)?,
                Some(found) = self.found.1.recv(), if self.settle.additions() < BACKLOG => self.take_found(found),
                Some(done) = self.work.join_next(), if !self.work.is_empty() => self.finish(panics(done))?,
                Some(done) = self.scans.join_next(), if !self.scans.is_empty() => self.end_scan(panics(done)).await?,
                Some(written) = self.outbox.written() => self.end_writing(written),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.dispatch()?,
                Ok(()) = changed(&mut self.connection) => self.lose_broker(),
                Some(opened) = self.opening.join_next(), if !self.opening.is_empty() => {
                    self.begin_session(panics(opened))?;
                }
                () = sleep_until(self.next_session), if self.session.is_none() && self.opening.is_empty() && connected => {
                    self.open_session();
                }
                Some(served) = self.wanted.join_next(), if !self.wanted.is_empty() => match panics(served) {
                    Err(error) if error.next() != Next::NewSession => self.trouble(&error),
                    _ => {}
                },
                _ = wanted.tick(), if self.session.is_some() => self.look_for_wanted(reporter.as_ref()),
                _ = tick.tick() => {
                    match self.look_after().await {
                        Err(ServiceError::Index(error)) => self.pause.unless_full(Err(error))?,
                        looked => looked?,
                    }
                    let progress = self.tell();
                    if let Some(reporter) = &mut reporter {
                        tokio::select! {
                            // A broker that does not answer is no reason to go on.
                            () = stop.cancelled() => break,
                            written = reporter.write(&self.index, &self.root, progress) => written.map_err(ServiceError::from)?,
                        }
                    }
                    if self.is_done() {
                        break;
                    }
                }
            }
            self.load_outbox()?;
            self.start_cleared();
            self.start_scans()?;
            self.write_outbox();
        }
        self.wind_down().await;
        if let Some(reporter) = &mut reporter {
            reporter.stopping(&self.index, &self.root).await;
        }
        if connecting {
            // It hears the same token.
            let _ = timeout(GIVE_UP, connect).await;
        }
        self.summary.held = self.index.held_count()?.removals;
        Ok(self.summary)
    }

    /// When the next path is due that could be taken.
    fn next_due(&mut self) -> Option<Instant> {
        match &self.session {
            Some(_) => self.settle.next_due().filter(|_| self.can_work()),
            None => self.next_note(),
        }
    }

    fn can_work(&self) -> bool {
        self.session.is_some() && self.work.len() < self.pause.room(self.transfers, Instant::now())
    }

    /// A scan has ended, and so has everything it found.
    fn is_done(&self) -> bool {
        let idle = self.settle.is_empty()
            && self.cleared.is_empty()
            && self.in_flight.is_empty()
            && self.scans.is_empty()
            && self.found.1.is_empty()
            && self.outbox.is_read();
        matches!(self.mode, Mode::Scan { .. }) && idle && self.last_full.is_some() && self.session.is_some()
    }

    /// Lets what is in flight end, within the time a process has to stop.
    async fn wind_down(&mut self) {
        let deadline = sleep(WIND_DOWN);
        tokio::pin!(deadline);
        self.found.1.close();
        while !self.work.is_empty() {
            tokio::select! {
                () = &mut deadline => break,
                done = self.work.join_next() => {
                    if let Some(Ok(done)) = done {
                        let _ = self.finish(done);
                    }
                }
            }
        }
        self.work.abort_all();
        self.write_outbox();
        let _ = tokio::time::timeout_at(deadline.deadline(), self.outbox.settled()).await;
    }
}

async fn notices(events: &mut Option<Notices>) -> std::io::Result<Vec<Noticed>> {
    match events {
        Some(events) => {
            events.recv().await.unwrap_or_else(|| Err(std::io::Error::other("the reading thread has ended")))
        }
        None => std::future::pending().await,
    }
}

async fn changed(
    connection: &mut Option<watch::Receiver<Connection>>,
) -> Result<(), watch::error::RecvError> {
    match connection {
        Some(connection) => connection.changed().await,
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
