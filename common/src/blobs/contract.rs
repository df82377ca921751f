//! What every blob store must do: run against real ones, that of the broker on each server version.
//!
//! Panics at the first broken promise, naming it.

use super::{BlobError, BlobReader, BlobStore, Mark, Source};
use crate::{hash::ContentHash, limits::RateLimit};
use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    future::{join_all, try_join_all},
    stream,
};
use std::{future::Future, io, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// Whatever takes longer is stuck.
const SOON: Duration = Duration::from_secs(20);
/// Blobs read in a burst.
const BURST: usize = 2000;

/// What may happen to a stored blob behind our back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Harm {
    /// One of its chunks, or the end of it, is gone.
    LoseChunk,
    /// There is more after its last chunk.
    AddChunk,
    /// The first chunk has other bytes, of the same length. The others are gone.
    SpoilChunk,
    /// Its name is gone, its chunks are there, where they have names of their own.
    LoseName,
    /// It was deleted by an official client.
    Delete,
}

/// What only a test may do to a store, past our own means.
pub trait Tamper<B: BlobStore> {
    /// Another node's handle to the same store.
    fn other(&self) -> impl Future<Output = B>;
    /// Does this to a blob.
    fn harm(&self, hash: ContentHash, harm: Harm) -> impl Future<Output = ()>;
    /// Stores a blob under its hash as another client would, with chunks of this length where a store has such.
    fn put_foreign(&self, hash: ContentHash, bytes: &[u8], chunk: usize) -> impl Future<Output = ()>;
    /// How many chunks are stored, of all blobs, with and without a name. `None`: the store does not know such.
    fn chunks(&self) -> impl Future<Output = Option<u64>>;
    /// How many readers, or uploads that were given up, the server still knows.
    fn readers(&self) -> impl Future<Output = u64>;
}

/// Runs everything. `make`: a fresh, empty store, and the way to do it harm; stores made for one suite share nothing.
pub async fn suite<B: BlobStore, T: Tamper<B>>(make: impl AsyncFn() -> (B, T)) {
    let (store, tamper) = make().await;
    all_sizes(&store).await;
    absent(&store).await;
    assert_eq!(tamper.readers().await, 0, "reading leaves nothing behind");

    let (store, tamper) = make().await;
    stored_once(&store, &tamper).await;
    let (store, tamper) = make().await;
    sources_that_fail(&store, &tamper).await;
    let (store, tamper) = make().await;
    damaged(&store, &tamper).await;
    let (store, tamper) = make().await;
    spoilt_short_way(&store, &tamper).await;
    let (store, tamper) = make().await;
    resumed(&store, &tamper).await;
    limited(&store).await;
    let (store, tamper) = make().await;
    foreign(&store, &tamper).await;
    let (store, tamper) = make().await;
    burst(&store, &tamper).await;
}

/// Bytes without a pattern that a chunk's length could hide in, another for each seed.
fn bytes(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

/// The same as it comes from a disk.
fn source(bytes: &Bytes, chunk: usize) -> Source {
    let (chunks, receiver) = mpsc::channel(2);
    let (hash, hashed) = oneshot::channel();
    let (bytes, name) = (bytes.clone(), ContentHash::of(bytes));
    tokio::spawn(async move {
        for part in bytes.chunks(chunk) {
            if chunks.send(Ok(bytes.slice_ref(part))).await.is_err() {
                return;
            }
        }
        let _ = hash.send(ContentHash::of(&bytes));
    });
    Source { chunks: receiver, hash: hashed, name: Some(name) }
}

async fn assert_chunks<B: BlobStore, T: Tamper<B>>(tamper: &T, expected: u64, why: &str) {
    if let Some(chunks) = tamper.chunks().await {
        assert_eq!(chunks, expected, "{why}");
    }
}

async fn soon<T>(what: &str, act: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, act).await.unwrap_or_else(|_| panic!("{what} took over {SOON:?}"))
}

