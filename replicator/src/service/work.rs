//! Events in work: one of a path at a time, and what comes after each try.

use super::{
    Busy, DeliveryOf, Ended, SESSION_RETRY, STATE_DISK, Service, ServiceError, WANTED, urgent::may_pass,
};
use crate::{
    apply::Outcome,
    node::Next,
    work::{Item, Tried, try_once},
};
use common::{
    blobs::BlobStore,
    error_chain,
    hash::ContentHash,
    index::Landmark,
    log::{Delivery, EventLog},
    time::Timestamp,
};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

impl<L: EventLog, B: BlobStore> Service<L, B> {
    pub(super) fn start(&mut self) {
        let Some(session) = self.session.clone() else { return };
        while let Some(item) = self.next_item() {
            // A path whose event pauses stays busy, so that its events stay in order.
            let begun = item.failing.is_some();
            match self.busy.get_mut(&item.logged.subject) {
                Some(busy) if (!begun || busy.running) && !may_pass(&item, busy) => {
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

    pub(super) async fn end(&mut self, ended: Ended<DeliveryOf<L>>) -> Result<(), ServiceError> {
        let Ended { mut item, generation, result, took } = ended;
        let current = self.session.as_ref().is_some_and(|session| session.generation == generation);
        self.tell_end(&item, &result);
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
                if current && !item.urgent {
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
                if current && !item.urgent {
                    item.tries += 1;
                    self.rest(item, sleep(pause), false);
                    return Ok(());
                }
            }
            Ok(Tried::StoreAway { reason, pause }) => {
                self.room.remove(&item.logged.subject);
                self.trouble(reason);
                if current && !item.urgent {
                    item.tries += 1;
                    self.rest(item, sleep(pause), true);
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
    pub(super) fn newest_first(&mut self, item: Item<DeliveryOf<L>>) -> Item<DeliveryOf<L>> {
        let Some(busy) = self.busy.get_mut(&item.logged.subject) else { return item };
        match busy.waiting.pop_back() {
            Some(newest) if newest.logged.version > item.logged.version && !newest.urgent => {
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
    pub(super) fn rest(
        &mut self,
        mut item: Item<DeliveryOf<L>>,
        pause: impl Future<Output = ()> + Send + 'static,
        full: bool,
    ) {
        item.failing = item.failing.filter(|_| !full).or(Some(Instant::now()));
        if let Some(busy) = self.busy.get_mut(&item.logged.subject) {
            busy.running = false;
            self.desk.take_urgent(&mut busy.waiting);
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
    pub(super) fn free(&mut self, subject: &str) {
        if let Some(mut busy) = self.busy.remove(subject) {
            while let Some(item) = busy.waiting.pop_back() {
                let queue = if item.urgent { &mut self.desk.ready } else { &mut self.fresh };
                queue.push_front(item);
            }
        }
    }

    pub(super) async fn applied(&mut self, item: &Item<DeliveryOf<L>>, current: bool) {
        if item.repair.is_some() {
            return; // The version does not depend on it.
        }
        if current {
            let event = item.logged.id(self.node.log.subjects());
            let subject = item.logged.subject.clone();
            self.tracker.end(Landmark { version: item.logged.version, subject, event });
        }
        self.node.vitals.got_done();
        if item.urgent {
            return; // It is acknowledged when it comes in its turn.
        }
        self.outstanding.remove(&item.logged.version);
        self.taken.remove(&item.logged.version);
        if let Some(delivery) = &item.delivery {
            delivery.acknowledge().await;
        }
    }

    pub(super) fn say(&mut self, item: &Item<DeliveryOf<L>>, outcome: Outcome, took: Duration) {
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

    pub(super) fn trouble(&mut self, text: String) {
        self.troubles.say(&text);
        self.last_error = Some(text);
    }
}
