//! What the stages of the data path cost, each by itself: `cargo bench -p mediamirror-common`. Those of the blob store run on the nats-server that
//! `MEDIAMIRROR_NATS_SERVERS` names (the last one), else on the one on the PATH.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../tests/brokers/server.rs"]
mod server;

use bytes::Bytes;
use common::{
    blobs::{BlobOptions, BlobReader, BlobStore, NatsBlobs},
    event::{Attributes, Event, EventId, Kind, Version},
    hash::{ContentHash, Hasher},
    index::{Commit, Generation, Index, Intent, Stat},
    limits::RateLimit,
    names::MirrorName,
    path::MediaPath,
    place::{self, Placed, Placer},
    root::Root,
    subject::Subjects,
    time::Timestamp,
};
use divan::{
    Bencher, black_box,
    counter::{BytesCount, ItemsCount},
};
use futures_util::future::join_all;
use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::runtime::Runtime;

fn main() {
    divan::main();
}

/// A content, path or version that was not there before.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn mirror() -> MirrorName {
    "media".parse().unwrap()
}

fn unlike_any_other(size: usize) -> Bytes {
    let mut bytes = vec![7; size];
    bytes[..8].copy_from_slice(&next().to_le_bytes());
    bytes.into()
}

fn event() -> Event {
    Event {
        path: "uploads/2026/02/a picture of a cat.jpg".parse().unwrap(),
        sha256: ContentHash::of(b"cat"),
        added: Some(Attributes {
            size: 34_812,
            mtime: Timestamp::from_nanos(1_700_000_000_123_456_789),
            mode: 0o644,
        }),
        node: "cms-1".parse().unwrap(),
        replaces: Version::new(41),
        detected: Timestamp::from_nanos(1_700_000_000_200_000_000),
        was: None,
    }
}

mod hashing {
    use super::*;

    const SIZES: [usize; 4] = [1 << 10, 10 << 10, 256 << 10, 8 << 20];

    #[divan::bench(args = SIZES)]
    fn ours(bencher: Bencher, size: usize) {
        let bytes = unlike_any_other(size);
        bencher.counter(BytesCount::new(size)).bench(|| {
            let mut hasher = Hasher::new();
            hasher.update(black_box(&bytes));
            hasher.finish()
        });
    }

    /// The check on ours.
    #[divan::bench(args = SIZES)]
    fn sha2(bencher: Bencher, size: usize) {
        use ::sha2::{Digest, Sha256};
        let bytes = unlike_any_other(size);
        bencher.counter(BytesCount::new(size)).bench(|| Sha256::digest(black_box(&bytes)));
    }
}

mod codecs {
    use super::*;

    #[divan::bench]
    fn event_to_payload(bencher: Bencher) {
        let event = event();
        bencher.bench(|| black_box(&event).encode());
    }

    #[divan::bench]
    fn payload_to_event(bencher: Bencher) {
        let (event, subjects) = (event(), Subjects::new(&mirror()));
        let (subject, payload) = (subjects.of(&event.path), event.encode());
        bencher.bench(|| Event::decode(&subjects, &subject, black_box(payload.as_ref())));
    }

    #[divan::bench]
    fn path_to_subject(bencher: Bencher) {
        let (event, subjects) = (event(), Subjects::new(&mirror()));
        bencher.bench(|| subjects.of(black_box(&event.path)));
    }
}

mod index {
    use super::*;

    /// Rows asked for at once, which share a transaction and its sync.
    #[divan::bench(args = [1, 16, 64, 256])]
    fn commit(bencher: Bencher, rows: usize) {
        let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        let generation = index.node().unwrap().generation;
        bencher.counter(ItemsCount::new(rows)).bench(|| {
            runtime.block_on(join_all((0..rows).map(|_| {
                let row = row(next(), generation);
                index.write(move |tx| tx.commit(&row))
            })))
        });
    }

    /// What an event, or a notice of the watcher, asks first.
    #[divan::bench]
    fn path_state(bencher: Bencher) {
        let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        let generation = index.node().unwrap().generation;
        let rows: Vec<Commit> = (0..10_000).map(|_| row(next(), generation)).collect();
        let paths: Vec<MediaPath> = rows.iter().map(|row| row.path.clone()).collect();
        runtime.block_on(join_all(rows.into_iter().map(|row| index.write(move |tx| tx.commit(&row)))));
        let mut at = paths.iter().cycle();
        bencher.bench_local(|| index.path_state(at.next().unwrap()).unwrap());
    }

