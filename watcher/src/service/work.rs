//! Work on paths: what is due begins as far as there is room, and what became of it is counted, said, or tried again.

use super::{Finished, Mode, Service, ServiceError, pause::PAUSE};
use crate::{
    node::{Next, PublishError},
    publish::{Cause, Outcome, publish},
    removals::is_rename,
    settle::{CAPACITY, REMOVAL, Ripe, STILL, Waiting, Why, ripe},
};
use common::{
    blobs::BlobStore,
    error_chain,
    index::{Answer, Generation, HeldKind},
    log::EventLog,
    path::MediaPath,
    root::Look,
    vitals::Direction,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Removals wait for additions noticed up to this much later: a rename is seen as a removal first.
const RENAME: Duration = Duration::from_secs(1);
/// They do not wait longer than this.
pub(super) const RENAME_PATIENCE: Duration = Duration::from_secs(60);
/// Room in the queue below which the outbox is not read on, so that removals must not wait for it.
const FULL: usize = 1024;
/// The replicator's placing takes a moment; look again after it.
const PLACING: Duration = Duration::from_millis(20);
/// A path that failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(2);
/// How old the mtime of a published file is when later writes can no longer share its stat.
const CLEAR_RACY: Duration = Duration::from_secs(1);

impl<L: EventLog, B: BlobStore> Service<L, B> {
    pub(super) fn dispatch(&mut self) -> Result<(), ServiceError> {
        if self.session.is_none() {
            return self.set_aside();
        }
        let now = Instant::now();
        let mut removals = Vec::new();
        while self.can_work() {
            let Some((path, waiting)) = self.settle.take_due(now) else { break };
            if self.in_flight.contains_key(&path) {
                self.keep(path, waiting.why, waiting.since, now + PLACING);
                continue;
            }
            if waiting.why == Why::Gone {
                removals.push((path, waiting));
                continue;
            }
            match self.root.look(&path) {
                Ok(Look::File(stat)) => match ripe(waiting.why, stat.stat, stat.links) {
                    Ripe::Now => self.start(path, waiting, cause(waiting.why)),
                    Ripe::Wait(wait, why) => self.keep(path, why, waiting.since, now + wait),
                },
                Ok(Look::Absent) => self.keep(path, Why::Gone, waiting.since, now + REMOVAL),
                // What it is now is said where it is looked at as a whole.
                Ok(_) | Err(_) => self.start(path, waiting, Cause::Other),
            }
        }
        if !removals.is_empty() {
            self.dispatch_removals(removals, now)?;
        }
        Ok(())
    }

    /// Removals that were seen twice. Additions noticed about the same time go first, so that a rename is known as one.
    pub(super) fn dispatch_removals(
        &mut self,
        due: Vec<(MediaPath, Waiting)>,
        now: Instant,
    ) -> Result<(), ServiceError> {
        let working = self.in_flight.values().copied().min();
        let oldest = [self.settle.oldest_addition(), working].into_iter().flatten().min();
        let scanning = !self.folders.is_empty() || !self.scans.is_empty() || !self.found.1.is_empty();
        // The same for what the outbox brought, which may be more than is taken into memory at once.
        let reading = self.outbox.is_being_read() && self.settle.len() + FULL < CAPACITY;
        let mut batch = Vec::new();
        for (path, waiting) in due {
            let since = self.outbox.bulk().map_or(waiting.since, |end| end.max(waiting.since));
            let busy = scanning || oldest.is_some_and(|oldest| oldest <= since + RENAME);
            if reading || busy && now.duration_since(since) < RENAME_PATIENCE {
                self.keep(path, Why::Gone, waiting.since, now + STILL);
                continue;
            }
            let Some(row) = self.index.path_state(&path)?.row else {
                self.outbox.end(&path);
                continue;
            };
            if self.index.awaits_repair(&path)? {
                // It comes back; if it cannot, a later scan finds it missing again.
                self.outbox.end(&path);
                continue;
            }
            match self.root.look(&path) {
                Ok(Look::Absent | Look::Folder) => batch.push((path, waiting, row.content().is_some())),
                Ok(Look::File(stat)) => self.keep(path, Why::Found(stat.stat), waiting.since, now + STILL),
                Ok(Look::Other(_) | Look::Unreachable(_)) => self.outbox.end(&path),
                Err(_) => self.keep(path, Why::Gone, waiting.since, now + RETRY),
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let files = self.index.present_count()?;
        let (root, index) = (Arc::clone(&self.root), self.index.clone());
        let real = |path: &MediaPath| is_rename(&root, &index, path).map(|rename| !rename);
        let (mut gone, mut moved) = (Vec::new(), Vec::new());
        for (path, waiting, present) in batch {
            let agreed = self.is_approved(&path)?;
            if agreed {
                self.removals().approve();
            }
            let approved = !present || agreed;
            if approved || !real(&path)? {
                moved.push((path, waiting));
            } else {
                gone.push((path, waiting));
            }
        }
        let mut count = gone.len() as u64;
        if count > 0 {
            for path in self.settle.removals() {
                count += u64::from(real(path)?);
            }
        }
        if self.removals().is_too_many(now, count, files) {
            let paths: Vec<MediaPath> = gone.into_iter().map(|(path, _)| path).collect();
            self.removals().hold(now, paths.len() as u64);
            tracing::error!(
                held = paths.len(),
                files,
                "many removals at once are held: `watcher approve` publishes them"
            );
            let notes = self.outbox.take_notes(&paths);
            self.work.spawn(async move {
                let path = paths[0].clone();
                let write = index.write(move |tx| {
                    tx.hold(&paths, HeldKind::Removal)?;
                    tx.leave_outbox(&notes)
                });
                let result = write.await;
                let result = result.map(|()| Outcome::NotProven).map_err(PublishError::Index);
                let waiting = Waiting::held(now);
                Finished { path, waiting, result, took: Duration::ZERO, session: None }
            });
        } else {
            self.removals().add(now, gone.len() as u64);
            moved.extend(gone);
        }
        self.cleared.extend(moved);
        Ok(())
    }

    pub(super) fn start_cleared(&mut self) {
        while self.can_work() {
            let Some((path, waiting)) = self.cleared.pop_front() else { return };
            if self.in_flight.contains_key(&path) {
                self.keep(path, waiting.why, waiting.since, Instant::now() + PLACING);
            } else {
                self.start(path, waiting, Cause::Removal);
            }
        }
    }

    pub(super) fn is_approved(&self, path: &MediaPath) -> Result<bool, ServiceError> {
        Ok(self.index.held_answer(path, HeldKind::Removal)? == Some(Answer::Approved))
    }

    pub(super) fn start(&mut self, path: MediaPath, waiting: Waiting, cause: Cause) {
        let (Some(session), Some(node)) = (self.session.clone(), self.node.clone()) else {
            let now = Instant::now();
            self.keep(path, waiting.why, waiting.since, now + STILL);
            return;
        };
        self.in_flight.insert(path.clone(), waiting.since);
        self.work.spawn(async move {
            let _turn = node.turns.take(path.clone()).await;
            let began = Instant::now();
            let result = publish(&node, &session, &path, waiting.detected, cause).await;
            let session = Some((session.generation, session.epoch));
            Finished { path, waiting, result, took: began.elapsed(), session }
        });
    }

    pub(super) fn finish(&mut self, finished: Finished) -> Result<(), ServiceError> {
        let Finished { path, waiting, result, took, session } = finished;
        self.in_flight.remove(&path);
        self.ended += 1;
        let now = Instant::now();
        match &result {
            Ok(outcome) => {
                if outcome.is_end() {
                    self.outbox.end(&path);
                }
                self.vitals.got_done();
            }
            Err(error) => {
                let (stage, why) = error.label();
                self.vitals.metrics.failed(stage, why, error.next() != Next::Halt);
            }
        }
        let was_there = matches!(&result, Ok(Outcome::Published { bytes: Some(_), .. } | Outcome::Unchanged));
        if was_there && waiting.why != Why::Gone && matches!(self.root.look(&path), Ok(Look::Absent)) {
            // When it went away, with its folder for instance, there was no row yet that could have been missed.
            self.keep(path.clone(), Why::Gone, now, now + REMOVAL);
        }
        match result {
            Ok(Outcome::Published { version, bytes, racy }) => {
                let kind = if bytes.is_some() { "added" } else { "removed" };
                let elapsed_ms = took.as_millis();
                tracing::info!(%version, %path, kind, bytes, elapsed_ms, "published");
                self.pause.got_through(now - took);
                match bytes {
                    Some(_) => self.vitals.metrics.published(),
                    None => self.vitals.metrics.removed(Direction::Out),
                }
                self.summary.published += u64::from(bytes.is_some());
                self.summary.removed += u64::from(bytes.is_none());
                self.summary.bytes += bytes.unwrap_or(0);
                self.count_done(bytes.unwrap_or(0));
                if racy {
                    self.racy.push_back((now + CLEAR_RACY, path));
                }
            }
            Ok(Outcome::Unchanged | Outcome::NotProven) => self.count_done(0),
            Ok(Outcome::Unstable(_)) => match self.root.look(&path) {
                Ok(Look::File(stat)) => self.keep(path, Why::Found(stat.stat), now, now + STILL),
                _ => self.keep(path, Why::Gone, now, now + REMOVAL),
            },
            Ok(Outcome::Placing) => self.keep(path, waiting.why, waiting.since, now + PLACING),
            Ok(Outcome::Lost) => {
                tracing::warn!(%path, "another node's content stands at this path; ours goes to the trash as a lost conflict");
                self.count_done(0);
                if session != self.current() {
                    // Of a log that may have been rolled back since: the next session's scan may have come too early.
                    self.keep(path, Why::Again, now, now);
                }
            }
            Ok(Outcome::Skipped(why)) => {
                tracing::debug!(%path, why, "not mirrored");
                self.count_done(0);
            }
            Err(error) => match error.next() {
                Next::Halt => return Err(ServiceError::Halted(error)),
                Next::NewSession => {
                    // A broker that is full may say nothing; one that is away is no reason to go slowly when it is back.
                    if error.is_timeout() && self.is_connected() {
                        self.pause.begin_unanswered(error_chain(&error), now);
                    }
                    if session == self.current() {
                        self.end_session();
                    }
                    self.keep(path, waiting.why, waiting.since, now);
                }
                Next::Pause if matches!(self.mode, Mode::Run) => {
                    match error.is_store_away() {
                        true => self.pause.begin_store_away(error_chain(&error), now),
                        false => self.pause.begin(error_chain(&error), now),
                    }
                    // Removals that could not be held are known by one of their paths only.
                    self.rescan |= session.is_none();
                    self.keep(path, waiting.why, waiting.since, now + PAUSE);
                }
                Next::Retry | Next::Pause => {
                    self.trouble(&error);
                    if matches!(self.mode, Mode::Scan { .. }) {
                        self.summary.failed += 1;
                        tracing::error!(%path, error = %error_chain(&error), "could not be published");
                    } else {
                        self.keep(path, waiting.why, now, now + RETRY);
                    }
                }
            },
        }
        Ok(())
    }

    fn current(&self) -> Option<(Generation, u64)> {
        self.session.as_ref().map(|session| (session.generation, session.epoch))
    }

    pub(super) fn count_done(&self, bytes: u64) {
        if let Mode::Scan { done, .. } = &self.mode {
            done.add(bytes);
        }
    }

    /// One warning when trouble begins, not one for each file.
    pub(super) fn trouble(&mut self, error: &dyn std::error::Error) {
        let text = error_chain(error);
        self.troubles.say(&text);
        self.last_trouble = Some(text);
    }
}

fn cause(why: Why) -> Cause {
    if why == Why::Finished { Cause::Finished } else { Cause::Other }
}
