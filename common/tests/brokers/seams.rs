//! The contracts of the log and of the blob store, on real servers.
//!
//! `MEDIAMIRROR_NATS_SERVERS` names the nats-server binaries, separated by colons; without it the one on the PATH is used.

use crate::server::Server;
use async_nats::{Client, HeaderMap, jetstream};
use base64::{Engine, prelude::BASE64_URL_SAFE};
use bytes::Bytes;
use common::{
    blobs::{
        self, BlobOptions, BlobStore, NatsBlobs,
        contract::{Harm, Tamper},
    },
    broker::BrokerError,
    event::Version,
    hash::ContentHash,
    log::{self, Delivery, EventLog, Follower, JetStreamFollower, JetStreamLog, LogOptions, Published},
    names::MirrorName,
};
use futures_util::{TryStreamExt, future::join_all};
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

/// A mirror that no other test of this run uses.
fn fresh_mirror() -> MirrorName {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed)).parse().expect("a good name")
}

/// Runs a test on every server at once.
fn on_each_server(test: impl AsyncFn(Server) + Send + Sync) {
    std::thread::scope(|scope| {
        for binary in crate::server::binaries() {
            let test = &test;
            scope.spawn(move || {
                let runtime = tokio::runtime::Runtime::new().expect("a runtime");
                runtime.block_on(async { test(Server::start(&binary)).await });
            });
        }
    });
}

fn log_options(mirror: &MirrorName, history: Option<u64>) -> LogOptions {
    LogOptions { mirror: mirror.clone(), replicas: 1, history }
}

fn blob_options(mirror: &MirrorName, durable: bool) -> BlobOptions {
    BlobOptions { mirror: mirror.clone(), replicas: 1, durable }
}

#[test]
fn the_log_keeps_its_contract() {
    on_each_server(async |server| {
        let client = server.client().await;
        let make = async |history| {
            JetStreamLog::open(client.clone(), log_options(&fresh_mirror(), history)).await.expect("a log")
        };
        let context = jetstream::new(client.clone());
        let inject = async |_: &JetStreamLog, subject: String, payload| {
            context.publish(subject, payload).await.expect("sent").await.expect("stored");
        };
        log::contract::suite(make, inject).await;
    });
}

#[test]
fn an_event_that_was_trimmed_from_the_log_is_no_duplicate() {
    on_each_server(async |server| {
        let (client, mirror) = (server.client().await, fresh_mirror());
        let log = JetStreamLog::open(client.clone(), log_options(&mirror, None)).await.expect("a log");
        let event = log::contract::event("a", b"1", Version::ZERO);
        assert_eq!(log.publish(&event).await.expect("publish"), Published::Stored(Version::new(1)));
        let stream = jetstream::new(client).get_stream(mirror.log_stream()).await.expect("the log");
        let config = stream.cached_info().config.clone();
        let other = log::contract::event("b", b"2", Version::ZERO);
        assert_eq!(log.publish(&other).await.expect("publish"), Published::Stored(Version::new(2)));
        let context = jetstream::new(server.client().await);
        for max_messages in [1, -1] {
            let config = jetstream::stream::Config { max_messages, ..config.clone() };
            context.update_stream(config).await.expect("other limits");
        }
        assert!(log.at(Version::new(1)).await.expect("a read").is_none(), "the first event is gone");
        // Twice: the answer to the first may be lost.
        for _ in 0..2 {
            assert_eq!(log.publish(&event).await.expect("publish"), Published::Stored(Version::new(3)));
        }
        assert_eq!(log.state().await.expect("the state").last, Version::new(3));
        let last = log.last(&event.path).await.expect("a read").expect("an event");
        assert_eq!(last.event.as_ref().expect("an event"), &event);
    });
}

#[test]
fn the_blobs_keep_their_contract() {
    on_each_server(async |server| blob_suite(&server, false).await);
}