async fn read_all<R: BlobReader>(reader: Result<R, BlobError>) -> Result<Bytes, BlobError> {
    let (mut reader, mut all) = (reader?, Vec::new());
    while let Some(chunk) = soon("a chunk", reader.next()).await? {
        assert!(!chunk.is_empty(), "a reader hands out no empty chunks");
        all.extend_from_slice(&chunk);
    }
    Ok(all.into())
}

async fn get<B: BlobStore>(store: &B, hash: ContentHash, size: usize) -> Result<Bytes, BlobError> {
    read_all(soon("get", store.get(hash, size as u64, &RateLimit::default())).await).await
}

async fn by_meta<B: BlobStore>(store: &B, hash: ContentHash, size: usize) -> Result<Bytes, BlobError> {
    read_all(soon("get", store.get_by_meta(hash, size as u64, &RateLimit::default())).await).await
}

/// Stores as a caller does: whole when it is one chunk, else as a stream.
async fn put<B: BlobStore>(store: &B, bytes: &Bytes) -> ContentHash {
    let hash = ContentHash::of(bytes);
    if bytes.len() <= store.chunk_size() {
        soon("put", store.put(hash, bytes.clone())).await.expect("put");
    } else {
        put_stream(store, bytes).await;
    }
    hash
}

async fn put_stream<B: BlobStore>(store: &B, bytes: &Bytes) {
    let stored = soon("put", store.put_stream(source(bytes, store.chunk_size()))).await.expect("put");
    assert_eq!(stored, (ContentHash::of(bytes), bytes.len() as u64));
}

async fn all_sizes<B: BlobStore>(store: &B) {
    let chunk = store.chunk_size();
    let sizes = [0, 1, 10_240, chunk - 1, chunk, chunk + 1, 3 * chunk + 5, 8 * chunk, 20 << 20];
    for (seed, size) in (0..).zip(sizes) {
        let content = bytes(size, seed);
        let hash = put(store, &content).await;
        assert!(get(store, hash, size).await.expect("get") == content, "{size} bytes come back");
        assert!(by_meta(store, hash, size).await.expect("get") == content, "{size} bytes come back");
        let streamed = bytes(size, seed + 100);
        put_stream(store, &streamed).await;
        let hash = ContentHash::of(&streamed);
        assert!(get(store, hash, size).await.expect("get") == streamed, "{size} streamed bytes come back");
        if size > 0 {
            let error = get(store, hash, size + 1).await.expect_err("another size");
            assert!(matches!(error, BlobError::Damaged { .. }), "{error}");
        }
    }
}

async fn absent<B: BlobStore>(store: &B) {
    let here = put(store, &bytes(5, 1)).await;
    let nowhere = ContentHash::of(b"never stored");
    for size in [1, store.chunk_size() + 1] {
        let error = get(store, nowhere, size).await.expect_err("a missing blob");
        assert!(matches!(error, BlobError::Missing(hash) if hash == nowhere), "{error}");
    }
    assert_eq!(get(store, ContentHash::of_nothing(), 0).await.expect("no bytes at all"), Bytes::new());
    let asked = [nowhere, here, nowhere, here];
    assert_eq!(store.contains(&asked).await.expect("contains"), [false, true, false, true]);
    assert!(store.contains(&[]).await.expect("nothing asked").is_empty());
    let many: Vec<ContentHash> =
        (0..1200u32).map(|n| ContentHash::of(&n.to_le_bytes())).chain([here]).collect();
    let found = soon("contains", store.contains(&many)).await.expect("contains");
    assert_eq!((found.len(), found.iter().filter(|&&there| there).count(), found[1200]), (1201, 1, true));
    assert!(store.touch(here).await.expect("touch"));
    assert!(!store.touch(nowhere).await.expect("touch"));
}

