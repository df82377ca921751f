//! What watcher and replicator have in common: starting, sessions, intents. Each function stands for the one that its comment names; what it decides by
//! is the real code, and each [`pause`](Process::pause) is a place where the real one waits for disk or network.

use crate::{replicator, watcher, world::World};
use common::{
    broker::BrokerError,
    event::Kind,
    hash::ContentHash,
    index::{Commit, Index, IndexError, Intent, PathState, Row, Stat, Trashed},
    log::{EventLog, MemoryLog},
    names::NodeName,
    path::MediaPath,
    time::Timestamp,
    trust::{self, Session, TrustError},
};
use std::{
    cell::{Cell, RefCell, RefMut},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    Watcher,
    Replicator,
}

impl Role {
    pub const ALL: [Self; 2] = [Self::Watcher, Self::Replicator];
}

/// The session is over: look at the log again.
#[derive(Debug)]
pub struct Over;

impl From<BrokerError> for Over {
    fn from(_: BrokerError) -> Self {
        Self
    }
}

impl From<IndexError> for Over {
    fn from(error: IndexError) -> Self {
        panic!("the index in memory failed: {error}")
    }
}

impl From<TrustError> for Over {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Broker(error) => error.into(),
            TrustError::Index(error) => error.into(),
        }
    }
}

/// What became of an intent (`resolve_abandoned`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    Finished,
    /// Its maker lives.
    No,
}

/// A watcher or a replicator.
pub struct Process {
    world: Rc<RefCell<World>>,
    pub node: usize,
    pub role: Role,
    pub run: String,
    pub name: NodeName,
    pub index: Index,
    pub log: MemoryLog,
    /// Where it pauses.
    pub at: Rc<Cell<&'static str>>,
}

impl Process {
    pub fn new(world: &Rc<RefCell<World>>, node: usize, role: Role, run: u64) -> Self {
        let (index, log) = (world.borrow().nodes[node].index.clone(), world.borrow().log.clone());
        Self {
            world: Rc::clone(world),
            node,
            role,
            run: run.to_string(),
            name: format!("n{node}").parse().expect("a good name"),
            index,
            log,
            at: Rc::new(Cell::new("not started")),
        }
    }

    pub fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    pub fn note(&self, text: String) {
        self.world().note(format!("{}{:?} {text}", self.name, self.role));
    }

    /// A place where another process may run, a user may act, or this process may die.
    pub async fn pause(&self, at: &'static str) {
        self.at.set(at);
        Pause(false).await;
    }

    pub fn stat(&self, path: &MediaPath) -> Option<Stat> {
        self.world().nodes[self.node].disk.stat(path)
    }

    /// Both services' `run`.
    pub async fn run(self) {
        if self.role == Role::Watcher {
            self.world().nodes[self.node].noticed.clear();
        }
        self.raise_marker().await;
        let (mut watcher, mut replicator) = (watcher::Kept::default(), replicator::Kept::default());
        loop {
            self.pause("between sessions").await;
            let epoch = self.world().epoch;
            let _ = self.session(&mut watcher, &mut replicator).await;
            let up = self.world().up;
            let lost = !up || self.world().epoch != epoch;
            watcher.away |= lost;
            replicator.unchecked |= lost;
            if !up && self.role == Role::Watcher {
                let _ = watcher::set_aside(&self).await;
            }
        }
    }

    /// Both services' `begin_session`, and what follows until it is over.
    async fn session(
        &self,
        watcher: &mut watcher::Kept,
        replicator: &mut replicator::Kept,
    ) -> Result<(), Over> {
        let epoch = self.world().epoch;
        let session = trust::check(&self.log, &self.index, epoch).await?;
        if let Some(why) = &session.began {
            self.note(format!("generation {}: {why}", session.generation.0));
        }
        self.pause("trusted").await;
        for (path, intent) in self.index.intents()? {
            self.resolve_abandoned(&path, &intent).await?;
        }
        match self.role {
            Role::Watcher => watcher::session(self, &session, watcher).await,
            Role::Replicator => replicator::session(self, &session, replicator).await,
        }
    }

    /// `Gate::stands`.
    pub fn check(&self, session: &Session) -> Result<(), Over> {
        let node = self.index.node()?;
        let stands = self.world().up && self.world().epoch == session.epoch;
        if stands && node.generation == session.generation && !node.restored { Ok(()) } else { Err(Over) }
    }

    /// `raise_marker`: index, root, index, under a lock that dies with its holder.
    async fn raise_marker(&self) {
        while self.world().nodes[self.node].marker.is_some() {
            self.pause("the marker's lock").await;
        }
        self.world().nodes[self.node].marker = Some(self.role);
        let found = self.world().nodes[self.node].disk.number;
        let raised = self.index.write(move |tx| {
            let node = tx.node_mut();
            let expected = [node.marker_number, node.marker_pending].contains(&found);
            node.restored |= node.marker_name.is_some() && !expected;
            node.marker_name = Some("root".into());
            node.marker_pending = node.marker_number.max(found) + 1;
            Ok(node.marker_pending)
        });
        let next = raised.await.expect("an index in memory");
        self.pause("number pending").await;
        self.world().nodes[self.node].disk.number = next;
        self.pause("number in root").await;
        let raised = self.index.write(move |tx| {
            tx.node_mut().marker_number = next;
            Ok(())
        });
        raised.await.expect("an index in memory");
        self.world().nodes[self.node].marker = None;
    }

