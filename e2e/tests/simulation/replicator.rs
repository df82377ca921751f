//! The replicator's glue around its decisions: the loop (`replicator/src/service.rs`, `work.rs`, `upkeep.rs`), one event at a time.

use crate::{
    apply::{Failed, apply},
    process::{Over, Process},
    repair::repair,
};
use ::replicator::{check::page, tracker::Tracker};
use common::{
    event::Version,
    hash::ContentHash,
    index::{Landmark, Parked, Repair, Trashed},
    log::{Delivery, EventLog, Follower, Logged, MemoryDelivery, MemoryFollower},
    path::MediaPath,
    time::Timestamp,
    trust::Session,
};
use futures_util::FutureExt;
use std::collections::{BTreeSet, VecDeque};

/// An event is parked after so many failures, which stand for 30 s.
const PATIENCE: usize = 3;
/// Events read at once; small, so that reading again is cut by whatever happens.
const READ: usize = 2;

struct Item {
    logged: Logged,
    delivery: Option<MemoryDelivery>,
    failures: usize,
    parked: bool,
    repair: Option<Repair>,
    urgent: bool,
}

impl Item {
    fn new(logged: Logged) -> Self {
        Self { logged, delivery: None, failures: 0, parked: false, repair: None, urgent: false }
    }
}

/// What the loop keeps from one session to the next.
pub struct Kept {
    /// The broker was away, or the process was, since the log was read through.
    pub unchecked: bool,
    tidied: bool,
}

impl Default for Kept {
    fn default() -> Self {
        Self { unchecked: true, tidied: false }
    }
}

/// `Service`, between two looks at the log.
struct Service<'a> {
    p: &'a Process,
    session: &'a Session,
    follower: MemoryFollower,
    tracker: Tracker,
    log_end: Version,
    queue: VecDeque<Item>,
    wanted: BTreeSet<ContentHash>,
    /// The check of the log behind the version: from where, and up to where.
    check: Option<(Version, Version)>,
}

/// `Service::run` until the session ends.
pub async fn session(p: &Process, session: &Session, kept: &mut Kept) -> Result<(), Over> {
    if !kept.tidied {
        tidy_temp(p).await?;
        kept.tidied = true;
    }
    let mut follower = p.log.follow(&p.name).await?;
    let consumer = follower.state().await?;
    p.pause("following").await;
    let state = p.index.node()?;
    let mut tracker = Tracker::new(state.version, state.at_version.clone());
    let delivered = consumer.delivered.max(consumer.acknowledged);
    tracker.read_after(delivered);
    let mut service = Service {
        p,
        session,
        follower,
        tracker,
        log_end: session.log.last,
        queue: VecDeque::new(),
        wanted: BTreeSet::new(),
        check: None,
    };
    if replicator::check::is_due(std::mem::take(&mut kept.unchecked), &state) {
        service.check = Some((Version::new(1), session.log.last));
    }
    service.want(|_| ());
    loop {
        p.check(session)?;
        // The version is stored every 200 ms, not with every event.
        if !service.round().await? {
            service.store_version().await?;
            service.check_on().await?;
        }
        p.pause("round done").await;
        upkeep(p).await?;
    }
}

