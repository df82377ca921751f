//! Content over HTTP: `GET`, `HEAD /api/v1/files/{sha256}`, and what the reading of paths shares with it.
//!
//! What is sent is never half or wrong. From the disk only files that stand as the index has them are sent, opened over real folders below the root, and each block
//! is known to be of just that file; bytes of the blob store are hashed, a small blob before the answer begins, a large one before its last byte.
//!
//! Costs: a descriptor for each download, and two blocks of 256 KiB; some 5 MiB for each that comes from the store.

mod body;
mod head;

pub use body::{Standing, arriving};
pub use head::{Wanted, head, wanted};

use super::{
    ASK_AGAIN, Problem, Query, Scope,
    openapi::{Access, Content, Operation, Verb, schemas},
};
use crate::{
    arrivals::Arrival,
    blobs::{BlobError, BlobReader, BlobStore, Blobs},
    content::{self, hash_open},
    error_chain,
    hash::ContentHash,
    index::{Index, IndexError, Row},
    limits::RateLimit,
    path::MediaPath,
    resolve::blocking,
    root::{FileStat, Look, Root},
};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode, Uri,
        header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use std::{
    io,
    ops::Range,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

/// Downloads at once: fewer than connections, so that who takes theirs slowly leaves room to ask how the process is.
const DOWNLOADS: usize = 96;
/// Of them from the blob store.
const FROM_STORE: usize = 16;
/// A file that was written a moment ago is looked at again until a later write cannot carry its stat: 60 ms, where nobody writes to it.
const YOUNG_LOOKS: usize = 4;
const YOUNG_PAUSE: Duration = Duration::from_millis(15);

/// What a node has to read from.
pub struct Shelf {
    root: Arc<Root>,
    index: Index,
    /// Once the broker was reached.
    store: OnceLock<(Blobs, RateLimit)>,
    downloads: Arc<Semaphore>,
    from_store: Arc<Semaphore>,
}

/// What the disk has of a path.
pub enum Local {
    /// Content that the index vouches for.
    Standing(Standing),
    /// A file, and it is not as the index has it.
    Changed,
    /// Nothing that the index knows of.
    Absent,
}

/// What a request wants to know.
pub struct Asked<'a> {
    /// GET, not HEAD.
    pub is_get: bool,
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// The path that it asks for, if it asks for one.
    pub path: Option<&'a MediaPath>,
}

impl Shelf {
    /// Over a node's root.
    pub fn new(root: Arc<Root>, index: Index) -> Self {
        let (downloads, from_store) =
            (Arc::new(Semaphore::new(DOWNLOADS)), Arc::new(Semaphore::new(FROM_STORE)));
        Self { root, index, store: OnceLock::new(), downloads, from_store }
    }

    /// The broker is reached. `limit`: what is read of its store passes through it.
    pub fn reached(&self, blobs: Blobs, limit: RateLimit) {
        // A second time would be the same store.
        let _ = self.store.set((blobs, limit));
    }

