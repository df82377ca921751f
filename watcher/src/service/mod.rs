//! The watcher's loop: it picks what happens next, and hands each path to [`publish`](crate::publish).

mod intake;
mod pause;
mod scans;
mod work;

pub use intake::read_rules;

use crate::{
    node::{Next, Node, PublishError},
    publish::{Outcome, settle_offers},
    removals::{Counter, release_held},
    scan::{Found, Report},
    settle::{Settle, Waiting, Why},
    wanted,
    watches::{self, Noticed, Watches},
};
use common::{
    blobs::BlobStore,
    error_chain,
    index::{Generation, IndexError},
    log::EventLog,
    nodes::{NodeRunState, Progress, ReportError, Reporter},
    path::MediaPath,
    root::Look,
    trust::Session,
};
use pause::Pause;
use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use work::RENAME_PATIENCE;

/// What a scan has found and the loop has not taken.
const FOUND: usize = 256;
/// A scan waits while this many paths wait, so that memory does not grow with the tree.
const BACKLOG: usize = 4096;
/// How often the loop looks after itself: records, held removals, scans that are due.
const TICK: Duration = Duration::from_millis(500);
/// A full scan that finds what no event told, whatever the reason.
const RESCAN: Duration = Duration::from_secs(3600);
/// Until a broker that is connected but does not answer is asked again.
const SESSION_RETRY: Duration = Duration::from_millis(500);

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A path showed that nothing here can be trusted.
    #[error(transparent)]
    Halted(PublishError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// inotify failed.
    #[error("cannot watch folders")]
    Watch(#[source] std::io::Error),
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

struct Finished {
    path: MediaPath,
    waiting: Waiting,
    result: Result<Outcome, PublishError>,
    took: Duration,
    /// The session that it was worked on in.
    session: Option<(Generation, u64)>,
}

struct ScanDone {
    full: bool,
    began: Instant,
    generation: Generation,
    log_read: bool,
    report: Result<Report, IndexError>,
}

/// What a scan found, whether a live watch stands on its folder, and when the scan was asked for: what it finds was there by then.
type LiveFound = (Found, bool, Instant);

/// The loop's state.
pub struct Service<L, B> {
    node: Arc<Node<L, B>>,
    mode: Mode,
    /// Paths in work at once.
    transfers: usize,
    patterns: Vec<String>,
    watches: Option<Arc<Watches>>,
    settle: Settle,
    /// Removals that may go as soon as there is room.
    cleared: VecDeque<(MediaPath, Waiting)>,
    work: JoinSet<Finished>,
    in_flight: HashMap<MediaPath, Instant>,
    scans: JoinSet<ScanDone>,
    wanted: JoinSet<Result<(), PublishError>>,
    found: (mpsc::Sender<LiveFound>, mpsc::Receiver<LiveFound>),
    folders: VecDeque<(PathBuf, Instant)>,
    full_scan: Option<Instant>,
    folder_scan: bool,
    rescan: bool,
    last_full: Option<(Instant, Generation, bool)>,
    checking: Option<(Generation, Instant)>,
    session: Option<Session>,
    next_session: Instant,
    counter: Counter,
    held_turn: usize,
    racy: VecDeque<(Instant, MediaPath)>,
    summary: Summary,
    last_trouble: Option<String>,
    pause: Pause,
}

impl<L: EventLog, B: BlobStore> Service<L, B> {
    /// Nothing is touched yet.
    pub fn new(
        node: Node<L, B>,
        mode: Mode,
        transfers: usize,
        patterns: Vec<String>,
    ) -> Result<Self, ServiceError> {
        let watches = match mode {
            Mode::Run => Some(Arc::new(Watches::new().map_err(ServiceError::Watch)?)),
            Mode::Scan { .. } => None,
        };
        Ok(Self {
            node: Arc::new(node),
            mode,
            transfers,
            patterns,
            watches,
            settle: Settle::default(),
            cleared: VecDeque::new(),
            work: JoinSet::new(),
            in_flight: HashMap::new(),
            scans: JoinSet::new(),
            wanted: JoinSet::new(),
            found: mpsc::channel(FOUND),
            folders: VecDeque::new(),
            full_scan: None,
            folder_scan: false,
            rescan: true,
            last_full: None,
            checking: None,
            session: None,
            next_session: Instant::now(),
            counter: Counter::default(),
            held_turn: 0,
            racy: VecDeque::new(),
            summary: Summary::default(),
            last_trouble: None,
            pause: Pause::default(),
        })
    }

    /// Runs until it is told to stop, or (a scan) until all is done. What is in flight then is finished or left as offers, which the next start settles.
    pub async fn run(
        mut self,
        mut reporter: Reporter,
        stop: CancellationToken,
    ) -> Result<Summary, ServiceError> {
        let mut events = match &self.watches {
            Some(watches) => Some(watches::follow(Arc::clone(watches)).map_err(ServiceError::Watch)?),
            None => None,
        };
        let mut connection = reporter.connection();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wanted = interval(wanted::EVERY);
        wanted.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.settle.next_due().filter(|_| self.can_work());
            tokio::select! {
                () = stop.cancelled() => break,
                noticed = notices(&mut events) => self.notice(noticed.map_err(ServiceError::Watch)?)?,
                Some(found) = self.found.1.recv(), if self.settle.additions() < BACKLOG => self.take_found(found),
                Some(done) = self.work.join_next(), if !self.work.is_empty() => self.finish(panics(done))?,
                Some(done) = self.scans.join_next(), if !self.scans.is_empty() => self.end_scan(panics(done))?,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.dispatch()?,
                Ok(()) = connection.changed() => self.end_session(),
                () = sleep_until(self.next_session), if self.session.is_none() && connection.borrow().connected => {
                    self.begin_session().await?;
                }
                Some(served) = self.wanted.join_next(), if !self.wanted.is_empty() => {
                    if let Err(error) = panics(served) {
                        self.trouble(&error);
                    }
                }
                _ = wanted.tick(), if self.session.is_some() => self.look_for_wanted(&reporter),
                _ = tick.tick() => {
                    match self.look_after().await {
                        Err(ServiceError::Index(error)) => self.pause.unless_full(Err(error))?,
                        looked => looked?,
                    }
                    reporter.write(&self.node.index, &self.node.root, self.progress()).await?;
                    if self.is_done() {
                        break;
                    }
                }
            }
            self.start_cleared();
            self.start_scans()?;
        }
        self.wind_down().await;
        reporter.stopping(&self.node.index, &self.node.root).await;
        self.summary.held = self.node.index.held_count()?;
        Ok(self.summary)
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
            && self.found.1.is_empty();
        matches!(self.mode, Mode::Scan { .. }) && idle && self.last_full.is_some() && self.session.is_some()
    }

    fn progress(&self) -> Progress {
        Progress {
            state: self.state(),
            pending: (self.settle.len() + self.cleared.len() + self.in_flight.len()) as u64,
            last_error: self.pause.reason().map(str::to_owned).or_else(|| self.last_trouble.clone()),
            ..Progress::starting()
        }
    }

    fn state(&self) -> NodeRunState {
        use NodeRunState as State;
        match (&self.session, self.last_full, self.full_scan) {
            (None, None, _) => State::Starting,
            (None, Some(_), _) => State::Degraded,
            _ if self.pause.reason().is_some() => State::Degraded,
            (Some(_), None, _) | (Some(_), _, Some(_)) => State::Syncing,
            _ if self.node.index.held_count().unwrap_or(0) > 0 => State::Degraded,
            _ => State::Ready,
        }
    }

    // ---- sessions -----------------------------------------------------------------------------------------------

    fn end_session(&mut self) {
        self.session = None;
        self.next_session = Instant::now();
    }

    /// Looks at the log before anything is published (rule 9), then at what an earlier life of this process left.
    async fn begin_session(&mut self) -> Result<(), ServiceError> {
        let begun = async {
            let Some(session) = self.node.trust().await? else { return Ok(None) };
            for (path, intent) in self.node.index.intents()? {
                // One that cannot be finished keeps its own path waiting, and no other.
                if let Err(error) = self.node.resolve_abandoned(&path, &intent).await {
                    tracing::warn!(%path, error = %error_chain(&error), "an intent cannot be finished yet");
                }
            }
            let offered = if self.in_flight.is_empty() {
                settle_offers(&self.node, &session).await?
            } else {
                Vec::new()
            };
            Ok::<_, PublishError>(Some((session, offered)))
        };
        match begun.await {
            Ok(None) => Ok(()),
            Ok(Some((session, offered))) => {
                if let Some(why) = &session.began {
                    tracing::warn!(%why, generation = session.generation.0, "the log is read again from its start");
                }
                let other = self.last_full.is_none_or(|(_, generation, _)| generation != session.generation);
                self.rescan |= other;
                self.session = Some(session);
                let now = Instant::now();
                for path in offered {
                    self.keep(path, Why::Again, now, now);
                }
                tracing::info!("the log is trusted; publishing");
                Ok(())
            }
            Err(error) if error.next() == Next::Halt => Err(ServiceError::Halted(error)),
            Err(error) => {
                match error.next() {
                    Next::Pause => self.pause.begin(error_chain(&error), Instant::now()),
                    _ => self.trouble(&error),
                }
                self.next_session = Instant::now() + SESSION_RETRY;
                Ok(())
            }
        }
    }

    // ---- now and then -------------------------------------------------------------------------------------------

    async fn look_after(&mut self) -> Result<(), ServiceError> {
        let now = Instant::now();
        let node = self.node.index.node()?;
        if self.session.as_ref().is_some_and(|session| session.generation != node.generation || node.restored)
        {
            self.end_session();
        }
        // Everything that a full scan found, after the log was read to its end, is settled: the full check of this generation has ended.
        if let Some((generation, end)) = self.checking
            && self.found.1.is_empty()
            && !self.rescan
            && self.cleared.is_empty()
            && !self.settle.any_before(end)
            && !self.in_flight.values().any(|since| *since <= end)
        {
            self.checking = None;
            self.node
                .index
                .write(move |tx| {
                    if tx.node().generation == generation {
                        tx.node_mut().fresh = false;
                    }
                    Ok(())
                })
                .await?;
        }
        let read_since =
            self.last_full.is_some_and(|(_, _, log_read)| !log_read) && node.fresh && node.log_read;
        let due = self.last_full.is_some_and(|(began, _, _)| began.elapsed() > RESCAN);
        self.rescan |= read_since || due;
        self.clear_racy(now).await?;
        release_held(&self.node, &mut self.held_turn).await?;
        for (path, approved) in self.node.index.held()? {
            if approved && !self.in_flight.contains_key(&path) {
                self.keep(path, Why::Gone, now - RENAME_PATIENCE, now);
            }
        }
        // A path is taken out of the outbox when its work has been begun once; a crash before that leaves it to the scan of the next start.
        let asked = self.node.index.outbox()?;
        if !asked.is_empty() {
            asked.iter().for_each(|path| self.keep(path.clone(), Why::Again, now, now));
            self.node.index.write(move |tx| tx.take_outbox(&asked)).await?;
        }
        if self.session.is_some() && self.settle.is_empty() {
            self.last_trouble = None;
            if self.cleared.is_empty() && self.in_flight.is_empty() {
                self.pause.end();
            }
        }
        Ok(())
    }

    /// Rows whose file stood still for long enough after it was read: a scan may trust their stat from now on.
    async fn clear_racy(&mut self, now: Instant) -> Result<(), ServiceError> {
        let mut paths = Vec::new();
        while self.racy.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, path)) = self.racy.pop_front() else { break };
            paths.push(path);
        }
        for chunk in paths.chunks(256) {
            let (root, chunk) = (Arc::clone(&self.node.root), chunk.to_vec());
            self.node
                .index
                .write(move |tx| {
                    for path in &chunk {
                        let row = tx.path_state(path)?.row;
                        let stat = row.filter(|row| row.racy).and_then(|row| row.stat);
                        let still = matches!(root.look(path), Ok(Look::File(now)) if Some(now.stat) == stat);
                        if still {
                            tx.mark(path, |row| row.racy = false)?;
                        }
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(())
    }

    fn look_for_wanted(&mut self, reporter: &Reporter) {
        if let (true, Some(bucket)) = (self.wanted.is_empty(), reporter.bucket()) {
            let node = Arc::clone(&self.node);
            self.wanted.spawn(async move { wanted::serve(&node, &bucket).await });
        }
    }

    /// Lets what is in flight end, within the time a process has to stop.
    async fn wind_down(&mut self) {
        let deadline = sleep(Duration::from_secs(5));
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
    }
}

async fn notices(
    events: &mut Option<mpsc::Receiver<std::io::Result<Vec<Noticed>>>>,
) -> std::io::Result<Vec<Noticed>> {
    match events {
        Some(events) => {
            events.recv().await.unwrap_or_else(|| Err(std::io::Error::other("the reading thread has ended")))
        }
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
