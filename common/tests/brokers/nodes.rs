//! Node records on a real broker: who may speak under a name, and what the others read.

use crate::server::Server;
use common::{
    broker::{BrokerError, Connection},
    event::Version,
    exit::{Exit, Fault},
    hash::ContentHash,
    index::Index,
    names::{MirrorName, NodeName},
    nodes::{
        Claim, ClaimError, Identity, MAX_WANTED, NodeBucket, NodeRecord, NodeRunState, Reporter, Role,
        instance_of,
    },
    root::Root,
    time::Timestamp,
};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn record(node: &str, role: Role, instance: &str) -> NodeRecord {
    NodeRecord {
        v: 1,
        node: node.parse().unwrap(),
        role,
        boot: "b".into(),
        instance: instance.into(),
        state: NodeRunState::Ready,
        stream_created: None,
        version: Version::new(1),
        head: Version::new(1),
        beyond: vec![],
        pending: 0,
        parked: 0,
        parked_at: Vec::new(),
        digest: "0".into(),
        files: 0,
        bytes: 0,
        disk_free: None,
        http: None,
        build: "0".into(),
        durable: None,
        store: "nats".into(),
        diverged: None,
        underway: None,
        started: Timestamp::now(),
        last_error: None,
    }
}

fn mirror() -> MirrorName {
    "media".parse().unwrap()
}

async fn bucket(server: &Server) -> NodeBucket {
    NodeBucket::open(server.client().await, &mirror(), 1).await.unwrap()
}

#[tokio::test]
async fn attaching_never_creates() {
    for binary in crate::server::binaries() {
        let server = Server::start(&binary);
        let absent = NodeBucket::attach(server.client().await, &mirror()).await;
        assert!(matches!(absent, Err(BrokerError::Absent { .. })));
        bucket(&server).await;
        NodeBucket::attach(server.client().await, &mirror()).await.unwrap();
        bucket(&server).await;
    }
}

#[tokio::test]
async fn all_records_are_read_without_a_consumer_and_other_keys_left_out() {
    for binary in crate::server::binaries() {
        let server = Server::start(&binary);
        let bucket = bucket(&server).await;
        for node in ["b", "a"] {
            for role in [Role::Watcher, Role::Replicator] {
                Claim::take(bucket.clone(), &record(node, role, "i")).await.unwrap();
            }
        }
        let client = server.client().await;
        let context = async_nats::jetstream::new(client);
        for (key, value) in [("_mirror", "{}"), ("c.watcher", "not JSON")] {
            let subject = format!("$KV.MIRROR_MEDIA_NODES.{key}");
            context.publish(subject, value.into()).await.unwrap().await.unwrap();
        }
        let one: ContentHash = ContentHash::of(b"one");
        bucket.want(&"a".parse().unwrap(), vec![one; MAX_WANTED + 1]).await.unwrap();
        let all = bucket.all().await.unwrap();
        let seen: Vec<_> = all.iter().map(|seen| (seen.record.node.as_str(), seen.record.role)).collect();
        let (w, r) = (Role::Watcher, Role::Replicator);
        assert_eq!(seen, [("a", w), ("a", r), ("b", w), ("b", r)]);
        assert_eq!(bucket.all_wanted().await.unwrap(), vec![one; MAX_WANTED]);
        let node: NodeName = "b".parse().unwrap();
        assert_eq!(bucket.get(&node, r).await.unwrap().as_ref(), all.last());
        let stream = context.get_stream("KV_MIRROR_MEDIA_NODES").await.unwrap();
        assert_eq!(stream.cached_info().state.consumer_count, 0);
        let age = bucket.now().await.unwrap().seconds_since(all[0].written);
        assert!((0.0..15.0).contains(&age), "{age}");
    }
}

#[tokio::test]
async fn a_live_name_is_refused_to_another_instance_and_given_to_the_same() {
    let server = Server::start(&crate::server::binaries().pop().unwrap());
    let bucket = bucket(&server).await;
    let mut first = Claim::take(bucket.clone(), &record("n", Role::Watcher, "one")).await.unwrap();
    let refused = Claim::take(bucket.clone(), &record("n", Role::Watcher, "two")).await.err().unwrap();
    assert_eq!(refused.exit(), Exit::Halted);
    let text = refused.to_string();
    assert!(text.contains("node n") && text.contains("one") && text.contains("two"), "{text}");
    Claim::take(bucket.clone(), &record("n", Role::Replicator, "two")).await.expect("another role");

    let stopped = NodeRecord { state: NodeRunState::Stopping, ..record("n", Role::Watcher, "one") };
    first.write(&stopped).await.unwrap();
    Claim::take(bucket.clone(), &record("n", Role::Watcher, "two")).await.expect("said that it ends");
    let lost = first.write(&record("n", Role::Watcher, "one")).await.unwrap_err();
    assert!(
        matches!(&lost, ClaimError::Lost { theirs, ours, .. } if theirs == "two" && ours == "one"),
        "{lost}"
    );
    assert_eq!(lost.exit(), Exit::Halted);
}

