//! Events in: what the consumer delivers, and what is read again.

use super::{DeliveryOf, READY, Read, SESSION_RETRY, Service};
use crate::work::Item;
use common::{
    blobs::BlobStore,
    broker::BrokerError,
    error_chain,
    event::Version,
    log::{Delivery, EventLog, Logged},
};
use std::{collections::BTreeSet, sync::Arc};
use tokio::time::Instant;

/// Events read at once by Direct Get.
const READ: usize = 256;
/// Events that wait, for room or for their next try, while more are read again at most: what is not read costs no memory.
const WAITING: usize = 4096;

impl<L: EventLog, B: BlobStore> Service<L, B> {
    pub(super) fn take(&mut self, delivery: DeliveryOf<L>) {
        self.listening.undelivered = delivery.pending();
        let delivery = Arc::new(delivery);
        let logged = delivery.logged().clone();
        self.tracker.begin(logged.version);
        self.taken.entry(logged.version).or_insert_with(Instant::now);
        self.outstanding.insert(logged.version, Arc::clone(&delivery));
        self.fresh.push_back(Item::new(logged, Some(delivery)));
    }

    pub(super) fn read_on(&mut self) {
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

    pub(super) fn take_read(&mut self, read: Read) {
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

    pub(super) fn take_again(&mut self, events: Vec<Logged>) {
        for logged in events {
            self.tracker.begin(logged.version);
            self.taken.entry(logged.version).or_insert_with(Instant::now);
            self.again.push_back(Item::new(logged, None));
        }
    }

    /// Goes on with the check while nothing waits.
    pub(super) fn check_on(&mut self) {
        self.check.take_if(|check| check.is_over());
        let waiting = !self.fresh.is_empty() || !self.again.is_empty() || self.is_reading();
        let (version, idle) = (self.tracker.version().0, self.pending() == 0);
        if let Some(check) = self.check.as_mut().filter(|_| !waiting) {
            check.go_on(&self.node.log, &self.node.index, version, idle);
        }
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