impl Service<'_> {
    /// Takes what is delivered, reads on, and tries one event. False: there was none.
    async fn round(&mut self) -> Result<bool, Over> {
        if let Some(delivery) = self.follower.next().now_or_never() {
            let delivery = delivery?;
            let logged = delivery.logged().clone();
            self.tracker.begin(logged.version);
            self.queue.push_back(Item { delivery: Some(delivery), ..Item::new(logged) });
        }
        self.read_on().await?;
        self.follow_by_reading().await?;
        self.look_for_asked().await?;
        self.look_for_urgent().await?;
        let Some(mut item) = self.queue.pop_front() else { return Ok(false) };
        self.p.pause("about to apply").await;
        let tried = match &item.logged.event {
            Ok(event) if item.repair.is_some() => repair(self.p, self.session, &item.logged, event).await,
            Ok(event) => apply(self.p, self.session, &item.logged, event).await,
            Err(_) => unreachable!("nobody injects poison here"),
        };
        match tried {
            Ok(()) => {
                if let Ok(event) = &item.logged.event {
                    self.want(|wanted| _ = wanted.remove(&event.sha256));
                }
                if let Some(Repair { path, since, .. }) = item.repair.clone() {
                    self.p.index.write(move |tx| tx.end_repair(&path, since)).await?;
                }
                if item.parked {
                    let (subject, version) = (item.logged.subject.clone(), item.logged.version);
                    self.p.index.write(move |tx| tx.unpark(&subject, version)).await?;
                }
                self.applied(&item).await;
            }
            Err(Failed::Over) => return Err(Over),
            Err(Failed::Want(content)) => {
                self.want(|wanted| _ = wanted.insert(content));
                self.failed(item).await?;
            }
            Err(Failed::Held) => {
                park(self.p, self.session, &item).await?;
                self.applied(&item).await;
            }
            Err(Failed::Changing) => {
                // Not for ever, but never parked for it either: no time passes here.
                item.failures = item.failures.min(PATIENCE - 2);
                self.failed(item).await?;
            }
        }
        Ok(true)
    }

    /// `try_once`: tried again behind the other paths' events, then parked.
    async fn failed(&mut self, mut item: Item) -> Result<(), Over> {
        if item.repair.is_some() || item.urgent {
            return Ok(()); // It stays in the index, or comes in its turn.
        }
        item.failures += 1;
        if item.parked || item.failures >= PATIENCE {
            park(self.p, self.session, &item).await?;
            self.applied(&item).await;
            return Ok(());
        }
        // A path's events stay in order: this one goes before its next.
        let next = self.queue.iter().position(|other| other.logged.subject == item.logged.subject);
        match next {
            Some(next) => self.queue.insert(next, item),
            None => self.queue.push_back(item),
        }
        Ok(())
    }

    /// `applied`.
    async fn applied(&mut self, item: &Item) {
        if item.repair.is_some() {
            return;
        }
        let event = item.logged.id(self.p.log.subjects());
        let subject = item.logged.subject.clone();
        self.tracker.end(Landmark { version: item.logged.version, subject, event });
        self.p.pause("recorded").await;
        if let Some(delivery) = &item.delivery {
            delivery.acknowledge().await;
        }
    }

    fn want(&mut self, change: impl FnOnce(&mut BTreeSet<ContentHash>)) {
        change(&mut self.wanted);
        self.p.world().nodes[self.p.node].wanted = self.wanted.clone();
    }

    /// `read_on`, `read`, `take_read`.
    async fn read_on(&mut self) -> Result<(), Over> {
        let Some((from, to)) = self.tracker.to_read(self.log_end) else { return Ok(()) };
        let state = self.p.index.node()?;
        let newest_only = state.fresh && !state.log_read;
        let mut events = self.p.log.read(from, READ).await?;
        self.p.pause("read again").await;
        let next = events.last().map_or(to, |last| last.version.min(to)).next();
        events.retain(|logged| logged.version <= to);
        if newest_only {
            let paths: Vec<MediaPath> =
                events.iter().filter_map(|logged| Some(logged.event.as_ref().ok()?.path.clone())).collect();
            let newest: BTreeSet<Version> =
                self.p.log.lasts(&paths).await?.into_iter().flatten().map(|last| last.version).collect();
            events.retain(|logged| newest.contains(&logged.version));
        }
        for logged in events {
            self.tracker.begin(logged.version);
            self.queue.push_back(Item::new(logged));
        }
        self.tracker.read_up_to(next);
        Ok(())
    }

    /// `follow_by_reading`.
    async fn follow_by_reading(&mut self) -> Result<(), Over> {
        if self.tracker.reads_beyond(self.log_end) {
            self.log_end = self.p.log.state().await?.last;
        }
        Ok(())
    }

    /// `check_on`, while nothing else is to be done.
    async fn check_on(&mut self) -> Result<(), Over> {
        let Some((from, to)) = self.check.filter(|(from, to)| from <= to) else { return Ok(()) };
        let page = page(&self.p.log, &self.p.index, self.session.generation, from, to).await;
        let page = page.map_err(|_| Over)?;
        self.p.pause("checked").await;
        self.check = Some((page.next, to));
        for logged in page.missing {
            self.p.note(format!("was never delivered #{}", logged.version));
            self.tracker.begin(logged.version);
            self.queue.push_back(Item::new(logged));
        }
        Ok(())
    }

    /// `look_for_asked`; no time passes here, so that each is due when nothing else is to be done.
    async fn look_for_asked(&mut self) -> Result<(), Over> {
        if !self.queue.is_empty() {
            return Ok(());
        }
        for repair in self.p.index.repairs_due(Timestamp::now())? {
            match self.p.log.last(&repair.path).await? {
                Some(last) if last.event.is_ok() => {
                    self.queue.push_back(Item { repair: Some(repair), ..Item::new(last) });
                }
                _ => {
                    let ended = self.p.index.write(move |tx| {
                        tx.ask_watcher(&repair.path)?;
                        tx.end_repair(&repair.path, repair.since)
                    });
                    ended.await?;
                }
            }
        }
        for parked in self.p.index.parked()?.into_iter().filter(|parked| !parked.permanent) {
            let subjects = self.p.log.subjects();
            let (stamp, subject) = (parked.stamp, parked.subject);
            let logged = Logged::new(subjects, parked.version, stamp, subject, parked.payload.into());
            self.queue.push_back(Item { parked: true, ..Item::new(logged) });
        }
        Ok(())
    }

    /// `take_ask`, `look`, `apply_now`: before everything that waits, and its path's earlier events after it.
    async fn look_for_urgent(&mut self) -> Result<(), Over> {
        let Some(path) = self.p.world().nodes[self.p.node].read.take() else { return Ok(()) };
        let newest = self.p.log.last(&path).await?;
        self.p.pause("looked for a reader").await;
        if let Some(newest) = newest {
            self.p.note(format!("#{} out of turn", newest.version));
            self.queue.push_front(Item { urgent: true, ..Item::new(newest) });
        }
        Ok(())
    }

    /// `store_version`.
    async fn store_version(&mut self) -> Result<(), Over> {
        let (version, at_version) = self.tracker.version();
        let log_read = version >= self.session.log.last && self.tracker.to_read(self.log_end).is_none();
        let state = self.p.index.node()?;
        if version == state.version && (state.log_read || !log_read) {
            return Ok(());
        }
        let (at_version, beyond, generation) =
            (at_version.cloned(), self.tracker.beyond(), self.session.generation);
        let stored = self.p.index.write(move |tx| {
            let node = tx.node_mut();
            if node.generation == generation {
                node.version = version;
                node.at_version = at_version.or(node.at_version.take());
                node.beyond = beyond;
                node.log_read |= log_read;
            }
            Ok(())
        });
        stored.await?;
        self.p.note(format!("version {version}{}", if log_read { ", log read" } else { "" }));
        Ok(())
    }
}