async fn stored_once<B: BlobStore, T: Tamper<B>>(store: &B, tamper: &T) {
    let small = bytes(10_240, 1);
    put(store, &small).await;
    put(store, &small).await;
    assert!(store.touch(ContentHash::of(&small)).await.expect("touch"));
    assert_chunks(tamper, 1, "a second put stores nothing").await;
    put_stream(store, &small).await;
    assert_chunks(tamper, 1, "nor does a stream of the same bytes").await;

    let (contested, hash) = (bytes(20_000, 2), ContentHash::of(&bytes(20_000, 2)));
    let others = join_all((0..15).map(|_| tamper.other())).await;
    let nodes = others.iter().chain([store]);
    soon("16 puts", try_join_all(nodes.map(|node| node.put(hash, contested.clone())))).await.expect("put");
    assert_chunks(tamper, 2, "16 nodes store one chunk").await;
    assert!(by_meta(store, hash, 20_000).await.expect("get") == contested);

    let large = bytes(3 * store.chunk_size() + 5, 3);
    put_stream(store, &large).await;
    put_stream(store, &large).await;
    assert_chunks(tamper, 6, "a stream that is there already leaves no chunks").await;
    let hash = put(store, &Bytes::new()).await;
    put(store, &Bytes::new()).await;
    assert_eq!(store.contains(&[hash]).await.expect("contains"), [true]);
    assert_chunks(tamper, 6, "no bytes need no chunk").await;

    // A blob that was deleted is new when it comes again.
    let hash = ContentHash::of(&small);
    tamper.harm(hash, Harm::Delete).await;
    assert!(!store.touch(hash).await.expect("touch"));
    assert_eq!(store.contains(&[hash]).await.expect("contains"), [false]);
    put(store, &small).await;
    assert!(get(store, hash, 10_240).await.expect("get") == small);
    assert!(by_meta(store, hash, 10_240).await.expect("get") == small);
}

async fn sources_that_fail<B: BlobStore, T: Tamper<B>>(store: &B, tamper: &T) {
    let chunk = bytes(store.chunk_size(), 1);
    let hash = ContentHash::of(&chunk);
    let (chunks, receiver) = mpsc::channel(4);
    let (_word, hashed) = oneshot::channel();
    chunks.send(Ok(chunk.clone())).await.expect("room");
    chunks.send(Err(io::Error::other("disk on fire"))).await.expect("room");
    let failed =
        soon("put", store.put_stream(Source { chunks: receiver, hash: hashed, name: Some(hash) })).await;
    let error = failed.expect_err("a source that fails");
    assert!(matches!(&error, BlobError::Source(e) if e.to_string() == "disk on fire"), "{error}");

    let (chunks, receiver) = mpsc::channel(4);
    let (word, hashed) = oneshot::channel();
    chunks.send(Ok(chunk)).await.expect("room");
    drop(chunks);
    drop(word);
    let failed =
        soon("put", store.put_again(Source { chunks: receiver, hash: hashed, name: Some(hash) })).await;
    let error = failed.expect_err("a source that changed");
    assert!(matches!(error, BlobError::Source(_)), "{error}");
    assert_eq!(store.contains(&[hash]).await.expect("contains"), [false], "nothing has a name");
    assert_chunks(tamper, 0, "what was uploaded is taken back").await;
}

async fn damaged<B: BlobStore, T: Tamper<B>>(store: &B, tamper: &T) {
    let sizes = [10_240, 3 * store.chunk_size() + 5, 30 * store.chunk_size()];
    for (seed, size) in (0..).zip(sizes) {
        for (n, harm) in (0..).zip([Harm::LoseChunk, Harm::AddChunk, Harm::SpoilChunk]) {
            let content = bytes(size, 10 * seed + n);
            let hash = put(store, &content).await;
            tamper.harm(hash, harm).await;
            let one_chunk = size <= store.chunk_size();
            match by_meta(store, hash, size).await {
                Err(BlobError::Damaged { hash: named, .. }) if named == hash => {}
                Ok(read) if harm == Harm::SpoilChunk && one_chunk && read != content => {}
                other => panic!("{harm:?} of {size} bytes: {:?}", other.map(|read| read.len())),
            }
            let again = soon("put", store.put_again(source(&content, store.chunk_size()))).await;
            assert_eq!(again.expect("put"), (hash, size as u64));
            assert!(by_meta(store, hash, size).await.expect("get") == content, "repaired after {harm:?}");
        }
        let content = bytes(size, 10 * seed + 5);
        let hash = put(store, &content).await;
        tamper.harm(hash, Harm::Delete).await;
        let error = by_meta(store, hash, size).await.expect_err("a deleted blob");
        assert!(matches!(error, BlobError::Missing(_)), "{error}");
    }
}