    /// The right to download.
    pub fn place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let crowded = |_| Problem::passing(format!("{DOWNLOADS} downloads are under way already"), ASK_AGAIN);
        Arc::clone(&self.downloads).try_acquire_owned().map_err(crowded)
    }

    /// What stands at a path.
    pub async fn at(&self, path: &MediaPath) -> Result<Local, Problem> {
        for _ in 0..YOUNG_LOOKS {
            let (local, young) = self.now(path).await.map_err(unreadable)?;
            if !young {
                return Ok(local);
            }
            sleep(YOUNG_PAUSE).await;
        }
        self.now(path).await.map(|(local, _)| local).map_err(unreadable)
    }

    /// With it, whether a file stands there that was written so shortly ago that nothing vouches for it yet.
    async fn now(&self, path: &MediaPath) -> Result<(Local, bool), IndexError> {
        let (root, index, path) = (Arc::clone(&self.root), self.index.clone(), path.clone());
        blocking(move || {
            let local = match index.path_state(&path)?.row {
                Some(row) if row.content().is_some() => standing(&root, &path, &row, true),
                _ => Local::Absent,
            };
            let young = matches!(local, Local::Changed)
                && matches!(root.look(&path), Ok(Look::File(now)) if content::is_racy(now.mtime));
            Ok((local, young))
        })
        .await
    }

    async fn with(&self, content: ContentHash) -> Result<Option<Standing>, Problem> {
        let (root, index) = (Arc::clone(&self.root), self.index.clone());
        let found = blocking(move || {
            let paths = index.paths_with(content)?;
            // One whose stat tells its content is found without reading any.
            let looks = [false, true].into_iter().flat_map(|read| paths.iter().map(move |at| (read, at)));
            let found = looks.map(|(read, (path, row))| standing(&root, path, row, read));
            Ok::<_, IndexError>(found.into_iter().find_map(|local| match local {
                Local::Standing(standing) => Some(standing),
                Local::Changed | Local::Absent => None,
            }))
        });
        found.await.map_err(unreadable)
    }

    /// From the store, where it has it.
    async fn stored(
        &self,
        asked: &Asked<'_>,
        content: ContentHash,
        place: OwnedSemaphorePermit,
    ) -> Result<Response, Problem> {
        let (blobs, limit) = self.store.get().ok_or_else(|| {
            Problem::passing("the process has not reached the broker since it was started", ASK_AGAIN)
        })?;
        let size = blobs.length(content).await.map_err(no_blob)?;
        let size = size.or((content == ContentHash::of_nothing()).then_some(0));
        let size = size.ok_or_else(|| no_blob(BlobError::Missing(content)))?;
        let Some(range) = begun(asked, content, size) else { return Ok(without_body(asked, content, size)) };
        let lane = Arc::clone(&self.from_store).try_acquire_owned().map_err(|_| {
            Problem::passing(
                format!("{FROM_STORE} downloads from the store are under way already"),
                ASK_AGAIN,
            )
        })?;
        let body = if size <= blobs.chunk_size() as u64 {
            let whole = small(blobs, content, size, limit).await.map_err(no_blob)?;
            let bounds = |at| usize::try_from(at).unwrap_or(usize::MAX);
            Body::from(whole.slice(bounds(range.start)..bounds(range.end)))
        } else {
            let reader = blobs.get(content, size, limit).await.map_err(no_blob)?;
            body::stored(reader, (content, size), range.clone(), [place, lane])
        };
        Ok(with_body(asked, content, size, range, body))
    }
}

/// What there is to say of content, however it was asked for.
pub fn describe(operation: Operation) -> Operation {
    operation
        .header("Range", schemas::text(), "`bytes=FIRST-LAST`; several ranges are answered with all of it")
        .header("If-Range", schemas::text(), "The ETag that the range is of")
        .header("If-None-Match", schemas::text(), "ETags that the client has")
        .answer(200, "The content", Content::Bytes)
        .answer(206, "The range", Content::Bytes)
        .answer(304, "The client has it", Content::Nothing)
        .refuses(416, "It has no such bytes")
        .refuses(502, "What the store has under this name is something else, or not there")
        .and_head()
}

/// What [`file`] answers.
pub fn file_operation() -> Operation {
    let (path, text) = ("/api/v1/files/{sha256}", "Content by its hash");
    let plain = Operation::new("read_file", Verb::Get, path, Access::Scope(Scope::Read), text).path(
        "sha256",
        schemas::sha256(),
        "What it hashes to",
    );
    describe(plain).refuses(404, "It is unknown")
}

/// `GET /api/v1/files/{sha256}`: content by its hash.
pub async fn file(
    State(shelf): State<Arc<Shelf>>,
    Path(name): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Query::of(&uri, &[])?;
    let content: ContentHash = name.parse().map_err(|error| super::refused("sha256", &format!("{error}")))?;
    let asked = Asked { is_get: method == Method::GET, headers: &headers, path: None };
    let place = shelf.place()?;
    match shelf.with(content).await? {
        Some(standing) => from_disk(&asked, standing, place).await,
        None => shelf.stored(&asked, content, place).await,
    }
}

/// Answers with a file that stands.
pub async fn from_disk(
    asked: &Asked<'_>,
    standing: Standing,
    place: OwnedSemaphorePermit,
) -> Result<Response, Problem> {
    let (content, size) = (standing.content, standing.size);
    let Some(range) = begun(asked, content, size) else { return Ok(without_body(asked, content, size)) };
    let changed = |error: io::Error| Problem::passing(format!("the file cannot be read: {error}"), ASK_AGAIN);
    let body = standing.body(range.clone(), place).await.map_err(changed)?;
    Ok(with_body(asked, content, size, range, body))
}