#[test]
fn durable_blobs_keep_their_contract() {
    on_each_server(async |server| blob_suite(&server, true).await);
}

async fn blob_suite(server: &Server, durable: bool) {
    let client = server.client().await;
    let make = async || {
        let mirror = fresh_mirror();
        let blobs = NatsBlobs::open(client.clone(), blob_options(&mirror, durable)).await.expect("a bucket");
        assert_eq!(
            blobs.is_durable(),
            durable || !server.is_at_least(2, 12),
            "as asked, where it is offered"
        );
        (blobs, Foe { client: client.clone(), url: server.url().into(), mirror })
    };
    blobs::contract::suite(make).await;
}

/// Reaches into a bucket by the official client's own means.
struct Foe {
    client: Client,
    url: String,
    mirror: MirrorName,
}

impl Foe {
    fn bucket(&self) -> String {
        self.mirror.blob_bucket()
    }

    async fn stream(&self) -> jetstream::stream::Stream {
        let stream = format!("OBJ_{}", self.bucket());
        jetstream::new(self.client.clone()).get_stream(stream).await.expect("the bucket's stream")
    }

    fn meta_subject(&self, hash: ContentHash) -> String {
        format!("$O.{}.M.{}", self.bucket(), BASE64_URL_SAFE.encode(hash.to_string()))
    }

    async fn meta(&self, hash: ContentHash) -> Value {
        let stored = self.stream().await.get_last_raw_message_by_subject(&self.meta_subject(hash)).await;
        serde_json::from_slice(&stored.expect("a meta message").payload).expect("JSON")
    }

    async fn publish(&self, subject: String, payload: Bytes, rollup: bool) {
        let mut headers = HeaderMap::new();
        if rollup {
            headers.insert("Nats-Rollup", "sub");
        }
        let context = jetstream::new(self.client.clone());
        context.publish_with_headers(subject, headers, payload).await.expect("sent").await.expect("stored");
    }

    async fn purge(&self, subject: &str) {
        self.stream().await.purge().filter(subject).await.expect("purged");
    }
}

impl Tamper<NatsBlobs> for Foe {
    async fn other(&self) -> NatsBlobs {
        let client = async_nats::connect(&self.url).await.expect("another connection");
        NatsBlobs::attach(client, &self.mirror).await.expect("the bucket")
    }

    async fn harm(&self, hash: ContentHash, harm: Harm) {
        let mut meta = self.meta(hash).await;
        let chunks = format!("$O.{}.C.{}", self.bucket(), meta["nuid"].as_str().expect("a NUID"));
        let stream = self.stream().await;
        let first = async || stream.direct_get_next_for_subject(chunks.clone(), None).await.expect("a chunk");
        match harm {
            Harm::LoseChunk => {
                stream.delete_message(first().await.sequence).await.expect("deleted");
            }
            Harm::AddChunk => self.publish(chunks, Bytes::from_static(b"one too many"), false).await,
            Harm::SpoilChunk => {
                let mut spoilt = first().await.payload.to_vec();
                spoilt[0] ^= 1;
                self.purge(&chunks).await;
                self.publish(chunks, spoilt.into(), false).await;
            }
            Harm::LoseName => self.purge(&self.meta_subject(hash)).await,
            Harm::Delete => {
                for (field, value) in [("deleted", json!(true)), ("size", json!(0)), ("chunks", json!(0))] {
                    meta[field] = value;
                }
                self.publish(self.meta_subject(hash), meta.to_string().into(), true).await;
                self.purge(&chunks).await;
            }
        }
    }