    fn row(version: u64, generation: Generation) -> Commit {
        let path = format!("uploads/{}/{version}.jpg", version % 400);
        Commit {
            subject: format!("mirror.media.{path}"),
            path: path.parse().unwrap(),
            kind: Kind::Added,
            sha256: ContentHash::of(&version.to_le_bytes()),
            size: 10_240,
            stat: Some(Stat { ino: version, size: 10_240, mtime: 1, ctime: 2 }),
            racy: false,
            version: Version::new(version),
            replaced: Version::ZERO,
            event: EventId::from_hash(ContentHash::of_nothing()),
            generation,
        }
    }
}

mod placement {
    use super::*;

    /// New files of 10 KiB placed at once, temp file to committed row, every sync of it included.
    #[divan::bench(args = [1, 16, 256], sample_count = 20)]
    fn new_files(bencher: Bencher, files: usize) {
        let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let media = dir.path().join("media");
        std::fs::create_dir(&media).unwrap();
        let root = Arc::new(Root::open(&media).unwrap());
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        let _in_runtime = runtime.enter();
        let placer = Placer::start(Arc::clone(&root), index.clone());
        let (subjects, generation) = (Subjects::new(&mirror()), index.node().unwrap().generation);
        bencher.counter(ItemsCount::new(files)).bench(|| {
            runtime.block_on(join_all((0..files).map(|_| one(&root, &index, &placer, &subjects, generation))))
        });
    }

    async fn one(
        root: &Arc<Root>,
        index: &Index,
        placer: &Placer,
        subjects: &Subjects,
        generation: Generation,
    ) {
        let (version, bytes) = (next(), unlike_any_other(10 << 10));
        let path: MediaPath = format!("uploads/{}/{version}.jpg", version % 400).parse().unwrap();
        let seen = index.path_state(&path).unwrap();
        let (at, to, content) = (Arc::clone(root), path.clone(), ContentHash::of(&bytes));
        let finished = tokio::task::spawn_blocking(move || {
            let folder = at.make_folder(&to).unwrap();
            let mut temp = at.create_temp(content).unwrap();
            temp.file.write_all(&bytes).unwrap();
            let attributes = (0o644, Timestamp::from_nanos(1_700_000_000_000_000_000));
            let stat = place::finish(&at, &mut temp, &folder, None, attributes).unwrap();
            (temp.name, stat, folder)
        });
        let (temp, stat, folder) = finished.await.unwrap();
        let intent = Intent {
            kind: Kind::Added,
            sha256: content,
            size: stat.size,
            mtime: stat.mtime,
            version: Version::new(version),
            replaced: Version::ZERO,
            event: EventId::from_hash(ContentHash::of_nothing()),
            old: None,
            known: true,
            temp,
            temp_ino: Some(stat.ino),
            role: "replicator".into(),
            owner: "bench".into(),
            generation,
        };
        let placed = placer.place(subjects, &path, &seen, &intent, Some(folder)).await.unwrap();
        assert_eq!(placed, Placed::Done);
    }
}

mod blobs {
    use super::*;

    const SIZES: [usize; 2] = [10 << 10, 256 << 10];

    struct Store {
        runtime: Runtime,
        blobs: NatsBlobs,
        _server: server::Server,
    }

    fn store() -> Store {
        let runtime = Runtime::new().unwrap();
        let server = server::Server::start(&server::binaries().pop().unwrap());
        let options = BlobOptions { mirror: mirror(), replicas: 1, durable: false };
        let blobs =
            runtime.block_on(async { NatsBlobs::open(server.client().await, options).await.unwrap() });
        Store { runtime, blobs, _server: server }
    }

    #[divan::bench(args = SIZES, consts = [1, 32], sample_count = 20)]
    fn put<const AT_ONCE: usize>(bencher: Bencher, size: usize) {
        let store = store();
        bencher.counter(BytesCount::new(size * AT_ONCE)).bench(|| {
            store.runtime.block_on(join_all((0..AT_ONCE).map(|_| async {
                let bytes = unlike_any_other(size);
                store.blobs.put(ContentHash::of(&bytes), bytes).await.unwrap();
            })))
        });
    }

    #[divan::bench(args = SIZES, consts = [1, 32], sample_count = 20)]
    fn get<const AT_ONCE: usize>(bencher: Bencher, size: usize) {
        let store = store();
        let hashes: Vec<ContentHash> = (0..AT_ONCE)
            .map(|_| {
                let bytes = unlike_any_other(size);
                let hash = ContentHash::of(&bytes);
                store.runtime.block_on(store.blobs.put(hash, bytes)).unwrap();
                hash
            })
            .collect();
        bencher.counter(BytesCount::new(size * AT_ONCE)).bench(|| {
            store.runtime.block_on(join_all(hashes.iter().map(|hash| async {
                let mut reader = store.blobs.get(*hash, size as u64, &RateLimit::default()).await.unwrap();
                let mut length = 0;
                while let Some(chunk) = reader.next().await.unwrap() {
                    length += chunk.len();
                }
                assert_eq!(length, size);
            })))
        });
    }
}
