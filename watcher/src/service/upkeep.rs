//! What the loop does now and then: what it says of itself, the end of a generation's check, scans that are due, held removals, stats that may be trusted,
//! blobs that others want.

use super::{Service, ServiceError};
use crate::{removals::release_held, service::work::RENAME_PATIENCE, settle::Why, wanted};
use common::{
    blobs::BlobStore,
    log::EventLog,
    nodes::{NodeRunState, Progress, Reporter},
    root::Look,
    vitals::{Long, Turn},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// A full scan that finds what no event told, whatever the reason.
const RESCAN: Duration = Duration::from_secs(3600);

impl<L: EventLog, B: BlobStore> Service<L, B> {
    /// At each turn. Returns what the record is to say.
    pub(super) fn tell(&self) -> Progress {
        let queues = [
            ("settling", self.settle.len()),
            ("cleared", self.cleared.len()),
            ("work", self.in_flight.len()),
            ("found", self.found.1.len()),
        ];
        queues.into_iter().for_each(|(queue, depth)| self.vitals.metrics.set_queue(queue, depth));
        let turn = Turn {
            progress: self.progress(),
            session: self.session.is_some(),
            no_room: self.pause.reason().is_some(),
            work: !self.in_flight.is_empty() || !self.cleared.is_empty(),
            oldest: self.in_flight.values().min().copied(),
            long: self.long(),
        };
        self.vitals.turn(&self.index, &self.root, turn)
    }

    /// A scan, or what is to be published. How large a tree is that has not been scanned before nobody knows.
    fn long(&self) -> Option<Long> {
        let total = self.walk.known.load(Ordering::Relaxed);
        match self.full_scan {
            Some(_) if total > 0 => {
                let done = self.walk.met.load(Ordering::Relaxed).min(total);
                Some(Long { what: "scanning", done, total })
            }
            None if self.session.is_some() && self.pending() > 0 => {
                Some(Long { what: "publishing", done: self.ended, total: self.ended + self.pending() })
            }
            _ => None,
        }
    }

    fn pending(&self) -> u64 {
        let known = self.settle.len() + self.cleared.len() + self.in_flight.len();
        known as u64 + self.outbox.waiting()
    }

    fn progress(&self) -> Progress {
        Progress {
            state: self.state(),
            pending: self.pending(),
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
            _ if self.index.held_count().is_ok_and(|held| held.removals > 0) => State::Degraded,
            _ => State::Ready,
        }
    }

    pub(super) fn look_for_wanted(&mut self, reporter: Option<&Reporter>) {
        let bucket = reporter.and_then(Reporter::bucket);
        if let (true, Some(bucket), Some(node)) = (self.wanted.is_empty(), bucket, self.node.clone()) {
            self.wanted.spawn(async move { wanted::serve(&node, &bucket).await });
        }
    }

    pub(super) async fn look_after(&mut self) -> Result<(), ServiceError> {
        let now = Instant::now();
        let node = self.index.node()?;
        if self.session.as_ref().is_some_and(|session| session.generation != node.generation || node.restored)
        {
            self.end_session();
        }
        self.end_checking().await?;
        let read_since =
            self.last_full.is_some_and(|(_, _, log_read)| !log_read) && node.fresh && node.log_read;
        let due = self.last_full.is_some_and(|(began, _, _)| began.elapsed() > RESCAN);
        // What the log lacks of this node, when the others are there to take it.
        let returned = self.vitals.neighbours().returned;
        let returned = std::mem::replace(&mut self.returned, returned) != returned;
        self.rescan |= read_since || due || returned;
        self.clear_racy(now).await?;
        release_held(&self.root, &self.index, &mut self.held_turn).await?;
        if self.session.is_some() {
            for (path, approved) in self.index.held()? {
                if approved && !self.in_flight.contains_key(&path) {
                    self.keep(path, Why::Gone, now - RENAME_PATIENCE, now);
                }
            }
        }
        self.count_outbox()?;
        if self.session.is_some() && self.settle.is_empty() {
            self.last_trouble = None;
            if self.cleared.is_empty() && self.in_flight.is_empty() {
                self.pause.end();
            }
        }
        Ok(())
    }

    /// Everything that a full scan found, after the log was read to its end, is settled: the full check of this generation has ended.
    async fn end_checking(&mut self) -> Result<(), ServiceError> {
        let ended = |checking: &super::Checking| {
            checking.outbox
                && self.found.1.is_empty()
                && !self.rescan
                && self.cleared.is_empty()
                && !self.settle.any_before(checking.end)
                && !self.in_flight.values().any(|since| *since <= checking.end)
        };
        if !self.checking.as_ref().is_some_and(ended) {
            return Ok(());
        }
        let Some(super::Checking { generation, .. }) = self.checking.take() else { return Ok(()) };
        self.index
            .write(move |tx| {
                if tx.node().generation == generation {
                    tx.node_mut().fresh = false;
                }
                Ok(())
            })
            .await?;
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
            let (root, chunk) = (Arc::clone(&self.root), chunk.to_vec());
            self.index
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
}