    async fn put_foreign(&self, hash: ContentHash, bytes: &[u8], chunk: usize) {
        let nuid = format!("foreign{}", &hash.to_string()[..12]);
        let parts: Vec<&[u8]> = bytes.chunks(chunk).collect();
        for part in &parts {
            let subject = format!("$O.{}.C.{nuid}", self.bucket());
            self.publish(subject, Bytes::copy_from_slice(part), false).await;
        }
        let meta = json!({
            "name": hash.to_string(),
            "description": "by another client",
            "bucket": self.bucket(),
            "nuid": nuid,
            "size": bytes.len(),
            "chunks": parts.len(),
            "digest": format!("SHA-256={}", BASE64_URL_SAFE.encode(hash.raw())),
        });
        self.publish(self.meta_subject(hash), meta.to_string().into(), true).await;
    }

    async fn chunks(&self) -> Option<u64> {
        let all = format!("$O.{}.C.>", self.bucket());
        let subjects = self.stream().await.info_with_subjects(all).await.expect("subjects");
        let counts: Vec<(String, usize)> = subjects.try_collect().await.expect("subjects");
        Some(counts.into_iter().map(|(_, count)| count as u64).sum())
    }

    async fn readers(&self) -> u64 {
        self.stream().await.get_info().await.expect("info").state.consumer_count as u64
    }
}

#[test]
fn racing_processes_make_one_log_and_one_bucket() {
    on_each_server(async |server| {
        let mirror = fresh_mirror();
        let log = JetStreamLog::attach(server.client().await, &mirror).await;
        assert!(matches!(log, Err(BrokerError::Absent { .. })), "attach makes nothing");
        let blobs = NatsBlobs::attach(server.client().await, &mirror).await;
        assert!(matches!(blobs, Err(BrokerError::Absent { .. })), "attach makes nothing");

        // Half of them would make it otherwise.
        let open = async |n: u64| {
            let client = server.client().await;
            let history = (n.is_multiple_of(2)).then_some(5);
            let log = JetStreamLog::open(client.clone(), log_options(&mirror, history)).await;
            let state = log.expect("a log").state().await.expect("a state");
            NatsBlobs::open(client, blob_options(&mirror, n.is_multiple_of(2))).await.expect("a bucket");
            (state.created, state.history, state.now.is_some())
        };
        let states = join_all((0..8).map(open)).await;
        assert!(states.iter().all(|state| state == &states[0]), "{states:?}");
        assert_eq!(states[0].2, server.is_at_least(2, 10), "the broker tells its clock");

        let context = jetstream::new(server.client().await);
        let stream = context.get_stream(mirror.log_stream()).await.expect("the stream");
        let config = &stream.cached_info().config;
        assert!(config.allow_direct && config.deny_delete && config.deny_purge);
        assert_eq!(config.allow_atomic_publish, server.is_at_least(2, 12));
        JetStreamLog::attach(server.client().await, &mirror).await.expect("it is there");
    });
}

#[test]
fn a_stream_that_cannot_serve_is_refused_with_what_to_do() {
    on_each_server(async |server| {
        let context = jetstream::new(server.client().await);
        for (own_subjects, allow_direct, hint) in
            [(false, true, "it belongs to something else"), (true, false, "--allow-direct")]
        {
            let mirror = fresh_mirror();
            let subject = if own_subjects { format!("mirror.{mirror}.>") } else { "others.>".into() };
            let config = jetstream::stream::Config {
                name: mirror.log_stream(),
                subjects: vec![subject],
                allow_direct,
                ..Default::default()
            };
            context.create_stream(config).await.expect("a stream");
            let log = JetStreamLog::open(server.client().await, log_options(&mirror, None)).await;
            let error = log.err().expect("refused").to_string();
            assert!(error.contains(hint), "{error}");
        }
    });
}

