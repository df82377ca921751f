//! What an operator with a NATS client sees: streams, consumers, node records, the log, and what crosses the wire.

use crate::{node::Role, wait::wait_until};
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream,
};
use bytes::Bytes;
use common::{
    blobs::{BlobStore, NatsBlobs, Source},
    event::Event,
    hash::ContentHash,
    names::MirrorName,
    subject::Subjects,
};
use futures_util::{StreamExt, TryStreamExt};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// The log's stream.
const LOG: &str = "MIRROR_MEDIA";
/// The bucket's stream.
const BLOBS: &str = "OBJ_MIRROR_MEDIA_BLOBS";
/// What the subjects of chunks begin with.
const CHUNKS: &str = "$O.MIRROR_MEDIA_BLOBS.C.";
/// A stream that only takes room, and its subject.
const BALLAST: &str = "BALLAST";
/// What a [`Tap`] sends itself.
const MARK: &str = "e2e.mark";
/// Bound of one request, its answer included.
const REQUEST: Duration = Duration::from_secs(10);

/// A client of the broker, for the mirror `media`.
pub struct Nats {
    runtime: Runtime,
    client: async_nats::Client,
    jetstream: jetstream::Context,
    subjects: Subjects,
}

/// An event as it stands in the log.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// Its position.
    pub version: u64,
    /// The subject it came on.
    pub subject: String,
    /// What it says.
    pub event: Event,
}

impl LogLine {
    /// The path, as text for comparisons in tests.
    pub fn path(&self) -> String {
        self.event.path.to_string()
    }
}

/// Blob chunks that crossed the wire since a [`Tap`] was set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfers {
    /// Chunks that were published.
    pub stored: u64,
    /// Requests that asked for chunks.
    pub read: u64,
}

/// What happens to the last chunk of a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spoil {
    /// It is gone.
    Missing,
    /// It is there twice.
    Doubled,
    /// Nothing is in it.
    Empty,
}

/// Listens to chunks being stored and asked for.
pub struct Tap<'a> {
    nats: &'a Nats,
    stored: Arc<AtomicU64>,
    read: Arc<AtomicU64>,
    marks: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Tap<'_> {
    /// What passed so far: everything that reached the broker before this call is in it.
    pub fn seen(&self) -> Transfers {
        let before = self.marks.load(Ordering::SeqCst);
        let client = &self.nats.client;
        self.nats.runtime.block_on(client.publish(MARK, "".into())).expect("publish a mark");
        // One subscription, so that the mark comes after all that passed before it.
        wait_until(REQUEST, "the mark of a tap", || self.marks.load(Ordering::SeqCst) > before);
        Transfers { stored: self.stored.load(Ordering::SeqCst), read: self.read.load(Ordering::SeqCst) }
    }
}