    /// `resolve_abandoned` of both `node.rs`.
    pub async fn resolve_abandoned(&self, path: &MediaPath, intent: &Intent) -> Result<Abandoned, Over> {
        let replicator = (self.node, Role::Replicator);
        let abandoned = match self.role {
            Role::Replicator => intent.owner != self.run,
            Role::Watcher => !self.world().alive.contains_key(&replicator),
        };
        if !abandoned {
            return Ok(Abandoned::No);
        }
        self.resolve(path, intent).await?;
        Ok(Abandoned::Finished)
    }

    /// What the file holds, by the row when its stat tells (`look_at` of both data paths).
    pub fn content(&self, path: &MediaPath, row: Option<&Row>) -> Option<(ContentHash, Stat)> {
        let file = self.world().nodes[self.node].disk.tree.get(path).cloned()?;
        let told = row.filter(|row| row.stat == Some(file.stat)).and_then(Row::content);
        Some((told.unwrap_or(file.content), file.stat))
    }

    /// `resolve`: what stands under the temp name says whether the rename happened. True: it had, and we recorded it.
    pub async fn resolve(&self, path: &MediaPath, intent: &Intent) -> Result<bool, Over> {
        let (under_temp, now) = {
            let disk = &self.world().nodes[self.node].disk;
            (disk.temp.get(&intent.temp).cloned(), disk.stat(path))
        };
        let renamed = match intent.kind {
            Kind::Added => under_temp.as_ref().map(|file| file.stat.ino) != intent.temp_ino,
            Kind::Removed => under_temp.is_some(),
        };
        if !renamed {
            let (at, it) = (path.clone(), intent.clone());
            if self.index.write(move |tx| tx.drop_intent(&at, &it)).await? {
                self.pause("intent dropped").await;
                self.world().nodes[self.node].disk.temp.remove(&intent.temp);
            }
            return Ok(false);
        }
        // Never racy: no two writes share a tick.
        let expected = |out: &Stat| {
            let as_seen = |old: Stat| (old.ino, old.size, old.mtime) == (out.ino, out.size, out.mtime);
            intent.old.is_some_and(|(_, old)| as_seen(old))
        };
        let placed = now.filter(|now| {
            Some(now.ino) == intent.temp_ino && (now.mtime, now.size) == (intent.mtime, intent.size)
        });
        let trashed = under_temp.map(|out| Trashed {
            id: intent.temp.clone(),
            path: path.clone(),
            sha256: intent.old.map(|(content, _)| content).filter(|_| expected(&out.stat)),
            lost: !(intent.known && expected(&out.stat)),
            stat: out.stat,
            moved: Timestamp::from_nanos(0),
            checked: false,
        });
        self.pause("seen under the temp name").await;
        let commit = Commit {
            path: path.clone(),
            kind: intent.kind,
            sha256: intent.sha256,
            size: intent.size,
            stat: placed,
            racy: false,
            version: intent.version,
            replaced: intent.replaced,
            subject: self.log.subjects().of(path),
            event: intent.event,
            generation: intent.generation,
        };
        let (it, entry) = (intent.clone(), trashed.clone());
        let written = self.index.write(move |tx| {
            if !tx.drop_intent(&commit.path, &it)? {
                return Ok(false);
            }
            if !tx.commit(&commit)? {
                tx.placed_again(&commit)?;
            }
            if commit.kind == Kind::Added && commit.stat.is_none() {
                tx.ask_watcher(&commit.path)?;
            }
            entry.iter().try_for_each(|entry| tx.add_trash(entry))?;
            Ok(true)
        });
        if !written.await? {
            return Ok(false);
        }
        self.note(format!("row {path}={} #{}", self.name_of(intent.sha256), intent.version));
        if let Some(entry) = trashed {
            self.note(format!("trash {}{path}", if entry.lost { "lost " } else { "" }));
            self.pause("trash recorded").await;
            self.trash_temp(&entry.id);
        }
        Ok(true)
    }

    /// `Root::trash_temp`.
    pub fn trash_temp(&self, id: &str) {
        let disk = &mut self.world().nodes[self.node].disk;
        if let Some(out) = disk.temp.remove(id) {
            disk.trash.insert(id.into(), out);
        }
    }

    pub fn name_of(&self, content: ContentHash) -> String {
        self.world().name(content).to_owned()
    }

    /// A row commit, when nothing about the path changed since it was looked at (`Committing::row`, `ask_log`). `ask`: the watcher is to look at what stands there.
    pub async fn commit(
        &self,
        seen: &PathState,
        commit: Commit,
        session: &Session,
        ask: bool,
    ) -> Result<bool, Over> {
        let (seen, generation, said) = (seen.clone(), session.generation, commit.clone());
        let done = self.index.write(move |tx| {
            if tx.node().generation != generation || tx.path_state(&commit.path)? != seen {
                return Ok(false);
            }
            tx.commit(&commit)?;
            if let Some(offer) = &seen.offer
                && (offer.kind, offer.sha256, offer.replaces) == (commit.kind, commit.sha256, commit.replaced)
                && offer.generation == commit.generation
            {
                tx.withdraw(&commit.path, offer)?;
            }
            if ask {
                tx.ask_watcher(&commit.path)?;
            }
            Ok(true)
        });
        let done = done.await?;
        if done {
            let (kind, name) = (said.kind, self.name_of(said.sha256));
            self.note(format!("row {}={name} {kind:?} #{}", said.path, said.version));
        }
        Ok(done)
    }
}

/// Pending once.
struct Pause(bool);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}
