//! The outbox: what ripens without a session is noted in the index and leaves memory; with one each path is looked at again, and leaves the outbox when its work
//! has come to an end. The replicator asks through it, too.
//!
//! Notes are written many at a time. One lost with the machine is found by the scan of the next start.

use super::{BACKLOG, Mode, Service, ServiceError, TICK, panics};
use crate::settle::{CAPACITY, REMOVAL, Ripe, STILL, Waiting, Why, ripe};
use common::{
    blobs::BlobStore,
    index::{Asked, IndexError},
    log::EventLog,
    path::MediaPath,
    root::Look,
};
use std::{collections::HashMap, time::Duration};
use tokio::{task::JoinSet, time::Instant};

/// Notes in one transaction, and paths read at once: some milliseconds.
const BATCH: usize = 512;
/// What ripens is gathered this long, unless a batch is full before.
const GATHER: Duration = Duration::from_millis(500);
/// Until an index that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// An outbox of more paths than this is read through and counted this rarely, a smaller one with every tick.
const LARGE: (u64, Duration) = (8192, Duration::from_secs(5));

type Ended = Vec<(MediaPath, common::time::Timestamp)>;

/// What one transaction did, or would have done.
pub(super) struct Written {
    noted: Vec<Asked>,
    ended: Ended,
    result: Result<(), IndexError>,
}

/// The part of the outbox that is in memory.
pub(super) struct Outbox {
    /// Ripe, and not yet in the index.
    noted: Vec<Asked>,
    next_note: Instant,
    /// Taken into work by this session, each as it was noted.
    taken: HashMap<MediaPath, common::time::Timestamp>,
    /// Of them at their end, and still in the index.
    ended: Ended,
    writing: JoinSet<Written>,
    next_write: Instant,
    /// The pass over the index that is under way: when it began, and how far it is.
    pass: Option<(Instant, Option<MediaPath>)>,
    passed: u64,
    next_pass: Instant,
    /// This session has read it through once.
    read: bool,
    /// When a pass over more than one page ended: additions and removals of one change may have come far apart.
    bulk: Option<Instant>,
    /// How many paths it holds, as counted last.
    pub(super) count: u64,
    counted: Instant,
}

impl Outbox {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            noted: Vec::new(),
            next_note: now,
            taken: HashMap::new(),
            ended: Vec::new(),
            writing: JoinSet::new(),
            next_write: now,
            pass: None,
            passed: 0,
            next_pass: now,
            read: false,
            bulk: None,
            count: 0,
            counted: now,
        }
    }

    /// The session has ended: what it took is still noted, and is taken again by the next.
    pub(super) fn begin_again(&mut self, now: Instant) {
        self.taken.clear();
        (self.pass, self.next_pass, self.read) = (None, now, false);
    }

    /// Paths that are not in memory otherwise.
    pub(super) fn waiting(&self) -> u64 {
        self.count.saturating_sub(self.taken.len() as u64) + self.noted.len() as u64
    }

    /// Everything that this session found there has come to an end.
    pub(super) fn is_read(&self) -> bool {
        self.read && self.ended.is_empty() && self.writing.is_empty()
    }

    /// Whether removals must wait because their additions may still be in the outbox.
    pub(super) fn is_being_read(&self) -> bool {
        !self.read
    }

    /// See [`Outbox::bulk`].
    pub(super) fn bulk(&self) -> Option<Instant> {
        self.bulk
    }

    /// What became of the last transaction. Never, while there is none.
    pub(super) async fn written(&mut self) -> Option<Written> {
        match self.writing.join_next().await {
            Some(written) => Some(panics(written)),
            None => std::future::pending().await,
        }
    }

    /// Waits for the transaction that is under way, if there is one.
    pub(super) async fn settled(&mut self) {
        while self.writing.join_next().await.is_some() {}
    }

    /// A path's work has come to its end.
    pub(super) fn end(&mut self, path: &MediaPath) {
        if let Some(since) = self.taken.get(path) {
            self.ended.push((path.clone(), *since));
        }
    }

    /// The notes of these paths, for who takes them out together with other work.
    pub(super) fn take_notes<'a>(&mut self, paths: impl IntoIterator<Item = &'a MediaPath>) -> Ended {
        paths.into_iter().filter_map(|path| self.taken.remove_entry(path)).collect()
    }
}

impl<L: EventLog, B: BlobStore> Service<L, B> {
    // ---- without a session --------------------------------------------------------------------------------------

    /// When something could be noted next.
    pub(super) fn next_note(&mut self) -> Option<Instant> {
        let runs = matches!(self.mode, Mode::Run) && self.outbox.noted.len() < BATCH;
        let due = self.settle.next_due().filter(|_| runs)?;
        Some(due.max(self.outbox.next_note))
    }

