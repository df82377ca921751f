//! Now and then: the record, the version, the trash, and the end.

use super::{STATE_DISK, Service, ServiceError};
use crate::{node::ApplyError, parts, upkeep};
use common::{
    blobs::BlobStore,
    error_chain,
    event::Version,
    log::{Delivery, EventLog},
    nodes::{NodeRunState, Progress, Reporter},
    place::tidy_temp,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::sleep;

impl<L: EventLog, B: BlobStore> Service<L, B> {
    pub(super) async fn look_after(&mut self, reporter: &mut Reporter) -> Result<(), ServiceError> {
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
        if self.work.is_empty() && self.pauses.is_empty() && self.is_idle() {
            self.room.idle();
        }
        self.listen_while_behind().await;
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
            last_error: self.room.reason().or_else(|| self.last_error.clone()),
            ..Progress::starting()
        });
        reporter.write(&self.node.index, &self.node.root, progress).await?;
        Ok(())
    }

    pub(super) fn pending(&self) -> u64 {
        (self.desk.ready.len() + self.fresh.len() + self.again.len() + self.work.len() + self.pauses.len())
            as u64
    }

    pub(super) fn state(&self) -> NodeRunState {
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
    pub(super) async fn store_version(&mut self) -> Result<(), ServiceError> {
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
    pub(super) fn unless_full(&mut self, written: Result<(), ServiceError>) -> Result<(), ServiceError> {
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
    pub(super) fn is_idle(&self) -> bool {
        let head = self.session.as_ref().map(|session| session.log.last);
        let caught_up = head.is_some_and(|head| self.tracker.version().0 >= head);
        caught_up && !self.is_reading() && self.pending() == 0
    }

    pub(super) fn keep_up(&mut self) {
        self.tidy();
        if self.upkeep.is_empty() {
            let (node, days, idle) = (Arc::clone(&self.node), self.trash_days, self.is_idle());
            self.upkeep.spawn(async move {
                parts::drop_unwanted(&node, idle).await?;
                Ok(upkeep::run(&node, days).await?)
            });
        }
    }

    pub(super) fn kept_up(&mut self, done: Result<(), ApplyError>) -> Result<(), ServiceError> {
        match done {
            Ok(()) => {}
            Err(ApplyError::Index(error)) => self.unless_full(Err(error.into()))?,
            Err(error) => self.trouble(error_chain(&error)),
        }
        Ok(())
    }

    /// Beside the work: what was left may have to be read.
    pub(super) fn tidy(&mut self) {
        if let (true, Some(left)) =
            (self.tidying.is_empty(), self.left.clone().filter(|left| !left.is_empty()))
        {
            let node = Arc::clone(&self.node);
            self.tidying.spawn(async move { Ok(tidy_temp(&node.root, &node.index, &left).await?) });
        }
    }

    pub(super) fn tidied(&mut self, done: Result<(), ApplyError>) {
        match done {
            Ok(()) => self.left = Some(Arc::default()),
            Err(error) => self.trouble(error_chain(&error)),
        }
    }

    /// Something of the log is still to be read.
    pub(super) fn is_reading(&self) -> bool {
        self.tracker.to_read(self.log_end).is_some()
    }

    /// The consumer is ahead of its log: what is new is read by Direct Get until the log has passed it.
    pub(super) async fn follow_by_reading(&mut self) {
        if let Ok(state) = self.node.log.state().await {
            self.log_end = state.last;
        }
    }

    pub(super) fn report_progress(&self) {
        for delivery in self.outstanding.values() {
            let delivery = Arc::clone(delivery);
            tokio::spawn(async move { delivery.progress().await });
        }
    }

    /// Lets what is in flight end, within the time a process has to stop.
    pub(super) async fn wind_down(&mut self) {
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