#[tokio::test]
async fn a_lost_acknowledgement_and_a_bucket_made_anew_do_not_end_a_claim() {
    let server = Server::start(&crate::server::binaries().pop().unwrap());
    let bucket = bucket(&server).await;
    let own = record("n", Role::Watcher, "one");
    let mut claim = Claim::take(bucket.clone(), &own).await.unwrap();
    let context = async_nats::jetstream::new(server.client().await);
    let stored = serde_json::to_vec(&own).unwrap();
    let subject = "$KV.MIRROR_MEDIA_NODES.n.watcher";
    context.publish(subject, stored.into()).await.unwrap().await.unwrap();
    claim.write(&own).await.expect("its own record");

    context.delete_stream("KV_MIRROR_MEDIA_NODES").await.unwrap();
    assert!(matches!(claim.write(&own).await, Err(ClaimError::Broker(BrokerError::Absent { .. }))));
    NodeBucket::open(server.client().await, &mirror(), 1).await.unwrap();
    claim.write(&own).await.expect("nobody else has it");
    assert_eq!(bucket.all().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_broker_that_was_rolled_back_to_an_earlier_run_does_not_end_a_claim() {
    let server = Server::start(&crate::server::binaries().pop().unwrap());
    let bucket = bucket(&server).await;
    Claim::take(bucket.clone(), &record("n", Role::Watcher, "one")).await.unwrap();
    server.stop();
    let copy = server.copy_store();
    server.start_again();
    let later = NodeRecord { boot: "a later run".into(), ..record("n", Role::Watcher, "one") };
    let bucket = self::bucket(&server).await;
    let mut claim = Claim::take(bucket, &later).await.unwrap();
    server.stop();
    server.put_back(&copy);
    server.start_again();
    // While the client is on its way back to the broker a request may go astray; the next heartbeat is another.
    let heartbeats = async {
        loop {
            match claim.write(&later).await {
                Err(ClaimError::Broker(error)) if error.is_away() => {}
                written => return written,
            }
        }
    };
    let written = tokio::time::timeout(Duration::from_secs(30), heartbeats).await;
    written.expect("a broker that is back").expect("nobody else has the name");
    // A copy of this machine that runs at this moment is another matter.
    let twin = NodeRecord { boot: "a twin".into(), ..later.clone() };
    Claim::take(self::bucket(&server).await, &twin).await.unwrap();
    assert!(matches!(claim.write(&later).await, Err(ClaimError::Lost { .. })));
}

/// A reporter of node n, and what its records tell of.
fn reporter(dir: &tempfile::TempDir) -> (Reporter, Root, Index) {
    let (root, index) = (Root::open(dir.path()).unwrap(), Index::open(&dir.path().join("index.db")).unwrap());
    let identity = Identity {
        node: "n".parse().unwrap(),
        role: Role::Watcher,
        instance: "one".into(),
        durable: None,
        http: None,
    };
    let (_, connection) = tokio::sync::watch::channel(Connection::default());
    (Reporter::new(connection, identity), root, index)
}

#[tokio::test]
async fn a_bucket_that_was_lost_after_it_was_opened_is_made_again_for_the_claim() {
    let server = Server::start(&crate::server::binaries().pop().unwrap());
    let bucket = bucket(&server).await;
    let context = async_nats::jetstream::new(server.client().await);
    context.delete_stream("KV_MIRROR_MEDIA_NODES").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (mut reporter, root, index) = reporter(&dir);
    assert!(reporter.claim(bucket.clone(), &index, &root, &CancellationToken::new()).await.unwrap());
    assert_eq!(bucket.all().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_service_asks_for_its_name_until_the_broker_answers_or_it_is_told_to_stop() {
    let server = Server::start(&crate::server::binaries().pop().unwrap());
    let bucket = bucket(&server).await;
    let dir = tempfile::tempdir().unwrap();
    let (mut reporter, root, index) = reporter(&dir);
    let stop = CancellationToken::new();
    server.stop();
    {
        let mut claim = Box::pin(reporter.claim(bucket.clone(), &index, &root, &stop));
        // Longer than one request is waited for.
        assert!(tokio::time::timeout(Duration::from_secs(7), &mut claim).await.is_err());
        server.start_again();
        assert!(claim.await.unwrap());
    }
    assert_eq!(bucket.all().await.unwrap().len(), 1);
    server.stop();
    stop.cancel();
    assert!(!reporter.claim(bucket, &index, &root, &stop).await.unwrap());
}

#[test]
fn an_installation_keeps_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<_> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..4).map(|_| scope.spawn(|| instance_of(dir.path()).unwrap())).collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    assert_eq!(instance_of(dir.path()).unwrap(), names[0]);
}
