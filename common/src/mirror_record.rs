//! What all nodes of a mirror must agree on, under the key `_mirror` of the node bucket: where its blobs are kept.
//!
//! Written by the first process of a mirror, and by `replicator migrate`, by compare-and-set. A process follows it while it runs. One that finds it gone, with the broker's
//! disk for instance, writes what it knew: in memory, or in the file `mirror.json` of its state directory.

use crate::{
    blobs::{Blobs, Location, NatsBlobs, Reach, Store, StoreError, objects::MarkError},
    broker::BrokerError,
    exit::{Exit, Fault},
    nodes::NodeBucket,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

const KEY: &str = "_mirror";
const FILE: &str = "mirror.json";
/// Others write it at the same time; each loss means that one of them has.
const RACES: usize = 5;

/// A store, and which of those that may be at its place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Where.
    pub blobs: Location,
    /// The id in its `mediamirror.json`. None of the broker's own store.
    pub id: Option<String>,
}

/// The record, as JSON: `{"v":1,"generation":2,"blobs":"s3://bucket/prefix","id":"…","previous":{"blobs":"nats","id":null}}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MirrorRecord {
    v: u64,
    /// One more with each change.
    pub generation: u64,
    /// Where blobs are stored.
    #[serde(flatten)]
    pub current: Kept,
    /// Where they are looked for, too, while the mirror moves.
    pub previous: Option<Kept>,
}

/// Why it is not known where the blobs are.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// `--blobs` says something else.
    #[error("--blobs is {told}, and the blobs of this mirror are kept in {recorded}")]
    Told {
        /// What was given.
        told: String,
        /// What the record has.
        recorded: String,
    },
    /// A newer build has written it.
    #[error("the record of the mirror ({KEY} in the node bucket) is not what this version reads")]
    Unknown,
    /// There can be no such store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is another's.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The mirror's blobs are kept in a store that this node cannot use, and in no other.
    #[error("the blobs are kept in {blobs} by now, which this node cannot use: {reason}")]
    Left {
        /// The store.
        blobs: String,
        /// Why.
        reason: String,
    },
    /// What this node knew of it.
    #[error("cannot use {}", .0.display())]
    File(PathBuf, #[source] io::Error),
}

impl RecordError {
    /// What a service waits for.
    pub fn passes(&self) -> bool {
        match self {
            Self::Broker(error) | Self::Store(StoreError::Broker(error)) => error.passes(),
            Self::Mark(MarkError::Store(_) | MarkError::NoFolder(_)) => true,
            _ => false,
        }
    }
}

impl Fault for RecordError {
    fn exit(&self) -> Exit {
        match self {
            Self::Broker(error) | Self::Store(StoreError::Broker(error)) => error.exit(),
            Self::Told { .. } | Self::Store(_) => Exit::Usage,
            Self::Mark(MarkError::Another { .. } | MarkError::None(_)) => Exit::Usage,
            Self::Mark(_) | Self::Unknown | Self::Left { .. } | Self::File(..) => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Told { told, .. } => format!("leave it out; to move them: replicator migrate --to {told}"),
            Self::Unknown => "a newer version runs on another node: update this one".into(),
            Self::Mark(MarkError::Another { .. }) => {
                "give each mirror a prefix of its own; if that mirror is gone, delete the object".into()
            }
            Self::Mark(MarkError::NoFolder(_)) => "mount it, or make it".into(),
            Self::Broker(error) => return error.hint(),
            _ => return None,
        })
    }
}

impl MirrorRecord {
    /// The first.
    pub fn new(current: Kept) -> Self {
        Self { v: 1, generation: 1, current, previous: None }
    }

    /// That of a mirror which has none: nobody has run it yet, or only builds that knew of no other store.
    fn unwritten() -> Self {
        Self::new(Kept { blobs: Location::Nats, id: None })
    }

    /// The one that comes after it.
    pub fn next(&self, current: Kept, previous: Option<Kept>) -> Self {
        Self { v: 1, generation: self.generation + 1, current, previous }
    }