/// Answers with a file that is being fetched.
pub fn from_arrival(
    asked: &Asked<'_>,
    content: ContentHash,
    arrival: Arrival,
    place: OwnedSemaphorePermit,
) -> Response {
    let size = arrival.size;
    let Some(range) = begun(asked, content, size) else { return without_body(asked, content, size) };
    let body = arriving(arrival, content, range.clone(), place);
    with_body(asked, content, size, range, body)
}

/// The bytes to send; `None`: no body.
fn begun(asked: &Asked<'_>, content: ContentHash, size: u64) -> Option<Range<u64>> {
    match wanted(asked.headers, asked.is_get, content, size) {
        Wanted::Whole => Some(0..size),
        Wanted::Part(range) => Some(range),
        Wanted::NotModified | Wanted::Unsatisfiable => None,
    }
    .filter(|_| asked.is_get)
}

fn without_body(asked: &Asked<'_>, content: ContentHash, size: u64) -> Response {
    let mut head = head(content, asked.path);
    match wanted(asked.headers, asked.is_get, content, size) {
        Wanted::NotModified => {
            head.remove(CONTENT_TYPE);
            (StatusCode::NOT_MODIFIED, head).into_response()
        }
        Wanted::Unsatisfiable => {
            let problem =
                Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("the file has {size} bytes"));
            let mut answer = problem.into_response();
            if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
                answer.headers_mut().insert(CONTENT_RANGE, value);
            }
            answer
        }
        Wanted::Whole | Wanted::Part(_) => {
            head.insert(CONTENT_LENGTH, size.into());
            (StatusCode::OK, head).into_response()
        }
    }
}

fn with_body(asked: &Asked<'_>, content: ContentHash, size: u64, range: Range<u64>, body: Body) -> Response {
    let mut head = head(content, asked.path);
    head.insert(CONTENT_LENGTH, (range.end - range.start).into());
    let part = matches!(wanted(asked.headers, asked.is_get, content, size), Wanted::Part(_));
    let status = if part { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    if part
        && let Ok(value) =
            HeaderValue::from_str(&format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1)))
    {
        head.insert(CONTENT_RANGE, value);
    }
    (status, head, body).into_response()
}

/// Whether a file stands as its row says; blocks. `read`: where its stat does not tell, its bytes are looked at.
fn standing(root: &Root, path: &MediaPath, row: &Row, read: bool) -> Local {
    let Some(content) = row.content() else { return Local::Absent };
    let (mut file, before) = match root.open_file(path) {
        Ok(opened) => opened,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Local::Absent;
        }
        Err(_) => return Local::Changed,
    };
    let told = row.stat == Some(before.stat) && !row.racy;
    if !told {
        if !read || before.stat.size != row.size || content::is_racy(before.mtime) {
            return Local::Changed;
        }
        let same = hash_open(&mut file).is_ok_and(|(hash, _)| hash == content);
        if !same || !FileStat::of(&file).is_ok_and(|now| now == before) {
            return Local::Changed;
        }
    }
    Local::Standing(Standing { file: Arc::new(file), content, size: before.stat.size, mtime: before.mtime })
}

/// A blob of one chunk, checked.
async fn small(
    blobs: &Blobs,
    content: ContentHash,
    size: u64,
    limit: &RateLimit,
) -> Result<Bytes, BlobError> {
    for by_meta in [false, true] {
        let reader = match by_meta {
            false => blobs.get(content, size, limit).await?,
            true => blobs.get_by_meta(content, size, limit).await?,
        };
        let bytes = collected(reader).await?;
        if bytes.len() as u64 == size && ContentHash::of(&bytes) == content {
            return Ok(bytes);
        }
    }
    Err(BlobError::Damaged { hash: content, reason: "it has other bytes than its name says".into() })
}

async fn collected(mut reader: impl BlobReader) -> Result<Bytes, BlobError> {
    let mut all = Vec::new();
    while let Some(chunk) = reader.next().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all.into())
}

fn unreadable(error: IndexError) -> Problem {
    Problem::passing(error_chain(&error), ASK_AGAIN)
}

fn no_blob(error: BlobError) -> Problem {
    let text = error_chain(&error);
    match error {
        BlobError::Missing(_) => Problem::new(StatusCode::NOT_FOUND, text),
        BlobError::Damaged { .. } | BlobError::Source(_) => Problem::new(StatusCode::BAD_GATEWAY, text),
        BlobError::Broker(_) | BlobError::Store { .. } => Problem::passing(text, ASK_AGAIN),
    }
}
