//! One collection: list, read the log, take away.

use super::{
    lease::Lease,
    plan::{Fate, Nodes, Refusal, Terms, too_many},
};
use common::{
    blobs::{BlobError, BlobStore, Blobs, Listed, Orphan, Store, Tombstone, objects::MarkError},
    broker::BrokerError,
    event::{StreamCreated, Version},
    hash::ContentHash,
    log::{EventLog, JetStreamLog},
    names::NodeName,
    nodes::NodeBucket,
    settings::Retention,
    time::Timestamp,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Blobs that the log is asked about in one reading: some 20 MB.
const CANDIDATES: usize = 50_000;
/// Events read at once.
const PAGE: usize = 500;
/// Blobs taken away at once.
const AT_ONCE: usize = 16;
/// How long blobs that should have stayed are waited for, and how often it is looked: nodes read what is wanted every 5 s.
const BROUGHT_BACK: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks whether the lease still holds.
const STEP: usize = 500;

/// Why a collection did not come to its end. What was taken away is gone, and nothing that is needed is among it.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("the log became another one while it was read")]
    AnotherLog,
    #[error(transparent)]
    Mark(#[from] MarkError),
    #[error("another process has taken over, since this one stood still for a minute")]
    LeaseLost,
}

/// What is to be taken away.
pub struct Plan {
    store: Store,
    /// Where the log ended before it was read.
    read_to: Version,
    /// Blobs in the store.
    pub blobs: u64,
    /// Those without a name in the log.
    pub unnamed: Vec<Listed>,
    /// Those that the nodes have.
    pub applied: Vec<Listed>,
    /// Chunks of no blob.
    pub orphans: Vec<Orphan>,
    tombstones: Vec<Tombstone>,
    /// Messages of the bucket that belong to something.
    messages: u64,
    refusals: Vec<Refusal>,
}

impl Plan {
    fn of(store: Store, read_to: Version) -> Self {
        Self {
            store,
            read_to,
            blobs: 0,
            unnamed: Vec::new(),
            applied: Vec::new(),
            orphans: Vec::new(),
            tombstones: Vec::new(),
            messages: 0,
            refusals: Vec::new(),
        }
    }

    /// Why an operator has to agree first.
    pub fn refusal(&self) -> Option<&Refusal> {
        let something = self.unnamed.len() + self.applied.len() + self.orphans.len() > 0;
        self.refusals.first().filter(|_| something)
    }

    /// Bytes of its blobs.
    pub fn bytes(&self) -> u64 {
        self.unnamed.iter().chain(&self.applied).map(|listed| listed.size).sum()
    }
}

/// What was taken away.
#[derive(Default, Debug)]
pub struct Done {
    pub blobs: u64,
    pub bytes: u64,
    /// Marked as in use since the plan was made.
    pub kept: u64,
    pub orphans: u64,
}

pub struct Collector {
    pub log: JetStreamLog,
    pub blobs: Blobs,
    pub nodes: NodeBucket,
    pub retention: Retention,
    pub grace: Duration,
}

impl Collector {
    /// What there is to do. Reads the names of all blobs once, and the log once for each 50,000 that are old enough.
    pub async fn plan(&self, lease: Option<&mut Lease>) -> Result<Plan, GcError> {
        let (log, now) = (self.log.state().await?, self.nodes.now().await?);
        let nodes = Nodes::of(self.nodes.all().await?, &log, now);
        let wanted: HashSet<ContentHash> = self.nodes.all_wanted().await?.into_iter().collect();
        let terms = Terms { retention: self.retention, grace: self.grace, nodes: &nodes };
        self.blobs.is_ours().await?;
        let mut plan = Plan::of(self.blobs.current(), log.last);
        if self.blobs.is_moving() {
            plan.refusals.push(Refusal::Moving);
        }
        let (mut large, mut from, mut lease) = (HashSet::new(), Some(1), lease);
        while let Some(first) = from {
            let mut candidates = HashMap::new();
            from = self.candidates(first, (&terms, now), &mut plan, &mut large, &mut candidates).await?;
            let named = self.named(&candidates, &log.created, lease.as_deref_mut()).await?;
            for (hash, listed) in candidates {
                let (age, named) = (now.seconds_since(listed.used), named.get(&hash).copied());
                match terms.fate(age, named, wanted.contains(&hash)) {
                    Fate::Keep => {}
                    Fate::Unnamed => plan.unnamed.push(listed),
                    Fate::Applied => plan.applied.push(listed),
                }
            }
        }
        let before = Timestamp::from_nanos(now.nanos() - self.grace.as_nanos() as i128);
        plan.tombstones.retain(|tombstone| tombstone.since < before);
        plan.orphans = plan.store.orphans((&large, plan.messages), before).await?;
        plan.refusals.extend(nodes.trust());
        plan.refusals.extend(too_many(plan.unnamed.len() as u64, plan.blobs));
        Ok(plan)
    }

    /// Lists on until there are enough of them. Returns where the next list begins.
    async fn candidates(
        &self,
        first: u64,
        (terms, now): (&Terms<'_>, Timestamp),
        plan: &mut Plan,
        large: &mut HashSet<String>,
        candidates: &mut HashMap<ContentHash, Listed>,
    ) -> Result<Option<u64>, GcError> {
        let mut from = Some(first);
        while let Some(at) = from.filter(|_| candidates.len() < CANDIDATES) {
            let page = plan.store.list(at).await?;
            plan.messages += (page.blobs.len() + page.tombstones.len()) as u64;
            plan.tombstones.extend(page.tombstones);
            large.extend(page.foreign);
            for listed in page.blobs {
                plan.blobs += 1;
                plan.messages += listed.chunks;
                large.extend(listed.chunks_name().map(str::to_owned));
                if terms.is_candidate(now.seconds_since(listed.used)) {
                    candidates.insert(listed.hash, listed);
                }
            }
            from = page.next;
        }
        Ok(from)
    }

    /// The newest event that names each of these. All of the log is read: after they were listed, so that what was published since either is seen here or has marked
    /// the blob.
    async fn named(
        &self,
        candidates: &HashMap<ContentHash, Listed>,
        created: &StreamCreated,
        mut lease: Option<&mut Lease>,
    ) -> Result<HashMap<ContentHash, Version>, GcError> {
        let mut named = HashMap::new();
        let log = self.log.state().await?;
        let mut from = Version::ZERO.next();
        while !candidates.is_empty() && from <= log.last {
            let page = self.log.read(from, PAGE).await?;
            let Some(last) = page.last() else { break };
            from = last.version.next();
            for logged in page {
                let hash = match &logged.event {
                    Ok(event) => Some(event.sha256),
                    // What a newer build has published may name a blob all the same.
                    Err(_) => hash_of(&logged.payload),
                };
                if let Some(hash) = hash.filter(|hash| candidates.contains_key(hash)) {
                    named.insert(hash, logged.version);
                }
            }
            keep(lease.as_deref_mut()).await?;
        }
        if self.log.state().await?.created != *created {
            return Err(GcError::AnotherLog);
        }
        Ok(named)
    }

    /// Takes it away.
    pub async fn carry_out(&self, plan: Plan, mut lease: Lease) -> Result<Done, GcError> {
        let (mut done, mut gone_now) = (Done::default(), HashSet::new());
        let (store, read_to) = (plan.store, plan.read_to);
        let listed: Vec<Listed> = plan.unnamed.into_iter().chain(plan.applied).collect();
        for some in listed.chunks(STEP) {
            keep(Some(&mut lease)).await?;
            let taking = some.iter().cloned().map(|listed| {
                let store = store.clone();
                async move { Ok::<_, GcError>((store.take_away(&listed).await?, listed)) }
            });
            let taken: Vec<(bool, Listed)> =
                stream::iter(taking).buffer_unordered(AT_ONCE).try_collect().await?;
            for (gone, listed) in taken {
                if gone {
                    (done.blobs, done.bytes) = (done.blobs + 1, done.bytes + listed.size);
                    gone_now.insert(listed.hash);
                } else {
                    done.kept += 1;
                }
            }
        }
        for orphan in &plan.orphans {
            keep(Some(&mut lease)).await?;
            done.orphans += u64::from(store.take_orphan_away(orphan).await?);
        }
        for tombstone in &plan.tombstones {
            keep(Some(&mut lease)).await?;
            store.drop_tombstone(tombstone).await?;
        }
        if store.is_unguarded() {
            self.bring_back(&store, &gone_now, read_to, &mut lease).await?;
        }
        lease.finish().await?;
        Ok(done)
    }

    /// In a store without compare-and-set a blob may have been found by a put while it was taken away. Its event is in the log by now, or who published it finds it gone:
    /// so what has been named since the log was read is asked for from the nodes.
    async fn bring_back(
        &self,
        store: &Store,
        gone: &HashSet<ContentHash>,
        read_to: Version,
        lease: &mut Lease,
    ) -> Result<(), GcError> {
        let (last, mut from, mut named) = (self.log.state().await?.last, read_to.next(), Vec::new());
        while !gone.is_empty() && from <= last {
            let page = self.log.read(from, PAGE).await?;
            let Some(end) = page.last() else { break };
            from = end.version.next();
            let events = page.iter().filter_map(|logged| logged.event.as_ref().ok());
            named.extend(events.map(|event| event.sha256).filter(|hash| gone.contains(hash)));
        }
        let (name, until) = (asker(), Instant::now() + BROUGHT_BACK);
        let mut asked = false;
        while !named.is_empty() && Instant::now() < until {
            let there = store.contains(&named).await?;
            let mut there = there.into_iter();
            named.retain(|_| there.next() == Some(false));
            if !named.is_empty() {
                self.nodes.want(&name, named.clone()).await?;
                asked = true;
                sleep(LOOK).await;
            }
            keep(Some(lease)).await?;
        }
        if asked {
            self.nodes.forget(&name).await?;
        }
        if !named.is_empty() {
            tracing::warn!(
                blobs = named.len(),
                "taken away, and named by an event at the same time: the nodes that need them ask for them"
            );
        }
        Ok(())
    }
}

/// A name for a list of wanted blobs that is no node's.
fn asker() -> NodeName {
    format!("gc-{:016x}", rand::random::<u64>()).parse().expect("letters and digits")
}

async fn keep(lease: Option<&mut Lease>) -> Result<(), GcError> {
    let Some(lease) = lease else { return Ok(()) };
    if lease.renew().await? { Ok(()) } else { Err(GcError::LeaseLost) }
}

fn hash_of(payload: &[u8]) -> Option<ContentHash> {
    let payload: serde_json::Value = serde_json::from_slice(payload).ok()?;
    payload["sha256"].as_str()?.parse().ok()
}
