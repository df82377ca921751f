//! `replicator restore`: content that a path once had, or that lost a conflict, comes back as a new version. The file is put into the tree as a user would
//! put it there: whole, durable, by one rename; the node's watcher publishes it. What stood at the path goes to the trash, and is a lost conflict unless the index
//! knows it. A crash leaves the tree as it was or as it will be, and in `.mirror/tmp` what the replicator tidies at its next start.

use crate::{
    fetch::{Placing, Verified, copy_local, fetch_blob},
    history::{self, Nothing, Past, Which, choose},
    node::ApplyError,
};
use common::{
    blobs::{BlobError, Blobs},
    broker::BrokerError,
    content::hash_open,
    event::{Attributes, Kind, Version},
    exit::{Exit, Failure, Fault},
    hash::ContentHash,
    index::{Index, IndexError, PathState, Row, Stat, Trashed},
    limits::RateLimit,
    log::{EventLog, JetStreamLog},
    mirror_record::RecordError,
    nodes::Role,
    path::MediaPath,
    resolve::blocking,
    root::{IgnoreRules, Look, RenameError, Root, known_root},
    settings::Settings,
    startup::{blobs_of, connect_command, index_of, is_running},
    time::Timestamp,
};
use std::{io, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// Between two looks at the log, and at a path that the replicator is placing.
const POLL: Duration = Duration::from_millis(100);
/// How long the replicator's intent is waited for.
const INTENT_PATIENCE: Duration = Duration::from_secs(5);
/// How often the rename is tried when the path changes under our hands.
const TRIES: usize = 20;
/// Of content that only the trash has the mode is not known.
const MODE: u32 = 0o644;

/// Why nothing was restored. The tree is as it was.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error("the log has no event of {0}")]
    Unknown(MediaPath),
    #[error("{0}")]
    Nothing(String),
    #[error("the content {0} is neither on this node nor in the blob store any more")]
    Gone(ContentHash),
    #[error("the watcher of this node is not running: nobody would publish the file")]
    NoWatcher,
    #[error("{0} is covered by an ignore rule: the watcher would not publish it")]
    Ignored(MediaPath),
    #[error("the last event of {0} is not applied on this node")]
    NotApplied(MediaPath),
    #[error("the replicator is placing something at {0}, or the path keeps changing")]
    Busy(MediaPath),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Log(#[from] BrokerError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("cannot write below the root")]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Rename(#[from] RenameError),
}

impl Fault for RestoreError {
    fn exit(&self) -> Exit {
        match self {
            Self::Log(error)
            | Self::Apply(ApplyError::Log(error) | ApplyError::Blob(BlobError::Broker(error))) => {
                error.exit()
            }
            Self::Record(error) => error.exit(),
            _ => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Nothing(_) => Some("`replicator history` names the versions of a path".into()),
            Self::Record(error) => error.hint(),
            Self::NoWatcher => Some("start it: watcher run".into()),
            Self::NotApplied(_) => {
                Some("start the replicator, or wait for it; see `replicator parked`".into())
            }
            _ => None,
        }
    }
}

struct Restore {
    root: Arc<Root>,
    index: Index,
    log: JetStreamLog,
    blobs: Blobs,
    path: MediaPath,
}

/// What is brought back.
struct Target {
    content: ContentHash,
    size: u64,
    mode: u32,
    /// Where in the trash, when only reading it told what it is.
    trash: Option<Trashed>,
}

pub async fn run(
    settings: &Settings,
    path: MediaPath,
    which: Which,
    limit: Duration,
) -> Result<Exit, Failure> {
    let (folders, index) = index_of(settings)?;
    let root = Arc::new(Root::open(&folders.root)?);
    known_root(&root, &index)?;
    if !is_running(&folders, Role::Watcher) {
        return Err(RestoreError::NoWatcher.into());
    }
    if IgnoreRules::read(root.path(), &[])?.covers_file(path.as_path()) {
        return Err(RestoreError::Ignored(path).into());
    }
    let broker = connect_command(settings, "replicator-restore").await?;
    let done = async {
        let log = JetStreamLog::attach(broker.client().clone(), &settings.mirror).await?;
        let blobs = blobs_of(&broker, settings).await?;
        Restore { root, index, log, blobs, path }.restore(which, limit).await
    }
    .await;
    broker.shutdown().await;
    Ok(done?)
}

impl Restore {
    async fn restore(&self, which: Which, limit: Duration) -> Result<Exit, RestoreError> {
        let path = &self.path;
        let history = history::events(&history::read(&self.log, path).await?);
        let target = self.target(&history, which).await?;
        let last = history.last().copied();
        if let Some(last) = last.filter(|last| (last.kind, last.content) == (Kind::Added, target.content)) {
            println!("{path} has this content already, as version {}", last.version);
            return Ok(Exit::Done);
        }
        let verified = self.fetch(&target).await?;
        let (temp, ino) = (verified.temp.clone(), verified.ino);
        if let Err(error) = self.put(last.as_ref(), verified).await {
            let root = Arc::clone(&self.root);
            // After the rename the name is that of what stood at the path, which is the replicator's to keep.
            blocking(move || match root.look_temp(&temp)? {
                Look::File(stat) if stat.stat.ino == ino => root.remove_temp(&temp),
                _ => Ok(()),
            })
            .await?;
            return Err(error);
        }
        let above = last.map_or(Version::ZERO, |last| last.version);
        self.wait_published(target.content, above, limit).await
    }

    /// From the log; content that it does not have may be a lost conflict in the trash.
    async fn target(&self, history: &[Past], which: Which) -> Result<Target, RestoreError> {
        let path = &self.path;
        let nothing = match choose(history, which) {
            Ok(Past { content, size, mode, .. }) => return Ok(Target { content, size, mode, trash: None }),
            Err(nothing) => nothing,
        };
        Err(match nothing {
            Nothing::Content(content) => match self.in_trash(content).await? {
                Some(target) => return Ok(target),
                None => RestoreError::Nothing(format!(
                    "{path} never had the content {content}, and the trash has none such of it"
                )),
            },
            _ if history.is_empty() => RestoreError::Unknown(path.clone()),
            Nothing::Before => RestoreError::Nothing(format!("{path} has never had any other content")),
            Nothing::Version(version) => {
                RestoreError::Nothing(format!("version {version} is no event of {path}"))
            }
            Nothing::Removal(version) => {
                RestoreError::Nothing(format!("version {version} removed {path}: it has no content"))
            }
        })
    }

    /// Of a lost conflict that was written after it was moved the index does not know the hash: it is read.
    async fn in_trash(&self, content: ContentHash) -> Result<Option<Target>, RestoreError> {
        let of_path = self.index.trash()?.into_iter().filter(|entry| entry.path == self.path);
        for entry in of_path.filter(|entry| entry.sha256.is_none_or(|hash| hash == content)) {
            let (root, at) = (Arc::clone(&self.root), entry.clone());
            let read = blocking(move || {
                let (mut file, stat) = root.open_trashed(&at.id, &at.path)?;
                Ok::<_, io::Error>((hash_open(&mut file)?.0, stat))
            });
            if let Ok((found, stat)) = read.await
                && found == content
            {
                let mode = if stat.mode & 0o777 == 0 { MODE } else { stat.mode & 0o777 };
                return Ok(Some(Target { content, size: stat.stat.size, mode, trash: Some(entry) }));
            }
        }
        Ok(None)
    }

    async fn fetch(&self, target: &Target) -> Result<Verified, RestoreError> {
        let placing = Placing {
            root: Arc::clone(&self.root),
            path: self.path.clone(),
            content: target.content,
            // Written now, as any new version.
            attributes: Attributes { size: target.size, mtime: Timestamp::now(), mode: target.mode },
            owner: None,
            room: None,
            arrivals: None,
        };
        if let Some(entry) = target.trash.clone() {
            let job = placing.clone();
            let copied = blocking(move || match job.root.open_trashed(&entry.id, &entry.path) {
                Ok((mut source, _)) => job.copy(&mut source),
                Err(error) => Err(ApplyError::Disk(error)),
            });
            return copied.await?.ok_or(RestoreError::Gone(target.content));
        }
        if let Some(copied) = copy_local(&self.index, &placing).await? {
            return Ok(copied);
        }
        match fetch_blob(&self.blobs, &RateLimit::default(), &placing, None).await {
            Err(
                ApplyError::Blob(BlobError::Missing(_) | BlobError::Damaged { .. })
                | ApplyError::WrongContent(_),
            ) => Err(RestoreError::Gone(target.content)),
            fetched => Ok(fetched?),
        }
    }

    /// Puts the file at its path, and what stood there into the trash.
    async fn put(&self, last: Option<&Past>, verified: Verified) -> Result<(), RestoreError> {
        let verified = Arc::new(verified);
        for _ in 0..TRIES {
            let seen = self.settled().await?;
            let generation = self.index.node()?.generation;
            // A row of an older life of the log says nothing of this one, and no mark on it would count.
            let foreign = seen.row.as_ref().is_some_and(|row| row.generation != generation);
            let row = seen.row.filter(|row| row.generation == generation);
            let applied = last.is_none_or(|last| row.as_ref().is_some_and(|row| row.version >= last.version));
            let removed = last.is_some_and(|last| last.kind == Kind::Removed);
            if !applied && (foreign || !removed) {
                return Err(RestoreError::NotApplied(self.path.clone()));
            }
            if removed {
                // Old content is no news after a removal, unless somebody has written it again (rule 6): we do.
                let path = self.path.clone();
                self.index.write(move |tx| tx.mark(&path, |row| row.rewritten = true)).await?;
            }
            let (root, path, file) = (Arc::clone(&self.root), self.path.clone(), Arc::clone(&verified));
            match blocking(move || exchange(&root, &path, &file)).await {
                Ok(out) => {
                    self.trash(row.as_ref(), out, &verified.temp).await?;
                    let folder = (verified.folder.path.clone(), verified.folder.made_below.clone());
                    let root = Arc::clone(&self.root);
                    blocking(move || sync(&root, &folder.0, folder.1.as_deref())).await?;
                    let path = self.path.clone();
                    self.index.write(move |tx| tx.ask_watcher(&path)).await?;
                    return Ok(());
                }
                Err(RenameError::Changed) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RestoreError::Busy(self.path.clone()))
    }

    /// The path's state once no intent stands.
    async fn settled(&self) -> Result<PathState, RestoreError> {
        let began = Instant::now();
        loop {
            let seen = self.index.path_state(&self.path)?;
            if seen.intent.is_none() {
                return Ok(seen);
            }
            if began.elapsed() > INTENT_PATIENCE {
                return Err(RestoreError::Busy(self.path.clone()));
            }
            sleep(POLL).await;
        }
    }

    /// What came out is kept: as a lost conflict, unless it is what the row knows.
    async fn trash(&self, row: Option<&Row>, out: Option<Stat>, temp: &str) -> Result<(), RestoreError> {
        let Some(stat) = out else { return Ok(()) };
        let same = |known: Stat| (known.ino, known.size, known.mtime) == (stat.ino, stat.size, stat.mtime);
        let known = row.filter(|row| !row.racy && row.stat.is_some_and(same)).and_then(Row::content);
        let entry = Trashed {
            id: temp.into(),
            path: self.path.clone(),
            sha256: known,
            lost: known.is_none(),
            stat,
            moved: Timestamp::now(),
            checked: false,
        };
        if entry.lost {
            tracing::warn!(path = %self.path, trash = %entry.id, "what stood here was not published: it is kept as a lost conflict");
        }
        let (kept, root) = (entry.clone(), Arc::clone(&self.root));
        self.index.write(move |tx| tx.add_trash(&kept)).await?;
        Ok(blocking(move || root.trash_temp(&entry.id, &entry.id, &entry.path)).await?)
    }

    async fn wait_published(
        &self,
        content: ContentHash,
        above: Version,
        limit: Duration,
    ) -> Result<Exit, RestoreError> {
        let (began, path) = (Instant::now(), &self.path);
        loop {
            let last = self.log.last(path).await?.filter(|last| last.version > above);
            if let Some((version, event)) = last.and_then(|last| Some((last.version, last.event.ok()?)))
                && event.added.is_some()
            {
                if event.sha256 == content {
                    println!("{path} has this content again, as version {version}");
                    return Ok(Exit::Done);
                }
                let text = format!("another content of {path} was published meanwhile, as version {version}");
                return Err(RestoreError::Nothing(text));
            }
            if began.elapsed() >= limit {
                eprintln!(
                    "the file is in place; the watcher has not published it within {} s",
                    limit.as_secs()
                );
                return Ok(Exit::NotCaughtUp);
            }
            sleep(POLL).await;
        }
    }
}

/// Renames the new file to its path. What stood there is under its temp name then; `None`: nothing did.
fn exchange(root: &Root, path: &MediaPath, file: &Verified) -> Result<Option<Stat>, RenameError> {
    match root.look(path)? {
        Look::File(_) => {
            root.place_over(&file.temp, &file.folder)?;
            match root.look_temp(&file.temp)? {
                Look::File(out) => Ok(Some(out.stat)),
                _ => Ok(None),
            }
        }
        Look::Absent | Look::Folder => {
            root.place_new(&file.temp, &file.folder)?;
            Ok(None)
        }
        Look::Other(what) | Look::Unreachable(what) => {
            Err(RenameError::Io(io::Error::other(format!("{what} stands at the path"))))
        }
    }
}

/// The folder of the new name, and those above it up to where one was made.
fn sync(root: &Root, folder: &std::path::Path, made_below: Option<&std::path::Path>) -> io::Result<()> {
    let top = made_below.unwrap_or(folder);
    folder
        .ancestors()
        .take_while(|above| above.starts_with(top))
        .try_for_each(|above| root.sync_folder(above))
}
