//! Scans: when one begins, what it came to, and what of the tree has to be polled because it is not watched.

use super::{Checking, LiveFound, Mode, Service, ServiceError};
use crate::{
    coverage::Coverage,
    scan::{Report, Scan},
    watches::{self, Watches},
};
use common::{
    blobs::BlobStore,
    index::{self, Generation, IndexError},
    log::EventLog,
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// How often folders that are not watched are looked through.
const POLL: Duration = Duration::from_secs(5);
/// And at most so that this part of the time is spent on it: one in five.
const POLL_SHARE: u32 = 5;
/// How long the first scan waits for the broker, so that it need not be done twice.
const START: Duration = Duration::from_secs(1);

/// What a scan is done for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The whole tree.
    Full,
    /// A folder that is new.
    Folder,
    /// What is not watched.
    Poll,
}

pub(super) struct ScanDone {
    kind: Kind,
    began: Instant,
    generation: Generation,
    log_read: bool,
    reports: Result<Vec<(PathBuf, Report)>, IndexError>,
}

impl<L: EventLog, B: BlobStore> Service<L, B> {
    /// Without inotify the whole tree is polled, until there is one.
    pub(super) fn begin_watching(&mut self) {
        if !matches!(self.mode, Mode::Run) || self.watches.is_some() {
            return;
        }
        let begun = Watches::new().and_then(|watches| {
            let watches = Arc::new(watches);
            Ok((watches::follow(Arc::clone(&watches))?, watches))
        });
        let said = self.coverage.unwatched() > 0;
        match begun {
            Ok((events, watches)) => {
                (self.events, self.watches) = (Some(events), Some(watches));
                if said {
                    tracing::info!("changes can be watched again");
                    self.rescan = true;
                }
            }
            Err(error) if !said => self.poll_everything(&error),
            Err(_) => {}
        }
    }

    /// There is no inotify, or it has failed.
    pub(super) fn poll_everything(&mut self, error: &std::io::Error) {
        (self.events, self.watches) = (None, None);
        self.coverage = Coverage::nothing(1);
        tracing::warn!(
            %error,
            limit = limit("max_user_instances"),
            every_s = POLL.as_secs(),
            "nothing can be watched: the whole tree is polled; raise fs.inotify.max_user_instances (sysctl -w fs.inotify.max_user_instances=…)"
        );
        self.rescan = true;
    }

    pub(super) fn start_scans(&mut self) -> Result<(), ServiceError> {
        let now = Instant::now();
        let waits = self.away.is_some_and(|since| since.elapsed() < START) && self.last_full.is_none();
        let may = self.session.is_some() || matches!(self.mode, Mode::Run) && !waits;
        if self.rescan && self.full_scan.is_none() && may {
            self.rescan = false;
            self.full_scan = Some(now);
            self.scan(vec![PathBuf::new()], Kind::Full, now)?;
        }
        if !self.folder_scan
            && let Some((folder, asked)) = self.folders.pop_front()
        {
            self.folders.retain(|(other, _)| !other.starts_with(&folder));
            self.folder_scan = true;
            self.scan(vec![folder], Kind::Folder, asked)?;
        }
        let idle = !self.poll && self.full_scan.is_none() && self.last_full.is_some();
        if idle && self.coverage.unwatched() > 0 && self.next_poll <= now {
            self.begin_watching();
            if !self.rescan {
                self.poll = true;
                self.scan(self.coverage.to_poll(), Kind::Poll, now)?;
            }
        }
        Ok(())
    }

    fn scan(&mut self, folders: Vec<PathBuf>, kind: Kind, asked: Instant) -> Result<(), ServiceError> {
        let (root, index, rules) = (Arc::clone(&self.root), self.index.clone(), self.rules.get());
        let (found, watches) = (self.found.0.clone(), self.watches.clone());
        let state = self.index.node()?;
        let (generation, log_read) = (state.generation, state.log_read);
        let walk = match kind {
            Kind::Full => {
                self.walk = Arc::default();
                Arc::clone(&self.walk)
            }
            Kind::Folder | Kind::Poll => Arc::default(),
        };
        let live = kind == Kind::Folder && self.coverage.unwatched() == 0;
        self.scans.spawn_blocking(move || {
            let began = Instant::now();
            let (root, index, rules, watches) = (&*root, &index, &*rules, watches.as_deref());
            let one = |folder: PathBuf| {
                if kind == Kind::Full {
                    walk.known.store(index.present_count()?, Ordering::Relaxed);
                }
                let poll = kind == Kind::Poll;
                let met = &walk.met;
                let scan = Scan { root, index, rules, generation, watches, folder: &folder, met, poll };
                let tell = |item| found.blocking_send(LiveFound::from((item, live, asked))).is_ok();
                let report = scan.run(tell, || !found.is_closed())?;
                Ok((folder, report))
            };
            let reports = folders.into_iter().map(one).collect();
            ScanDone { kind, began, generation, log_read, reports }
        });
        Ok(())
    }