    /// What is ripe is noted, and leaves memory with that.
    pub(super) fn set_aside(&mut self) -> Result<(), ServiceError> {
        let (now, rules) = (Instant::now(), self.rules.get());
        self.outbox.next_note = now + GATHER;
        // What is kept again is due later, so this ends.
        while let Some((path, waiting)) = self.settle.take_due(now) {
            if self.in_flight.contains_key(&path) {
                self.keep(path, waiting.why, waiting.since, now + STILL);
                continue;
            }
            if rules.covers_file(path.as_path()) {
                continue;
            }
            match self.root.look(&path) {
                Ok(Look::File(stat)) if waiting.why == Why::Gone => {
                    self.keep(path, Why::Found(stat.stat), waiting.since, now + STILL);
                }
                Ok(Look::File(stat)) => match ripe(waiting.why, stat.stat, stat.links) {
                    Ripe::Now => self.note(path, waiting),
                    Ripe::Wait(wait, why) => self.keep(path, why, waiting.since, now + wait),
                },
                Ok(Look::Absent | Look::Folder) if waiting.why != Why::Gone => {
                    self.keep(path, Why::Gone, waiting.since, now + REMOVAL);
                }
                // Of a path that was never published nothing is to be removed.
                Ok(Look::Absent | Look::Folder) if self.index.path_state(&path)?.row.is_none() => {}
                Ok(Look::Absent | Look::Folder) | Err(_) => self.note(path, waiting),
                // Never mirrored; a scan says so.
                Ok(Look::Other(_) | Look::Unreachable(_)) => {}
            }
            if self.outbox.noted.len() >= BATCH {
                self.outbox.next_note = now;
                break;
            }
        }
        Ok(())
    }

    fn note(&mut self, path: MediaPath, waiting: Waiting) {
        let finished = waiting.why == Why::Finished;
        self.outbox.noted.push(Asked { path, since: waiting.detected, finished });
    }

    // ---- with a session -----------------------------------------------------------------------------------------

    /// Takes paths into memory as far as there is room.
    pub(super) fn load_outbox(&mut self) -> Result<(), ServiceError> {
        let now = Instant::now();
        while self.session.is_some()
            && (self.outbox.pass.is_some() || self.outbox.next_pass <= now)
            && self.settle.additions() < BACKLOG
            && self.settle.len() + BATCH <= CAPACITY
        {
            let (began, after) = self.outbox.pass.take().unwrap_or((now, None));
            let page = self.index.outbox(after.as_ref(), BATCH)?;
            self.outbox.passed += page.len() as u64;
            let last = page.last().map(|asked| asked.path.clone()).filter(|_| page.len() == BATCH);
            for asked in page {
                self.take_asked(asked, now);
            }
            match last {
                Some(last) => self.outbox.pass = Some((began, Some(last))),
                None => self.end_pass(began, now),
            }
        }
        Ok(())
    }

    fn take_asked(&mut self, asked: Asked, now: Instant) {
        let Asked { path, since, finished } = asked;
        let known = self.outbox.taken.get(&path) == Some(&since);
        // What is in work for another reason is taken by a later pass.
        if known || self.settle.contains(&path) || self.in_flight.contains_key(&path) {
            return;
        }
        let why = if finished { Why::Finished } else { Why::Again };
        if self.settle.add(path.clone(), why, since, now, now) {
            self.outbox.taken.insert(path, since);
        }
    }

    fn end_pass(&mut self, began: Instant, now: Instant) {
        let passed = std::mem::take(&mut self.outbox.passed);
        if passed >= BATCH as u64 {
            self.outbox.bulk = Some(now);
        }
        self.outbox.read = true;
        self.outbox.next_pass = now + if passed > LARGE.0 { LARGE.1 } else { TICK };
        if let Some(checking) = &mut self.checking
            && began >= checking.end
            && !checking.outbox
        {
            (checking.end, checking.outbox) = (now, true);
        }
    }

    // ---- the index ----------------------------------------------------------------------------------------------

    /// One transaction for all that waits, one at a time: what leaves first, so that what is noted again stays.
    pub(super) fn write_outbox(&mut self) {
        let outbox = &mut self.outbox;
        let idle = outbox.noted.is_empty() && outbox.ended.is_empty();
        if idle || !outbox.writing.is_empty() || outbox.next_write > Instant::now() {
            return;
        }
        let (noted, ended) = (std::mem::take(&mut outbox.noted), std::mem::take(&mut outbox.ended));
        let index = self.index.clone();
        outbox.writing.spawn(async move {
            let (notes, ends) = (noted.clone(), ended.clone());
            let write = index.write(move |tx| {
                tx.leave_outbox(&ends)?;
                tx.note(&notes)
            });
            Written { result: write.await, noted, ended }
        });
    }

    pub(super) fn end_writing(&mut self, written: Written) {
        let Written { noted, ended, result } = written;
        let outbox = &mut self.outbox;
        match result {
            Ok(()) => {
                outbox.count = (outbox.count + noted.len() as u64).saturating_sub(ended.len() as u64);
                for (path, since) in ended {
                    if outbox.taken.get(&path) == Some(&since) {
                        outbox.taken.remove(&path);
                    }
                }
            }
            Err(error) => {
                outbox.next_write = Instant::now() + RETRY;
                outbox.noted.extend(noted);
                outbox.ended.extend(ended);
                self.trouble(&error);
            }
        }
    }

    /// Counts it, a large one now and then.
    pub(super) fn count_outbox(&mut self) -> Result<(), ServiceError> {
        let outbox = &mut self.outbox;
        if outbox.count <= LARGE.0 || outbox.counted.elapsed() >= LARGE.1 {
            outbox.counted = Instant::now();
            outbox.count = self.index.outbox_count()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn who_ends_waits_for_what_is_being_written_and_for_nothing_else() {
        let mut outbox = Outbox::new(Instant::now());
        assert_eq!(outbox.settled().now_or_never(), Some(()));
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        outbox.writing.spawn(async move {
            let _ = gone.await;
            Written { noted: Vec::new(), ended: Vec::new(), result: Ok(()) }
        });
        assert_eq!(outbox.settled().now_or_never(), None);
        drop(go);
        outbox.settled().await;
    }
}
