//! The root's marker, `.mirror/id`: a random name by which an unmounted or swapped root is recognised, and a number that is kept in the index
//! too and raised in both, by which a root restored from a backup is. Where the index was restored with it both have the number, and the file that
//! holds it tells: a copy is another file. Every file of the tree is one then, and would look as if a user had written it again.

use super::{Root, is_full};
use crate::index::{Index, IndexError};
use rustix::{
    fs::{self, FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};
use tokio::{sync::Mutex, time::Instant};

/// How long is waited for the other process to raise the number.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a raised number stands before the next change raises it again.
const AGE: Duration = Duration::from_secs(10);

/// Why the root must not be touched.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// The index knows this root by a marker that is not there.
    #[error("the marker {} is missing: the root is unmounted, or was emptied", .0.display())]
    Missing(PathBuf),
    /// Another root than the one the index knows.
    #[error("the marker {} is that of another root (it says {found}, the index knows {known})", .path.display())]
    Swapped {
        /// The marker's file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What the index knows.
        known: String,
    },
    /// It cannot be read or written.
    #[error("the marker {} cannot be read or written", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// The other process holds it for too long.
    #[error("the marker {} is held by the other process for over {} s", .0.display(), PATIENCE.as_secs())]
    Held(PathBuf),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl MarkerError {
    /// A safety limit rather than a failure: the process must halt.
    pub fn halts(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Swapped { .. })
    }

    /// A disk is full, the root's or the one under the index: waiting for space is the cure.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io(_, error) => is_full(error),
            Self::Index(error) => error.is_full(),
            Self::Missing(_) | Self::Swapped { .. } | Self::Held(_) => false,
        }
    }
}

/// Checks the marker against the index and raises its number in both: index (pending), root, index. Called at every start, and
/// with the first change after each 10 s. A number, or a file that holds it, that neither the index knows nor was about to write means that the root was restored: the index then
/// says so, and the next look at the log begins a new generation (rule 7). A crash in between leaves one of the two numbers that are accepted.
pub async fn raise_marker(root: &Arc<Root>, index: &Index) -> Result<(), MarkerError> {
    let file = root.path().join(".mirror/id");
    let io = |error| MarkerError::Io(file.clone(), error);
    root_stands(root)?;
    let _lock = lock(root).await.map_err(io)?.ok_or_else(|| MarkerError::Held(file.clone()))?;
    let node = index.node()?;
    let (name, number, holder) = match (read(root).map_err(io)?, node.marker_name) {
        (Some(marker), Some(known)) if marker.name != known => {
            return Err(MarkerError::Swapped { path: file, found: marker.name, known });
        }
        (None, Some(_)) => return Err(MarkerError::Missing(file)),
        (Some(marker), _) => (marker.name, marker.number, marker.holder),
        (None, None) => {
            let name = format!("{:016x}", rand::random::<u64>());
            let spare = Spare::open(root).map_err(io)?;
            let holder = spare.holder.clone();
            spare.write(root, &name, 0).map_err(io)?;
            (name, 0, holder)
        }
    };
    let spare = Spare::open(root).map_err(io)?;
    let (known, pending, holds_next) = (name.clone(), spare.holder.clone(), spare.holder.clone());
    let next = index
        .write(move |tx| {
            let node = tx.node_mut();
            let accepted = [
                (node.marker_number, node.marker_file.take()),
                (node.marker_pending, node.pending_file.take()),
            ];
            let holder = Some(holder);
            let expected = accepted.iter().any(|known| (known.0, &known.1) == (number, &holder));
            node.restored |= node.marker_name.is_some() && !expected;
            node.marker_name = Some(known);
            (node.marker_number, node.marker_file) = (node.marker_number.max(number), holder);
            (node.marker_pending, node.pending_file) = (node.marker_number + 1, Some(pending));
            Ok(node.marker_pending)
        })
        .await?;
    spare.write(root, &name, next).map_err(io)?;
    index
        .write(move |tx| {
            let node = tx.node_mut();
            (node.marker_number, node.marker_file) = (next, Some(holds_next));
            Ok(())
        })
        .await?;
    Ok(())
}