/// The short way to a small blob is only a hint: what is wrong there must not stick.
async fn spoilt_short_way<B: BlobStore, T: Tamper<B>>(store: &B, tamper: &T) {
    let content = bytes(5000, 1);
    let hash = put(store, &content).await;
    tamper.harm(hash, Harm::SpoilChunk).await;
    let read = get(store, hash, 5000).await;
    assert!(read.is_err() || read.is_ok_and(|read| read != content), "harm was done");
    soon("put", store.put_again(source(&content, store.chunk_size()))).await.expect("put");
    assert!(by_meta(store, hash, 5000).await.expect("get") == content, "repair leads past it");
    // A later put of the same bytes must not lead back to it.
    put(store, &content).await;
    assert!(by_meta(store, hash, 5000).await.expect("get") == content, "it stays repaired");

    // Left by an upload that was cut off: right or wrong, nothing vouches for it.
    for (seed, spoil) in [(2, false), (3, true)] {
        let content = bytes(5000, seed);
        let hash = put(store, &content).await;
        if spoil {
            tamper.harm(hash, Harm::SpoilChunk).await;
        }
        tamper.harm(hash, Harm::LoseName).await;
        assert_eq!(store.contains(&[hash]).await.expect("contains"), [false]);
        assert!(!store.touch(hash).await.expect("touch"));
        let error = by_meta(store, hash, 5000).await.expect_err("without a name");
        assert!(matches!(error, BlobError::Missing(_)), "{error}");
        put(store, &content).await;
        assert!(by_meta(store, hash, 5000).await.expect("get") == content, "spoilt: {spoil}");
    }
}