impl Drop for Tap<'_> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Nats {
    /// Connects.
    pub fn connect(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("start a runtime");
        let mut options = async_nats::ConnectOptions::new().retry_on_initial_connect();
        // The library does not take them from the URL by itself.
        let login = url
            .split("//")
            .nth(1)
            .and_then(|rest| rest.split_once('@'))
            .and_then(|(login, _)| login.split_once(':'));
        if let Some((user, password)) = login {
            options = options.user_and_password(user.into(), password.into());
        }
        let (client, jetstream) = runtime.block_on(async {
            let client = options.connect(url).await.expect("connect to the broker");
            let mut jetstream = jetstream::new(client.clone());
            jetstream.set_timeout(REQUEST);
            (client, jetstream)
        });
        let mirror: MirrorName = "media".parse().expect("a good name");
        Self { runtime, client, jetstream, subjects: Subjects::new(&mirror) }
    }

    fn stream(&self, name: &str) -> Option<stream::Stream> {
        self.runtime.block_on(self.jetstream.get_stream(name)).ok()
    }

    /// How many messages a stream has; none while it is not there.
    pub fn messages(&self, stream: &str) -> u64 {
        self.stream(stream).map_or(0, |stream| stream.cached_info().state.messages)
    }

    /// The state of the log's stream; `None` while there is no such stream.
    pub fn log_state(&self) -> Option<stream::State> {
        self.stream(LOG).map(|stream| stream.cached_info().state.clone())
    }

    /// Stores a message as it is, whatever stands on its subject.
    pub fn publish(&self, subject: &str, payload: &[u8]) {
        let payload = payload.to_vec().into();
        self.runtime.block_on(async {
            let acknowledged = self.jetstream.publish(subject.to_owned(), payload).await.expect("publish");
            acknowledged.await.expect("an acknowledgement");
        });
    }

    /// Sends a message, and waits for no answer. A broker that is away gets it when it is back.
    pub fn send(&self, subject: &str, payload: &[u8]) {
        let payload = payload.to_vec().into();
        self.runtime.block_on(self.client.publish(subject.to_owned(), payload)).expect("send");
    }

    /// The state of the bucket's stream.
    pub fn bucket_state(&self) -> stream::State {
        self.stream(BLOBS).expect("a bucket").cached_info().state.clone()
    }

    /// Whether the broker has a bucket of blobs.
    pub fn has_bucket(&self) -> bool {
        self.stream(BLOBS).is_some()
    }

    /// Lets the bucket take no more than so many bytes; -1 for no limit.
    pub fn limit_bucket(&self, bytes: i64) {
        let config = self.stream(BLOBS).expect("a bucket").cached_info().config.clone();
        let limited = stream::Config { max_bytes: bytes, ..config };
        self.runtime
            .block_on(async { self.jetstream.update_stream(limited).await.expect("limit the bucket") });
    }

    /// Stores so many bytes beside the mirror.
    pub fn add_ballast(&self, bytes: usize) {
        let config = stream::Config { name: BALLAST.into(), ..Default::default() };
        self.runtime.block_on(async { self.jetstream.create_stream(config).await.expect("make a stream") });
        let block = vec![b'x'; 100_000];
        (0..bytes / block.len()).for_each(|_| self.publish(BALLAST, &block));
    }

    /// Takes it away again.
    pub fn drop_ballast(&self) {
        self.runtime
            .block_on(async { self.jetstream.delete_stream(BALLAST).await.expect("delete a stream") });
    }

    /// Deletes the log.
    pub fn delete_log(&self) {
        self.runtime.block_on(async { self.jetstream.delete_stream(LOG).await.expect("delete the log") });
    }

    /// Deletes the bucket of nodes, with all that it has.
    pub fn delete_nodes(&self) {
        let deleted = async { self.jetstream.delete_key_value("MIRROR_MEDIA_NODES").await };
        self.runtime.block_on(deleted).expect("delete the bucket of nodes");
    }

    /// The subjects of all chunks in the bucket.
    pub fn chunks(&self) -> Vec<String> {
        let Some(stream) = self.stream(BLOBS) else { return Vec::new() };
        self.runtime.block_on(async {
            let listed =
                stream.info_with_subjects(format!("{CHUNKS}>")).await.expect("the bucket's subjects");
            listed.map(|subject| subject.map(|(subject, _)| subject)).try_collect().await.expect("subjects")
        })
    }

    /// Stores bytes as a blob of whatever name.
    pub fn store_under(&self, name: ContentHash, bytes: &[u8]) {
        let mirror = "media".parse().expect("a name");
        self.runtime.block_on(async {
            let blobs = NatsBlobs::attach(self.client.clone(), &mirror).await.expect("a bucket");
            let (chunks, source) = mpsc::channel(1);
            let (hash, named) = oneshot::channel();
            let feed = async {
                for chunk in bytes.chunks(blobs.chunk_size()) {
                    chunks.send(Ok(Bytes::copy_from_slice(chunk))).await.expect("room");
                }
                drop(chunks);
                hash.send(name).expect("somebody who waits for it");
            };
            let stored = blobs.put_stream(Source { chunks: source, hash: named, name: None });
            tokio::join!(feed, stored).1.expect("stored");
        });
    }

    /// Takes every blob out of the bucket, as if it had been lost.
    pub fn lose_blobs(&self) {
        let stream = self.stream(BLOBS).expect("a bucket");
        self.runtime.block_on(async { stream.purge().await.expect("purge the bucket") });
    }

    /// The same when broker and bucket are there.
    pub fn try_lose_blobs(&self) {
        if let Some(stream) = self.stream(BLOBS) {
            let _ = self.runtime.block_on(async { stream.purge().await });
        }
    }

    /// Puts other bytes of the same length into every chunk of every blob. Returns how many chunks that were.
    pub fn damage_blobs(&self) -> usize {
        let stream = self.stream(BLOBS).expect("a bucket");
        let state = stream.cached_info().state.clone();
        let mut chunks: Vec<(String, usize)> = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            let message = self.runtime.block_on(stream.get_raw_message(sequence));
            // What was purged or rolled up is not there.
            let Ok(message) = message else { continue };
            if message.subject.starts_with(CHUNKS) {
                chunks.push((message.subject.to_string(), message.payload.len()));
            }
        }
        for (subject, _) in &chunks {
            self.runtime.block_on(async { stream.purge().filter(subject).await.expect("purge a chunk") });
        }
        chunks.iter().for_each(|(subject, length)| self.publish(subject, &vec![b'?'; *length]));
        chunks.len()
    }

    /// Changes the chunks of every blob of several chunks: see [`Spoil`]. Returns how many blobs that were.
    pub fn spoil_blobs(&self, how: Spoil) -> usize {
        let stream = self.stream(BLOBS).expect("a bucket");
        let state = stream.cached_info().state.clone();
        let mut chunks: BTreeMap<String, Vec<(u64, Bytes)>> = BTreeMap::new();
        for sequence in state.first_sequence..=state.last_sequence {
            let message = self.runtime.block_on(stream.get_raw_message(sequence));
            let Ok(message) = message else { continue };
            if message.subject.starts_with(CHUNKS) {
                chunks.entry(message.subject.to_string()).or_default().push((sequence, message.payload));
            }
        }
        chunks.retain(|_, chunks| chunks.len() > 1);
        for (subject, chunks) in &chunks {
            let (last, bytes) = chunks.last().expect("several");
            if how != Spoil::Doubled {
                self.runtime.block_on(stream.delete_message(*last)).expect("delete a chunk");
            }
            match how {
                Spoil::Missing => {}
                Spoil::Doubled => self.publish(subject, bytes),
                Spoil::Empty => self.publish(subject, b""),
            }
        }
        chunks.len()
    }

    /// Drops all events of the log but the last so many, as if long after they were published: what is published again is no duplicate.
    pub fn trim_log(&self, keep: i64) {
        let stream = self.stream(LOG).expect("a log");
        let config = stream.cached_info().config.clone();
        let with = |max_messages| stream::Config { max_messages, ..config.clone() };
        for max_messages in [keep, config.max_messages] {
            self.runtime
                .block_on(self.jetstream.update_stream(with(max_messages)))
                .expect("change the log's limits");
        }
    }

    /// Deletes the consumer of a node's replicator.
    pub fn delete_consumer(&self, node: &str) {
        let stream = self.stream(LOG).expect("a log");
        self.runtime
            .block_on(stream.delete_consumer(&format!("replicator-{node}")))
            .expect("delete a consumer");
    }

    /// Has the consumer of a node deliver nothing for a minute; it gives signs of life as before. Servers from 2.11 on.
    pub fn pause_consumer(&self, node: &str) {
        let until =
            common::time::Timestamp::from_nanos(common::time::Timestamp::now().nanos() + 60_000_000_000);
        self.consumer_pause(node, serde_json::json!({ "pause_until": until }));
    }

    /// Lets it go on.
    pub fn resume_consumer(&self, node: &str) {
        self.consumer_pause(node, serde_json::json!({}));
    }

    fn consumer_pause(&self, node: &str, body: serde_json::Value) {
        let subject = format!("$JS.API.CONSUMER.PAUSE.{LOG}.replicator-{node}");
        let asked = self.client.request(subject, body.to_string().into());
        let answer = self.runtime.block_on(asked).expect("an answer of the broker");
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).expect("JSON");
        assert!(answer["error"].is_null(), "{answer}");
    }

    /// The hashes that a node's replicator asks the others for.
    pub fn wanted(&self, node: &str) -> Vec<String> {
        let Some(list) = self.value(&format!("{node}.wanted")) else { return Vec::new() };
        let hashes = list["sha256"].as_array().expect("a list of hashes");
        hashes.iter().map(|hash| hash.as_str().expect("a hash").to_owned()).collect()
    }

    /// All keys of the node bucket.
    pub fn keys(&self) -> Vec<String> {
        self.runtime.block_on(async {
            let bucket = self.jetstream.get_key_value("MIRROR_MEDIA_NODES").await.expect("a bucket");
            bucket.keys().await.expect("keys").try_collect().await.expect("keys")
        })
    }

    /// How often the node bucket was written to when this key was, last; 0: never.
    pub fn revision(&self, key: &str) -> u64 {
        self.runtime.block_on(async {
            let bucket = self.jetstream.get_key_value("MIRROR_MEDIA_NODES").await.expect("a bucket");
            bucket.entry(key).await.expect("an entry").map_or(0, |entry| entry.revision)
        })
    }

    /// The consumers on the bucket's stream.
    pub fn bucket_consumers(&self) -> Vec<String> {
        let stream = self.stream(BLOBS).expect("a bucket");
        self.runtime.block_on(stream.consumer_names().try_collect()).expect("names of consumers")
    }

    /// The consumer of a node's replicator.
    pub fn consumer(&self, node: &str) -> Option<jetstream::consumer::Info> {
        let stream = self.stream(LOG)?;
        self.runtime.block_on(stream.consumer_info(format!("replicator-{node}"))).ok()
    }

    /// Takes the next event that is to be delivered to a node, and acknowledges it in the node's name. Returns its position.
    pub fn acknowledge_next(&self, node: &str) -> u64 {
        let stream = self.stream(LOG).expect("a log");
        self.runtime.block_on(async {
            let consumer = stream.get_consumer::<pull::Config>(&format!("replicator-{node}")).await;
            let consumer = consumer.expect("the node's consumer");
            let mut batch =
                consumer.fetch().max_messages(1).expires(REQUEST).messages().await.expect("events");
            let message = batch.next().await.expect("an event").expect("an event");
            message.double_ack().await.expect("acknowledge");
            message.info().expect("a message of a stream").stream_sequence
        })
    }

    /// The record that a process keeps of itself.
    pub fn record(&self, node: &str, role: Role) -> Option<serde_json::Value> {
        self.value(&format!("{node}.{}", role.name()))
    }

    /// A value of the bucket of nodes.
    pub fn value(&self, key: &str) -> Option<serde_json::Value> {
        self.runtime.block_on(async {
            let bucket = self.jetstream.get_key_value("MIRROR_MEDIA_NODES").await.ok()?;
            let value = bucket.get(key).await.ok()??;
            Some(serde_json::from_slice(&value).expect("a value in JSON"))
        })
    }

    /// The events of the log from this position on; messages that are none are left out.
    pub fn log_from(&self, from: u64) -> Vec<LogLine> {
        let Some(stream) = self.stream(LOG) else { return Vec::new() };
        let last = stream.cached_info().state.last_sequence;
        if last < from {
            return Vec::new();
        }
        self.runtime.block_on(async {
            let consumer = stream.create_consumer(pull::Config {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
                ack_policy: AckPolicy::None,
                inactive_threshold: REQUEST,
                memory_storage: true,
                ..Default::default()
            });
            let consumer = consumer.await.expect("a consumer to read the log with");
            let (mut lines, mut at) = (Vec::new(), 0);
            while at < last {
                let batch = consumer.fetch().max_messages(1000).expires(REQUEST).messages().await;
                let before = at;
                let mut batch = batch.expect("events");
                while let Some(message) = batch.next().await {
                    let message = message.expect("an event");
                    at = message.info().expect("a message of a stream").stream_sequence;
                    let subject = message.subject.to_string();
                    if let Ok(event) = Event::decode(&self.subjects, &subject, &message.payload) {
                        lines.push(LogLine { version: at, subject, event });
                    }
                }
                assert!(at > before, "the log ends at {before}, not at {last}");
            }
            let name = &consumer.cached_info().name;
            stream.delete_consumer(name).await.expect("delete the reading consumer");
            lines
        })
    }

    /// Counts from now on what chunks are stored and asked for.
    pub fn tap(&self) -> Tap<'_> {
        let counter = || Arc::new(AtomicU64::new(0));
        let (stored, read, marks) = (counter(), counter(), counter());
        let counters = [stored.clone(), read.clone(), marks.clone()];
        let everything = self.runtime.block_on(self.client.subscribe(">"));
        let mut everything = everything.expect("subscribe");
        let task = self.runtime.spawn(async move {
            let [stored, read, marks] = counters;
            let whole = format!("$JS.API.DIRECT.GET.{BLOBS}");
            let by_subject = format!("{whole}.{CHUNKS}");
            while let Some(message) = everything.next().await {
                let subject = message.subject.as_str();
                let asks = || String::from_utf8_lossy(&message.payload).contains(CHUNKS);
                let counter = match subject {
                    MARK => &marks,
                    _ if subject.starts_with(CHUNKS) => &stored,
                    _ if subject.starts_with(&by_subject) || (subject == whole && asks()) => &read,
                    _ => continue,
                };
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        let tap = Tap { nats: self, stored, read, marks, task };
        tap.seen(); // From here on it listens.
        tap
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Broker;

    #[test]
    fn a_tap_counts_chunks_and_requests_for_them() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let broker = Broker::started(dir.path());
        let nats = Nats::connect(&broker.url());
        let tap = nats.tap();
        assert_eq!(tap.seen(), Transfers { stored: 0, read: 0 });
        let get = format!("$JS.API.DIRECT.GET.{BLOBS}");
        let sent = [
            (format!("{CHUNKS}abc"), ""),
            ("$O.MIRROR_MEDIA_BLOBS.M.abc".into(), ""),
            (get.clone(), "{\"multi_last\":[\"$O.MIRROR_MEDIA_BLOBS.C.abc\"]}"),
            (get.clone(), "{\"multi_last\":[\"$O.MIRROR_MEDIA_BLOBS.M.abc\"]}"),
            (format!("{get}.{CHUNKS}abc"), ""),
        ];
        let other = Nats::connect(&broker.url());
        for (subject, payload) in sent {
            let sent = other.client.publish(subject, payload.into());
            other.runtime.block_on(sent).expect("publish");
        }
        other.runtime.block_on(other.client.flush()).expect("flush");
        wait_until(REQUEST, "what was sent", || tap.seen() == Transfers { stored: 1, read: 2 });
    }
}