    /// Whether a blob in this store is found.
    pub fn reads(&self, store: &Location) -> bool {
        self.current.blobs == *store
            || self.previous.as_ref().is_some_and(|previous| previous.blobs == *store)
    }

    /// As the node bucket has it, and its revision.
    pub async fn read(nodes: &NodeBucket) -> Result<Option<(Self, u64)>, RecordError> {
        let Some(shared) = nodes.shared(KEY).await? else { return Ok(None) };
        let record: Self = serde_json::from_slice(&shared.payload).map_err(|_| RecordError::Unknown)?;
        if record.v != 1 {
            return Err(RecordError::Unknown);
        }
        Ok(Some((record, shared.revision)))
    }

    /// The same, for a command; with 0 as its revision where there is none, nor a bucket for it.
    pub async fn read_or_unwritten(nodes: &NodeBucket) -> Result<(Self, u64), RecordError> {
        match Self::read(nodes).await {
            Ok(read) => Ok(read.unwrap_or_else(|| (Self::unwritten(), 0))),
            Err(RecordError::Broker(BrokerError::Absent { .. })) => Ok((Self::unwritten(), 0)),
            Err(error) => Err(error),
        }
    }

    /// Writes it over that of this revision (0: there is none), and returns its own. `None`: another was faster.
    pub async fn replace(&self, nodes: &NodeBucket, over: u64) -> Result<Option<u64>, BrokerError> {
        let payload = serde_json::to_vec(self).expect("every field has a JSON form");
        nodes.put_shared(KEY, payload, over).await
    }

    /// Opens what it names. A store that does not answer is opened all the same; one that says that it is another's is not.
    pub async fn open(&self, reach: &Reach, make: bool) -> Result<(Store, Option<Store>), RecordError> {
        let current = reach.open(&self.current.blobs, make).await?;
        if let Store::Objects(blobs) = &current {
            match blobs.check(Some(&reach.options.mirror), self.current.id.as_deref()).await {
                Err(MarkError::Store(error)) => {
                    let error = crate::error_chain(&error);
                    tracing::warn!(error, "the blob store cannot be used at this moment");
                }
                checked => drop(checked?),
            }
        }
        let previous = match &self.previous {
            Some(previous) => match reach.open(&previous.blobs, false).await {
                // It has been taken away already.
                Err(StoreError::Broker(BrokerError::Absent { .. })) => None,
                opened => Some(opened?),
            },
            None => None,
        };
        Ok((current, previous))
    }
}

/// What a process needs to follow the record.
#[derive(Clone)]
pub struct Follower {
    /// How stores are reached.
    pub reach: Reach,
    /// What `--blobs` says.
    pub told: Option<Location>,
    /// Where the node keeps what it knows of the record; `None`: nowhere.
    pub state: Option<PathBuf>,
}

impl Follower {
    /// Opens the blobs of a mirror, and writes its record where it is the first to.
    pub async fn open(&self, nodes: &NodeBucket) -> Result<Blobs, RecordError> {
        for _ in 0..RACES {
            let record = match MirrorRecord::read(nodes).await? {
                Some((record, _)) => record,
                None => {
                    let first = self.first().await?;
                    if first.replace(nodes, 0).await?.is_none() {
                        continue;
                    }
                    first
                }
            };
            self.agrees(&record)?;
            let (current, previous) = record.open(&self.reach, true).await?;
            self.remember(&record)?;
            return Ok(Blobs::new(record, current, previous));
        }
        Err(contested().into())
    }

    /// Opens them as they are, for a command.
    pub async fn attach(&self, nodes: &NodeBucket) -> Result<Blobs, RecordError> {
        let (record, _) = MirrorRecord::read_or_unwritten(nodes).await?;
        self.agrees(&record)?;
        let (current, previous) = record.open(&self.reach, false).await?;
        Ok(Blobs::new(record, current, previous))
    }

    /// Makes the broker's bucket again, where blobs are kept in it and it is lost. One round trip when it is there.
    pub async fn keep(&self, blobs: &Blobs) -> Result<(), RecordError> {
        if blobs.location() == Location::Nats {
            self.reach.open(&Location::Nats, true).await?;
        }
        Ok(())
    }