    pub(super) async fn end_scan(&mut self, done: ScanDone) -> Result<(), ServiceError> {
        let ScanDone { kind, began, generation, log_read, reports } = done;
        let reports = reports?;
        self.cover(kind, &reports).await;
        match kind {
            Kind::Folder => self.folder_scan = false,
            Kind::Poll => {
                self.poll = false;
                self.next_poll = Instant::now() + POLL.max(began.elapsed() * (POLL_SHARE - 1));
            }
            Kind::Full => {
                self.full_scan = None;
                self.last_full = Some((began, generation, log_read));
                self.next_poll = Instant::now() + POLL;
                for (_, report) in &reports {
                    self.end_full(report, began);
                }
                if log_read && self.session.is_some() {
                    self.checking = Some(Checking { generation, end: Instant::now(), outbox: false });
                }
            }
        }
        Ok(())
    }

    fn end_full(&mut self, report: &Report, began: Instant) {
        self.summary.files = report.files;
        for (why, (count, example)) in &report.skipped {
            tracing::warn!(count, why, example = %example.display(), "not mirrored");
        }
        let watched = self.watches.as_ref().map(|watches| watches.count());
        tracing::info!(
            files = report.files,
            bytes = report.bytes,
            changed = report.told,
            folders = report.folders,
            watched,
            elapsed_ms = began.elapsed().as_millis(),
            "scanned"
        );
    }

    /// What is watched now, and what is polled. Said when it begins and when it ends, not for each folder.
    async fn cover(&mut self, kind: Kind, reports: &[(PathBuf, Report)]) {
        if !matches!(self.mode, Mode::Run) {
            return;
        }
        let before = self.coverage.unwatched();
        let Some(watches) = self.watches.clone() else {
            if let (Kind::Full | Kind::Poll, Some((_, report))) = (kind, reports.first()) {
                self.coverage = Coverage::nothing(report.folders);
            }
            self.record_coverage(0).await;
            return;
        };
        for (folder, report) in reports {
            self.coverage.scanned(folder, &report.unwatched);
        }
        let unwatched = self.coverage.unwatched();
        let why = reports.iter().find_map(|(_, report)| report.unwatched.why());
        match (before, unwatched, why) {
            (0, 1.., Some((error, limit))) => {
                say_unwatched(unwatched, &self.coverage.to_poll(), error, limit)
            }
            (1.., 0, _) => tracing::info!(watched = watches.count(), "all folders are watched"),
            _ => {}
        }
        self.record_coverage(watches.count() as u64).await;
    }

    /// For `status`; it is not worth ending for.
    async fn record_coverage(&mut self, watched: u64) {
        let coverage = index::Coverage { folders: watched + self.coverage.unwatched(), watched };
        let known = self.index.coverage();
        if known.as_ref().is_ok_and(|known| *known == Some(coverage)) {
            return;
        }
        if let Err(error) = self.index.write(move |tx| tx.set_coverage(coverage)).await {
            self.trouble(&error);
        }
    }
}

fn say_unwatched(folders: u64, polled: &[PathBuf], error: &str, is_limit: bool) {
    let example = polled.first().map(|folder| folder.display().to_string());
    let every_s = POLL.as_secs();
    if is_limit {
        tracing::warn!(
            folders,
            example,
            every_s,
            limit = limit("max_user_watches"),
            "folders cannot be watched and are polled: raise fs.inotify.max_user_watches (sysctl -w fs.inotify.max_user_watches=…)"
        );
    } else {
        tracing::warn!(folders, example, every_s, error, "folders cannot be watched and are polled");
    }
}

/// The system's limit, where it can be read.
fn limit(name: &str) -> Option<u64> {
    let file = Path::new("/proc/sys/fs/inotify").join(name);
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}
