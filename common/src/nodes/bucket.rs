//! The key-value bucket of the nodes, by its wire protocol.

use super::{MAX_WANTED, NodeRecord, Role, Wanted};
use crate::{
    broker::{
        BrokerError,
        wire::{Ack, Stored, StreamInfo, Wire},
    },
    hash::ContentHash,
    names::{MirrorName, NodeName},
    time::Timestamp,
};
use async_nats::{HeaderMap, header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE};
use bytes::Bytes;
use serde_json::json;

/// Keys read at once.
const KEYS: usize = 500;
/// And the most bytes of them: a list of wanted blobs has 70 KB at most.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// A record as the broker has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeenRecord {
    /// What it says.
    pub record: NodeRecord,
    /// The sequence under which it was written.
    pub revision: u64,
    /// When, by the broker's clock.
    pub written: Timestamp,
}

/// A value of the mirror as the broker has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shared {
    /// What it says.
    pub payload: Bytes,
    /// The sequence under which it was written.
    pub revision: u64,
    /// When, by the broker's clock.
    pub written: Timestamp,
}

/// The records of all nodes of a mirror. Cheap to clone.
#[derive(Clone)]
pub struct NodeBucket {
    wire: Wire,
    stream: String,
    prefix: String,
    /// Copies of it that are kept, when it is made.
    replicas: usize,
}

impl NodeBucket {
    /// The bucket, made when it is not there.
    pub async fn open(
        client: async_nats::Client,
        mirror: &MirrorName,
        replicas: usize,
    ) -> Result<Self, BrokerError> {
        let bucket = Self { replicas, ..Self::named(client, mirror) };
        bucket.make().await?;
        Ok(bucket)
    }

    /// Makes it when it is not there, or not any more.
    pub(super) async fn make(&self) -> Result<(), BrokerError> {
        let subjects = [format!("{}>", self.prefix)];
        let config = json!({
            "name": self.stream,
            "subjects": subjects,
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "max_msgs_per_subject": 1,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msg_size": -1,
            "num_replicas": self.replicas,
            "allow_rollup_hdrs": true,
            "deny_delete": true,
            "allow_direct": true,
        });
        let info = self.wire.stream_or_create(&self.stream, &config).await?;
        Wire::require(&self.stream, &info, &subjects)
    }

    /// The bucket, which must be there.
    pub async fn attach(client: async_nats::Client, mirror: &MirrorName) -> Result<Self, BrokerError> {
        let bucket = Self::named(client, mirror);
        bucket.info().await?;
        Ok(bucket)
    }

    /// The bucket, there or not.
    pub fn named(client: async_nats::Client, mirror: &MirrorName) -> Self {
        let bucket = mirror.node_bucket();
        Self {
            wire: Wire::new(client),
            stream: format!("KV_{bucket}"),
            prefix: format!("$KV.{bucket}."),
            replicas: 1,
        }
    }

    async fn info(&self) -> Result<StreamInfo, BrokerError> {
        self.wire.stream_info(&self.stream).await
    }

    /// The broker's clock; that of this machine where the server does not tell (before 2.10).
    pub async fn now(&self) -> Result<Timestamp, BrokerError> {
        Ok(self.info().await?.ts.unwrap_or_else(Timestamp::now))
    }

    /// The record of one process. One that this build cannot read is as if it were not there.
    pub async fn get(&self, node: &NodeName, role: Role) -> Result<Option<SeenRecord>, BrokerError> {
        let stored = self.wire.last_of(&self.stream, &self.subject(node, role.as_str())).await?;
        Ok(stored.as_ref().and_then(seen))
    }

    /// All records, by node and role. One request for 500 keys of the bucket; one for each from a server before 2.11.
    pub async fn all(&self) -> Result<Vec<SeenRecord>, BrokerError> {
        let mut records: Vec<SeenRecord> = self.everything().await?.iter().filter_map(seen).collect();
        records.sort_by(|a, b| (&a.record.node, a.record.role).cmp(&(&b.record.node, b.record.role)));
        Ok(records)
    }

    /// The hashes that any node asks for.
    pub async fn all_wanted(&self) -> Result<Vec<ContentHash>, BrokerError> {
        let wanted = self.everything().await?;
        let lists = wanted.iter().filter(|stored| stored.subject.ends_with(".wanted"));
        Ok(lists
            .filter_map(|stored| serde_json::from_slice::<Wanted>(&stored.payload).ok())
            .flat_map(|w| w.sha256)
            .collect())
    }

    /// Asks the other nodes for blobs; the list replaces the one before. At most 1,000 are asked for.
    pub async fn want(&self, node: &NodeName, mut sha256: Vec<ContentHash>) -> Result<(), BrokerError> {
        sha256.truncate(MAX_WANTED);
        let payload = serde_json::to_vec(&Wanted { v: 1, sha256 }).expect("hashes have a JSON form");
        self.wire
            .publish(&self.stream, &self.subject(node, "wanted"), HeaderMap::new(), payload.into())
            .await?;
        Ok(())
    }

    /// A value of the mirror rather than of a node: its key begins with `_`.
    pub async fn shared(&self, key: &str) -> Result<Option<Shared>, BrokerError> {
        let stored = self.wire.last_of(&self.stream, &format!("{}{key}", self.prefix)).await?;
        Ok(stored.map(|stored| Shared {
            payload: stored.payload,
            revision: stored.sequence,
            written: stored.time,
        }))
    }

    /// Writes one over that of this revision (0: there is none). `None`: another writer was faster.
    pub async fn put_shared(
        &self,
        key: &str,
        payload: Vec<u8>,
        over: u64,
    ) -> Result<Option<u64>, BrokerError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, over.to_string().as_str());
        let subject = format!("{}{key}", self.prefix);
        match self.wire.publish(&self.stream, &subject, headers, payload.into()).await? {
            Ack::Stored { sequence, .. } => Ok(Some(sequence)),
            Ack::WrongLast { .. } => Ok(None),
        }
    }

    /// Takes away everything that is kept of a node.
    pub async fn forget(&self, node: &NodeName) -> Result<(), BrokerError> {
        self.wire.purge(&self.stream, &self.subject(node, "*")).await
    }

    /// Writes a record when the one before has this revision (0: there is none). `None`: another writer was faster.
    pub(super) async fn put(&self, record: &NodeRecord, over: u64) -> Result<Option<u64>, BrokerError> {
        let payload = serde_json::to_vec(record).expect("every field has a JSON form");
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, over.to_string().as_str());
        let subject = self.subject(&record.node, record.role.as_str());
        match self.wire.publish(&self.stream, &subject, headers, payload.into()).await? {
            Ack::Stored { sequence, .. } => Ok(Some(sequence)),
            Ack::WrongLast { .. } => Ok(None),
        }
    }

    fn subject(&self, node: &NodeName, what: &str) -> String {
        format!("{}{node}.{what}", self.prefix)
    }

    async fn everything(&self) -> Result<Vec<Stored>, BrokerError> {
        let filter = format!("{}>", self.prefix);
        let (mut all, mut from) = (Vec::new(), 1);
        loop {
            let page = self.wire.page(&self.stream, &filter, from, KEYS, PAGE_BYTES).await?;
            let Some(last) = page.messages.last() else { break };
            from = last.sequence + 1;
            all.extend(page.messages);
            if page.end {
                break;
            }
        }
        Ok(all)
    }
}

fn seen(stored: &Stored) -> Option<SeenRecord> {
    let record: NodeRecord = serde_json::from_slice(&stored.payload).ok()?;
    (record.v == 1).then_some(())?;
    Some(SeenRecord { record, revision: stored.sequence, written: stored.time })
}