    /// Does what the record says by now. One round trip when that is what was known.
    pub async fn follow(&self, blobs: &Blobs, nodes: &NodeBucket) -> Result<(), RecordError> {
        let known = blobs.record();
        let record = match MirrorRecord::read(nodes).await? {
            Some((record, _)) => record,
            None => {
                // The broker has lost it.
                known.replace(nodes, 0).await?;
                known.clone()
            }
        };
        if record == known {
            return Ok(());
        }
        let (current, previous) = record.open(&self.reach, true).await.map_err(|error| match error {
            error @ (RecordError::Broker(_) | RecordError::Store(StoreError::Broker(_))) => error,
            error if record.reads(&known.current.blobs) => error,
            error => {
                let reason = crate::error_chain(&error);
                RecordError::Left { blobs: record.current.blobs.to_string(), reason }
            }
        })?;
        let (now, before) =
            (&record.current.blobs, record.previous.as_ref().map(|kept| kept.blobs.to_string()));
        tracing::info!(generation = record.generation, blobs = %now, previous = before, "the blobs of the mirror are kept elsewhere by now");
        self.remember(&record)?;
        blobs.switch(record, current, previous);
        Ok(())
    }

    fn agrees(&self, record: &MirrorRecord) -> Result<(), RecordError> {
        let Some(told) = self.told.as_ref().filter(|told| **told != record.current.blobs) else {
            return Ok(());
        };
        let recorded = record.current.blobs.to_string();
        if record.previous.as_ref().is_some_and(|previous| previous.blobs == *told) {
            tracing::warn!(%told, %recorded, "the blobs are moving: change --blobs before they are there");
            return Ok(());
        }
        Err(RecordError::Told { told: told.to_string(), recorded })
    }

    /// Of a mirror whose broker has no record.
    async fn first(&self) -> Result<MirrorRecord, RecordError> {
        if let Some(known) = self.remembered()? {
            return Ok(known);
        }
        let mirror = &self.reach.options.mirror;
        // One that is older than the record.
        let blobs = match (NatsBlobs::attach(self.reach.client.clone(), mirror).await, &self.told) {
            (Err(BrokerError::Absent { .. }), Some(told)) => told.clone(),
            (Ok(_) | Err(BrokerError::Absent { .. }), _) => Location::Nats,
            // Who does not know must not decide.
            (Err(error), _) => return Err(error.into()),
        };
        let id = match self.reach.open(&blobs, true).await? {
            Store::Nats(_) => None,
            Store::Objects(store) => Some(store.claim(mirror, None).await?),
        };
        Ok(MirrorRecord::new(Kept { blobs, id }))
    }

    fn remembered(&self) -> Result<Option<MirrorRecord>, RecordError> {
        let Some(file) = self.file() else { return Ok(None) };
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|_| RecordError::Unknown),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RecordError::File(file, error)),
        }
    }

    fn remember(&self, record: &MirrorRecord) -> Result<(), RecordError> {
        let Some(file) = self.file() else { return Ok(()) };
        if self.remembered().is_ok_and(|known| known.as_ref() == Some(record)) {
            return Ok(());
        }
        let text = serde_json::to_vec(record).expect("every field has a JSON form");
        replace(&file, &text).map_err(|error| RecordError::File(file, error))
    }

    fn file(&self) -> Option<PathBuf> {
        self.state.as_deref().map(|state: &Path| state.join(FILE))
    }
}

/// Whole or not at all, also when both processes of a node do it.
fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    let temp = file.with_extension(format!("{:016x}", rand::random::<u64>()));
    let mut written = File::create_new(&temp)?;
    written.write_all(text)?;
    written.sync_all()?;
    fs::rename(&temp, file)
}

fn contested() -> BrokerError {
    let doing = format!("writing {KEY} to the node bucket");
    BrokerError::Timeout { doing, waited: crate::broker::wire::PATIENCE }
}