#[test]
fn a_log_that_vanishes_is_absent() {
    on_each_server(async |server| {
        let (client, mirror) = (server.client().await, fresh_mirror());
        let log = JetStreamLog::open(client.clone(), log_options(&mirror, None)).await.expect("a log");
        let event = log::contract::event("a", b"1", Version::ZERO);
        assert!(matches!(log.publish(&event).await, Ok(Published::Stored(_))));
        let mut follower = log.follow(&"n".parse().expect("a name")).await.expect("a follower");
        follower.next().await.expect("the event");
        jetstream::new(client).delete_stream(mirror.log_stream()).await.expect("deleted");
        assert!(matches!(log.state().await, Err(BrokerError::Absent { .. })));
        assert!(matches!(log.publish(&event).await, Err(BrokerError::Absent { .. })));
        let last = log.last(&event.path).await;
        assert!(matches!(last, Err(BrokerError::Absent { .. })), "{last:?}");
        assert!(matches!(log.read(Version::ZERO, 10).await, Err(BrokerError::Absent { .. })));
        let end = tokio::time::timeout(Duration::from_secs(15), follower.next()).await.expect("an end");
        assert!(matches!(end, Err(BrokerError::Absent { .. })), "{:?}", end.err());
    });
}

/// Log, blobs and a follower of a mirror of their own.
async fn handles(server: &Server) -> (JetStreamLog, NatsBlobs, JetStreamFollower) {
    let (client, mirror) = (server.client().await, fresh_mirror());
    let log = JetStreamLog::open(client.clone(), log_options(&mirror, None)).await.expect("a log");
    let blobs = NatsBlobs::open(client, blob_options(&mirror, false)).await.expect("a bucket");
    let follower = log.follow(&"n".parse().expect("a name")).await.expect("a follower");
    (log, blobs, follower)
}

#[test]
fn every_wait_ends_when_the_server_is_gone() {
    on_each_server(async |server| {
        let (log, blobs, mut follower) = handles(&server).await;
        server.stop();
        let event = log::contract::event("a", b"1", Version::ZERO);
        let (hash, bytes) = (ContentHash::of(b"1"), Bytes::from_static(b"1"));
        let all = async {
            tokio::join!(
                async { assert!(log.state().await.expect_err("away").is_away()) },
                async { assert!(log.publish(&event).await.expect_err("away").is_away()) },
                async { assert!(log.last(&event.path).await.expect_err("away").is_away()) },
                async { assert!(log.read(Version::ZERO, 9).await.expect_err("away").is_away()) },
                async { assert!(blobs.put(hash, bytes.clone()).await.is_err()) },
                async { assert!(blobs.get(hash, 1, &common::limits::RateLimit::default()).await.is_err()) },
                async { assert!(blobs.contains(&[hash, hash]).await.is_err()) },
                async { assert!(follower.next().await.err().expect("away").is_away()) },
            )
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("every wait is bounded");
    });
}

#[test]
fn a_restarted_server_is_used_again_by_the_same_handles() {
    on_each_server(async |server| {
        let (log, blobs, mut follower) = handles(&server).await;
        let Ok(Published::Stored(first)) = log.publish(&log::contract::event("a", b"1", Version::ZERO)).await
        else {
            panic!("not stored")
        };
        follower.next().await.expect("the first event").acknowledge().await;
        server.stop();
        server.start_again();
        let event = log::contract::event("a", b"2", first);
        let until_stored = async {
            loop {
                match log.publish(&event).await {
                    Ok(Published::Stored(version)) => return version,
                    Ok(Published::Refused) => panic!("a retry of our own event is no conflict"),
                    Err(error) => assert!(error.is_away(), "{error}"),
                }
            }
        };
        let second = tokio::time::timeout(Duration::from_secs(20), until_stored).await.expect("in time");
        // Where the disk was not waited for, the first acknowledgement may be lost, and the event comes again.
        let until_followed =
            async { while follower.next().await.expect("an event").logged().version < second {} };
        tokio::time::timeout(Duration::from_secs(20), until_followed).await.expect("in time");
        let (hash, bytes) = (ContentHash::of(b"1"), Bytes::from_static(b"1"));
        blobs.put(hash, bytes).await.expect("put");
        blobs.get(hash, 1, &common::limits::RateLimit::default()).await.expect("get");
    });
}