/// Reads a blob up to some chunk; then a new reader goes on from there, as after a crash.
async fn resumed<B: BlobStore, T: Tamper<B>>(store: &B, tamper: &T) {
    let limit = RateLimit::default();
    let chunk = store.chunk_size();
    let content = bytes(20 * chunk + 5, 1);
    let (hash, size) = (put(store, &content).await, content.len() as u64);
    // Chunks of another blob stand among those of this one.
    put(store, &bytes(3 * chunk, 2)).await;
    let mut marks = Vec::new();
    let mut reader = store.get(hash, size, &limit).await.expect("get");
    let mut done = 0;
    while let Some(chunk) = soon("a chunk", reader.next()).await.expect("a chunk") {
        done += chunk.len() as u64;
        marks.push((done, reader.mark().expect("a mark behind each chunk")));
    }
    for at in [0, 1, 7, 8, 19] {
        let (done, mark) = &marks[at];
        // As it comes back from a disk, to another process.
        let mark = Mark::from_bytes(mark.as_bytes().to_vec());
        let other = tamper.other().await;
        let (reader, from) = other.get_from(hash, size, *done, &mark, &limit).await.expect("goes on");
        assert_eq!(from, *done);
        let rest = read_all(Ok(reader)).await.expect("the rest");
        assert!(rest == content[*done as usize..], "after {done} bytes");
    }
    let (done, mark) = marks[6].clone();
    // What was kept with the mark is not what the mark belongs to: noticed at once, or by the end at the latest.
    let (reader, from) = store.get_from(hash, size, done - 1, &mark, &limit).await.expect("a reader");
    let read = read_all(Ok(reader)).await;
    assert!(read.is_err() || from == 0 && read.is_ok_and(|read| read == content));
    // Nothing that can be understood, nothing left to read, a foreign blob, the whole blob, more than it has.
    let all = marks[20].1.clone();
    let nonsense = |text: &str| Mark::from_bytes(text.as_bytes().to_vec());
    let garbage =
        [nonsense(""), nonsense("{}"), nonsense("\u{0}"), nonsense(r#"{"nuid":"x","chunks":1,"from":9}"#)];
    let anew =
        garbage.iter().map(|mark| (done, mark)).chain([(done, &all), (size, &mark), (size + 9, &mark)]);
    for (done, mark) in anew {
        let (reader, from) = store.get_from(hash, size, done, mark, &limit).await.expect("anew");
        assert_eq!(from, 0, "{done} {mark:?}");
        assert!(read_all(Ok(reader)).await.expect("all of it") == content);
    }
    // Stored again: the chunks that the mark names may be others now.
    soon("put", store.put_again(source(&content, chunk))).await.expect("put");
    let (reader, from) = store.get_from(hash, size, done, &mark, &limit).await.expect("a reader");
    assert!(from == 0 || from == done, "{from}");
    assert!(read_all(Ok(reader)).await.expect("the rest") == content[from as usize..]);
    // Lost meanwhile.
    tamper.harm(hash, Harm::Delete).await;
    let error = store.get_from(hash, size, done, &mark, &limit).await.err().expect("a missing blob");
    assert!(matches!(error, BlobError::Missing(_)), "{error}");
}

/// Under a limit bytes come as they may pass, and not only when much of the blob may: nobody would know a slow reader from one that stands still.
async fn limited<B: BlobStore>(store: &B) {
    let content = bytes(8 * store.chunk_size(), 77);
    let hash = put(store, &content).await;
    let limit = RateLimit::new(Some(store.chunk_size() as u64));
    let mut reader = store.get(hash, content.len() as u64, &limit).await.expect("get");
    let first = soon("a chunk", reader.next()).await.expect("a chunk").expect("a first chunk");
    let passed = limit.passed() as usize;
    assert!(passed < content.len() / 2, "{passed} bytes had to pass before {} came", first.len());
}

async fn foreign<B: BlobStore, T: Tamper<B>>(store: &B, tamper: &T) {
    let chunk = store.chunk_size();
    for (seed, (size, length)) in
        (0..).zip([(5000, 5000), (5000, 333), (3 * chunk, chunk / 2), (chunk + 1, 2 * chunk)])
    {
        let content = bytes(size, seed);
        let hash = ContentHash::of(&content);
        tamper.put_foreign(hash, &content, length).await;
        assert!(get(store, hash, size).await.expect("get") == content, "{size} bytes by {length}");
        let before = tamper.chunks().await;
        put(store, &content).await;
        assert_eq!(tamper.chunks().await, before, "it is there, so it is not stored again");
        assert!(by_meta(store, hash, size).await.expect("get") == content);
    }
}

async fn burst<B: BlobStore, T: Tamper<B>>(store: &B, tamper: &T) {
    let contents: Vec<Bytes> = (0..BURST as u64).map(|seed| bytes(300, seed)).collect();
    let hashes: Vec<ContentHash> = contents.iter().map(|content| ContentHash::of(content)).collect();
    let puts = (0..BURST).map(|n| store.put(hashes[n], contents[n].clone()));
    soon("puts", stream::iter(puts).buffer_unordered(64).try_collect::<()>()).await.expect("put");
    assert_chunks(tamper, BURST as u64, "one each").await;
    let gets = hashes
        .iter()
        .copied()
        .enumerate()
        .map(async |(n, hash)| get(store, hash, 300).await.map(|read| (n, read)));
    let reads: Vec<_> =
        soon("gets", stream::iter(gets).buffer_unordered(256).try_collect()).await.expect("get");
    assert!(reads.into_iter().all(|(n, read)| read == contents[n]), "each get has its own answer");
    // More than one answer can hold.
    let large: Vec<Bytes> = (0..80).map(|seed| bytes(store.chunk_size(), seed + 5000)).collect();
    let hashes =
        try_join_all(large.iter().map(async |content| Ok::<_, BlobError>(put(store, content).await)));
    let hashes = hashes.await.expect("put");
    let reads = try_join_all(hashes.iter().map(|&hash| get(store, hash, store.chunk_size())));
    assert!(soon("large gets", reads).await.expect("get") == large, "each get has its own answer");
    assert_eq!(tamper.readers().await, 0, "a burst of gets leaves nothing behind");
}