/// Raises the number with the first change after each 10 s, and looks before every change whether the root still stands.
#[derive(Default)]
pub struct MarkerClock(Mutex<Option<Instant>>);

impl MarkerClock {
    /// Called before every change.
    pub async fn before_change(&self, root: &Arc<Root>, index: &Index) -> Result<(), MarkerError> {
        root_stands(root)?;
        let mut raised = self.0.lock().await;
        if raised.is_none_or(|at| at.elapsed() > AGE) {
            raise_marker(root, index).await?;
            *raised = Some(Instant::now());
        }
        Ok(())
    }
}

/// Whether the root is still the one that was opened: asked before every change, since a folder that was unmounted, emptied or swapped can still be written to.
fn root_stands(root: &Root) -> Result<(), MarkerError> {
    if root.is_still_there() { Ok(()) } else { Err(MarkerError::Missing(root.path().join(".mirror/id"))) }
}

/// Whether the marker is there and is the one the index knows: what a removal needs to be believed.
pub fn marker_stands(root: &Root, known: Option<&str>) -> bool {
    matches!((read(root), known), (Ok(Some(marker)), Some(known)) if marker.name == known)
}

/// For a command that looks at a root beside the running processes: whether it is the one that the index knows.
pub fn known_root(root: &Root, index: &Index) -> Result<(), MarkerError> {
    let path = root.path().join(".mirror/id");
    match (read(root).map_err(|error| MarkerError::Io(path.clone(), error))?, index.node()?.marker_name) {
        (Some(marker), Some(known)) if marker.name == known => Ok(()),
        (Some(marker), Some(known)) => Err(MarkerError::Swapped { path, found: marker.name, known }),
        (None, _) | (_, None) => Err(MarkerError::Missing(path)),
    }
}

async fn lock(root: &Arc<Root>) -> io::Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock: File = fs::openat(root.own_dir(), "id.lock", flags, Mode::RUSR | Mode::WUSR)?.into();
    let began = Instant::now();
    loop {
        match fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(lock)),
            Err(Errno::WOULDBLOCK) if began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the marker's file says, and which file that is.
struct Marker {
    name: String,
    number: u64,
    holder: String,
}

fn read(root: &Root) -> io::Result<Option<Marker>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file: File = match fs::openat(root.own_dir(), "id", flags, Mode::empty()) {
        Ok(file) => file.into(),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (holder, mut text) = (identity(&file)?, String::new());
    file.take(256).read_to_string(&mut text)?;
    let parsed = text
        .trim_end()
        .split_once(' ')
        .and_then(|(name, number)| Some(Marker { name: name.into(), number: number.parse().ok()?, holder }));
    parsed.map(Some).ok_or_else(|| io::Error::other("it does not hold a name and a number"))
}

/// Which file this is: an inode's number may be given to a copy after the original was removed, so its time of birth goes with it where the file system
/// knows that. The time of change would not do: a change of owner is no restore.
fn identity(file: &File) -> io::Result<String> {
    let meta = file.metadata()?;
    let born = meta.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    Ok(format!("{} {}", meta.ino(), born.map_or(0, |born| born.as_nanos())))
}

/// The file that will be the marker next. It and the one that is change places, and the predecessor's bytes are written over next time: nothing is needed of a disk
/// that is full.
struct Spare {
    file: File,
    holder: String,
}

impl Spare {
    fn open(root: &Root) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file: File = fs::openat(root.own_dir(), "id.new", flags, Mode::RUSR | Mode::WUSR)?.into();
        Ok(Self { holder: identity(&file)?, file })
    }

    fn write(mut self, root: &Root, name: &str, number: u64) -> io::Result<()> {
        let text = format!("{name} {number}\n");
        self.file.write_all(text.as_bytes())?;
        self.file.set_len(text.len() as u64)?;
        self.file.sync_all()?;
        let own = root.own_dir();
        match fs::renameat_with(own, "id.new", own, "id", RenameFlags::EXCHANGE) {
            Err(Errno::NOENT) => fs::renameat(own, "id.new", own, "id")?,
            exchanged => exchanged?,
        }
        Ok(fs::fsync(own)?)
    }
}
