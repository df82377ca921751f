//! `watcher scan --dry-run`: what differs between the tree and the log, before anything is done about it. Nothing is published, and nothing of the node is changed; an index is not needed.
//!
//! Costs: the log is read through; a file whose length is the log's is read and hashed, eight side by side.

use common::{
    broker::BrokerError,
    content,
    event::Event,
    exit::{Exit, Failure},
    hash::ContentHash,
    log::{JetStreamLog, Window, newest_of},
    path::MediaPath,
    resolve::blocking,
    root::{Entry, FileStat, IgnoreRules, Root, walk},
    settings::{Settings, WatchSettings},
    startup::{connect_command, stop_on_signals},
    time::Timestamp,
};
use futures_util::{StreamExt, stream};
use std::{collections::BTreeMap, fmt, io, ops::ControlFlow, path::Path, sync::Arc};

/// Files read at once.
const AT_ONCE: usize = 8;

/// How a path differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Difference {
    /// The log does not know it, or has it removed last.
    OnlyHere,
    OnlyInLog,
    /// Other content, and which is the later one by mtime.
    NewerHere,
    NewerInLog,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OnlyHere => "only here",
            Self::OnlyInLog => "only in the log",
            Self::NewerHere => "differs, newer here",
            Self::NewerInLog => "differs, newer in the log",
        })
    }
}

#[derive(Default)]
struct Sum {
    same: u64,
    only_here: u64,
    only_in_log: u64,
    newer_here: u64,
    newer_in_log: u64,
    unread: u64,
}

impl Sum {
    fn tell(&mut self, path: &MediaPath, difference: Difference) {
        println!("{difference:<26}{path}");
        let count = match difference {
            Difference::OnlyHere => &mut self.only_here,
            Difference::OnlyInLog => &mut self.only_in_log,
            Difference::NewerHere => &mut self.newer_here,
            Difference::NewerInLog => &mut self.newer_in_log,
        };
        *count += 1;
    }

    fn differs(&self) -> bool {
        self.only_here + self.only_in_log + self.newer_here + self.newer_in_log + self.unread > 0
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { same, only_here, only_in_log, newer_here, newer_in_log, unread } = self;
        write!(
            f,
            "{same} files the same, {only_here} only here, {only_in_log} only in the log, {newer_here} newer here, \
             {newer_in_log} newer in the log, {unread} could not be read"
        )
    }
}

/// 0: nothing differs; 1: something does.
pub async fn run(settings: Settings, watch: WatchSettings) -> Result<Exit, Failure> {
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    let folders = settings.folders()?;
    let root = Arc::new(Root::open(&folders.root)?);
    let rules = IgnoreRules::read(root.path(), &watch.ignore)?;
    let broker = connect_command(&settings, "watcher-scan").await?;
    let compared = async {
        let logged = match JetStreamLog::attach(broker.client().clone(), &settings.mirror).await {
            Ok(log) => newest_of(&log, Window::ALL).await?.0,
            // Nobody has published anything yet.
            Err(BrokerError::Absent { .. }) => BTreeMap::new(),
            Err(error) => return Err(error.into()),
        };
        compare(root, rules, logged).await.map_err(|error| Failure::new(Exit::Failed, error))
    };
    let done = tokio::select! {
        done = compared => done.map(Some),
        () = stop.cancelled() => Ok(None),
    };
    broker.shutdown().await;
    let Some(sum) = done? else { return Ok(Exit::NotCaughtUp) };
    println!("{sum}");
    Ok(if sum.differs() { Exit::Failed } else { Exit::Done })
}

async fn compare(
    root: Arc<Root>,
    rules: IgnoreRules,
    mut logged: BTreeMap<MediaPath, Event>,
) -> io::Result<Sum> {
    let mut sum = Sum::default();
    logged.retain(|_, event| event.added.is_some());
    let walked = Arc::clone(&root);
    let (files, unread) = blocking(move || Ok::<_, io::Error>(list(&walked, &rules))).await?;
    sum.unread += unread;
    let mut to_hash = Vec::new();
    for (path, stat) in files {
        match logged.remove(&path) {
            None => sum.tell(&path, Difference::OnlyHere),
            Some(event) if event.added.is_some_and(|added| added.size == stat.stat.size) => {
                to_hash.push((path, stat, event));
            }
            Some(event) => sum.tell(&path, which_is_newer(stat, &event)),
        }
    }
    let hashing = to_hash.into_iter().map(|(path, stat, event)| {
        let root = Arc::clone(&root);
        async move { (hash_of(root, path.clone()).await, path, stat, event) }
    });
    let mut hashed = stream::iter(hashing).buffered(AT_ONCE);
    while let Some((hash, path, stat, event)) = hashed.next().await {
        match hash {
            Ok(hash) if hash == event.sha256 => sum.same += 1,
            Ok(_) => sum.tell(&path, which_is_newer(stat, &event)),
            Err(error) => {
                tracing::warn!(%path, error, "cannot be read");
                sum.unread += 1;
            }
        }
    }
    logged.keys().for_each(|path| sum.tell(path, Difference::OnlyInLog));
    Ok(sum)
}

/// All files that would be mirrored, and how many entries could not be read; blocks.
fn list(root: &Root, rules: &IgnoreRules) -> (Vec<(MediaPath, FileStat)>, u64) {
    let (mut files, mut unread) = (Vec::new(), 0);
    let _ = walk(root, Path::new(""), rules, &mut |entry| {
        match entry {
            Entry::File(path, stat) => files.push((path, stat)),
            Entry::Failed(path, error) => {
                tracing::warn!(path = %path.display(), %error, "cannot be read");
                unread += 1;
            }
            Entry::Folder(_) | Entry::Skipped(..) => {}
        }
        ControlFlow::Continue(())
    });
    (files, unread)
}

async fn hash_of(root: Arc<Root>, path: MediaPath) -> Result<ContentHash, String> {
    let read = blocking(move || Ok::<_, std::convert::Infallible>(content::read(&root, &path, 0)));
    let Ok(read) = read.await;
    read.map(|reading| reading.hash).map_err(|error| common::error_chain(&error))
}

fn which_is_newer(stat: FileStat, event: &Event) -> Difference {
    let here = Timestamp::from_nanos(i128::from(stat.stat.mtime));
    if event.added.is_some_and(|added| here > added.mtime) {
        Difference::NewerHere
    } else {
        Difference::NewerInLog
    }
}