/// `park`.
async fn park(p: &Process, session: &Session, item: &Item) -> Result<(), Over> {
    let Ok(event) = &item.logged.event else { return Ok(()) };
    let epoch = Timestamp::from_nanos(0);
    let parked = Parked {
        subject: item.logged.subject.clone(),
        path: Some(event.path.clone()),
        version: item.logged.version,
        stamp: item.logged.time,
        payload: item.logged.payload.to_vec(),
        reason: "its blob is missing".into(),
        permanent: false,
        since: epoch,
        tries: 0,
        next_try: epoch,
    };
    if !item.parked {
        p.note(format!("parks #{} {}", item.logged.version, event.path));
    }
    let (generation, event) = (session.generation, item.logged.id(p.log.subjects()));
    let kept = p.index.write(move |tx| {
        let current = tx.node().generation == generation;
        if current {
            tx.park(&parked, event)?;
        }
        Ok(current)
    });
    if kept.await? { Ok(()) } else { Err(Over) }
}

/// `tidy_temp`.
async fn tidy_temp(p: &Process) -> Result<(), Over> {
    let ours: BTreeSet<String> = p.index.intents()?.into_iter().map(|(_, intent)| intent.temp).collect();
    let names: Vec<String> = p.world().nodes[p.node].disk.temp.keys().cloned().collect();
    for name in names.into_iter().filter(|name| !ours.contains(name)) {
        if p.index.trashed(&name)?.is_none() {
            let Some(file) = p.world().nodes[p.node].disk.temp.get(&name).cloned() else { continue };
            if name.split('.').next() == Some(file.content.to_string().as_str()) {
                p.world().nodes[p.node].disk.temp.remove(&name);
                continue;
            }
            let entry = Trashed {
                id: name.clone(),
                path: name.parse().map_err(|_| Over)?,
                sha256: None,
                lost: true,
                stat: file.stat,
                moved: Timestamp::from_nanos(0),
                checked: true,
            };
            p.index.write(move |tx| tx.add_trash(&entry)).await?;
            p.note(format!("lost conflict from tmp: {}", p.name_of(file.content)));
        }
        p.pause("tidying").await;
        p.trash_temp(&name);
    }
    Ok(())
}

/// `upkeep::run`: what was written after it was exchanged out is a lost conflict. Every look stands for the one after 10 s, or the one before it is dropped.
async fn upkeep(p: &Process) -> Result<(), Over> {
    for entry in p.index.trash()?.into_iter().filter(|entry| !entry.lost) {
        let stat = p.world().nodes[p.node].disk.trash.get(&entry.id).map(|file| file.stat);
        let Some(stat) = stat else {
            p.trash_temp(&entry.id);
            continue;
        };
        let written = (stat.mtime, stat.size) != (entry.stat.mtime, entry.stat.size);
        if written {
            p.note(format!("lost conflict: {} was written after it was replaced", entry.path));
        }
        if written || !entry.checked {
            let kept = Trashed { lost: written, checked: true, stat, ..entry };
            p.index.write(move |tx| tx.add_trash(&kept)).await?;
            p.pause("trash looked at").await;
        }
    }
    Ok(())
}
