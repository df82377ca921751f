//! What the index holds for a path, as values that decisions are made of.

use super::digest::Digest;
use crate::{
    event::{EventId, Kind, StreamCreated, Version, Was},
    hash::ContentHash,
    path::MediaPath,
    time::Timestamp,
};

/// The time in which this index trusts one life of the log. Sequences of different generations are never compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Generation(pub u64);

/// What tells cheaply that a file is unchanged. The device is not in it: all files are on the root's, and its number
/// may change with a reboot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Inode number.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime: i64,
    /// Change time, nanoseconds since 1970.
    pub ctime: i64,
}

/// What a row says of its path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowState {
    /// No event of the path is applied; the row only carries a mark.
    Marked,
    /// The path has this content.
    Present,
    /// The path is removed.
    Removed,
}

/// The row of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Present, removed, or only marked.
    pub state: RowState,
    /// The content (of a removed path: what was removed).
    pub sha256: Option<ContentHash>,
    /// Length of the content in bytes.
    pub size: u64,
    /// The stat under which the file was known to have this content; `None`: look at it again.
    pub stat: Option<Stat>,
    /// The file was read so shortly after it was written that a later write may carry the same stat.
    pub racy: bool,
    /// The path's event.
    pub version: Version,
    /// What that event replaced.
    pub replaced: Version,
    /// The generation that `version` belongs to.
    pub generation: Generation,
    /// Content here that lost against another node's (rule 6).
    pub lost: Option<ContentHash>,
    /// The same bytes were written again by a user after the event (rule 6).
    pub rewritten: bool,
    /// Content kept here after a removal, under `--removals ignore`.
    pub ignored: Option<ContentHash>,
}

impl Row {
    /// The content, when the path is present.
    pub fn content(&self) -> Option<ContentHash> {
        self.sha256.filter(|_| self.state == RowState::Present)
    }
}

/// What the watcher is about to publish (rule 2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Addition or removal.
    pub kind: Kind,
    /// The content added or removed.
    pub sha256: ContentHash,
    /// Length in bytes.
    pub size: u64,
    /// The file's stat when it was looked at; `None` for a removal.
    pub stat: Option<Stat>,
    /// See [`Row::racy`].
    pub racy: bool,
    /// The path's event that it will replace.
    pub replaces: Version,
    /// Published from a row of an older life of the log.
    pub was: Option<Was>,
    /// The generation it was made in; in another it answers nothing.
    pub generation: Generation,
}

/// A rename in the tree that is about to happen (rule 3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intent {
    /// Addition or removal.
    pub kind: Kind,
    /// The new content (of a removal: what was removed).
    pub sha256: ContentHash,
    /// Its length.
    pub size: u64,
    /// The mtime set on the temp file.
    pub mtime: i64,
    /// The event being applied.
    pub version: Version,
    /// What that event replaced.
    pub replaced: Version,
    /// Its identity.
    pub event: EventId,
    /// What stands at the path, if anything: content and stat.
    pub old: Option<(ContentHash, Stat)>,
    /// That content is known to this index or the log, so no user's work is lost with it.
    pub known: bool,
    /// The temp file's name in `.mirror/tmp`.
    pub temp: String,
    /// Its inode; `None` for a removal, where the name is free until the rename.
    pub temp_ino: Option<u64>,
    /// The role whose lock tells whether the owner lives.
    pub role: String,
    /// The run of the process that made it.
    pub owner: String,
    /// The generation it was made in.
    pub generation: Generation,
}

/// Everything about one path that a decision rests on, read at one moment. Two equal ones mean that nothing changed in between.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PathState {
    /// Its row.
    pub row: Option<Row>,
    /// What the watcher is about to publish.
    pub offer: Option<Offer>,
    /// What is about to be renamed.
    pub intent: Option<Intent>,
}

/// An event that cannot be applied here (rule 11).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parked {
    /// The subject it came on.
    pub subject: String,
    /// The path, when the payload names one.
    pub path: Option<MediaPath>,
    /// Its position.
    pub version: Version,
    /// When the broker stored it.
    pub stamp: Timestamp,
    /// The exact bytes.
    pub payload: Vec<u8>,
    /// Why.
    pub reason: String,
    /// Only a person, a newer event or a newer build helps.
    pub permanent: bool,
    /// When it was parked.
    pub since: Timestamp,
    /// How often it was tried from here.
    pub tries: u32,
    /// When it is tried again.
    pub next_try: Timestamp,
}

/// A path that the watcher is to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The path.
    pub path: MediaPath,
    /// When it was noted last; what tells one note from the next.
    pub since: Timestamp,
    /// A writer closed it, and may have left its stat as it was.
    pub finished: bool,
}

/// How much of the tree inotify watches. The other folders are polled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coverage {
    /// Folders seen.
    pub folders: u64,
    /// Of them watched.
    pub watched: u64,
}

/// A file in `.mirror/trash`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trashed {
    /// The folder below `.mirror/trash`.
    pub id: String,
    /// The path it had.
    pub path: MediaPath,
    /// Its content, as far as known.
    pub sha256: Option<ContentHash>,
    /// A lost conflict: kept until an operator drops it.
    pub lost: bool,
    /// Its stat when it was moved.
    pub stat: Stat,
    /// When it was moved.
    pub moved: Timestamp,
    /// It was looked at again after its writers had 10 s to end.
    pub checked: bool,
}

/// A position of the log with what stood there (rule 9).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Landmark {
    /// The position.
    pub version: Version,
    /// The subject of the event there.
    pub subject: String,
    /// Its identity.
    pub event: EventId,
}

/// What each path's work asks of where this node stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage {
    /// See [`NodeState::generation`].
    pub generation: Generation,
    /// See [`NodeState::restored`].
    pub restored: bool,
    /// See [`NodeState::fresh`].
    pub fresh: bool,
    /// See [`NodeState::no_base`].
    pub no_base: Generation,
}

/// Where this node stands: the one row of the `node` table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeState {
    /// The current generation; 0 before the log was ever seen.
    pub generation: Generation,
    /// The life of the log that the generation trusts; `None` before the first.
    pub created: Option<StreamCreated>,
    /// Every event up to here that was delivered is applied, superseded or parked.
    pub version: Version,
    /// The event at `version`, when there is one.
    pub at_version: Option<Landmark>,
    /// The event with the highest sequence of any row of this generation.
    pub top: Option<Landmark>,
    /// Ranges applied past the version, ascending, ends included.
    pub beyond: Vec<(Version, Version)>,
    /// The full check of this generation has not ended.
    pub fresh: bool,
    /// The replicator has read this generation's log to its end.
    pub log_read: bool,
    /// The root was found restored; its new generation has not begun.
    pub restored: bool,
    /// The generation that a restored root began.
    pub no_base: Generation,
    /// The root's marker.
    pub marker_name: Option<String>,
    /// Its number, when it was last raised.
    pub marker_number: u64,
    /// The file that holds it: inode and time of birth, which no copy has in common with it.
    pub marker_file: Option<String>,
    /// The number it is being raised to.
    pub marker_pending: u64,
    /// The file that will hold that.
    pub pending_file: Option<String>,
    /// Over the present paths of this generation.
    pub digest: Digest,
    /// How many those are.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}
