//! `replicator verify`: whether log, index, disk and blob store agree, beside the running processes; and with `--repair`, what brings them together again is asked of
//! those. It changes nothing itself.

mod check;
pub mod cluster;
pub mod facts;
mod pass;

use crate::gc::Lease;
use check::{BATCH, CheckError, Checker, Differing};
use common::{
    bar::{self, Bar},
    blobs::{BlobStore, Blobs},
    broker::Broker,
    exit::{Exit, Failure, Fault},
    index::{Index, Tx},
    log::{EventLog, JetStreamLog},
    nodes::{NodeBucket, Role},
    path::MediaPath,
    root::{IgnoreRules, Root, known_root},
    settings::{Settings, WatchSettings},
    startup::{blobs_of, connect_command, index_of, is_running, stop_on_signals},
    time::Timestamp,
    trust::{Distrust, verdict},
};
use facts::Repair;
use pass::{Whole, whole};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Between two looks at what differs.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What still differs after this long, with nothing moving, is not merely in flight: a removal is published 2 s after it was seen, an unclosed file 5 s.
const SETTLED: Duration = Duration::from_secs(6);
/// However much moves, this is the longest wait for what is in flight.
const IN_FLIGHT: Duration = Duration::from_secs(20);
/// A file that was changed this lately may still be being written: the watcher is not asked to publish it.
const COLD_SECONDS: f64 = 10.0;

/// What the user wants.
pub struct Wanted {
    pub repair: bool,
    pub timeout: Duration,
    pub blobs: bool,
    pub json: bool,
}

impl Fault for CheckError {
    fn exit(&self) -> Exit {
        match self {
            Self::Broker(error) | Self::Blob(common::blobs::BlobError::Broker(error)) => error.exit(),
            Self::Blob(_) | Self::Index(_) => Exit::Failed,
        }
    }
}

pub async fn run(settings: Settings, watch: WatchSettings, wanted: Wanted) -> Result<Exit, Failure> {
    let (folders, index) = index_of(&settings)?;
    let root = Arc::new(Root::open(&folders.root)?);
    known_root(&root, &index)?;
    let rules = IgnoreRules::read(root.path(), &watch.ignore)?;
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    let broker = connect_command(&settings, "replicator-verify").await?;
    let idle = ![Role::Watcher, Role::Replicator].into_iter().any(|role| is_running(&folders, role));
    let done = async {
        let checker = checker(&broker, &settings, root, index, rules, wanted.blobs).await?;
        tokio::select! {
            done = verify(&checker, &settings, &wanted, idle) => done,
            () = stop.cancelled() => Ok(Exit::NotCaughtUp),
        }
    }
    .await;
    broker.shutdown().await;
    done
}

async fn checker(
    broker: &Broker,
    settings: &Settings,
    root: Arc<Root>,
    index: Index,
    rules: IgnoreRules,
    read_blobs: bool,
) -> Result<Checker<JetStreamLog, Blobs>, Failure> {
    let log = JetStreamLog::attach(broker.client().clone(), &settings.mirror).await?;
    let blobs = blobs_of(broker, settings).await?;
    let nodes = NodeBucket::attach(broker.client().clone(), &settings.mirror).await?;
    let in_transit = Lease::in_transit(&nodes).await?;
    let style = bar::style("{bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left  {msg} files");
    let bar = Bar::show("verifying", index.node()?.bytes, style);
    Ok(Checker { root, index, log, blobs, rules, read_blobs, in_transit, bar })
}

async fn verify(
    checker: &Checker<JetStreamLog, Blobs>,
    settings: &Settings,
    wanted: &Wanted,
    idle: bool,
) -> Result<Exit, Failure> {
    let (_, distrust) =
        verdict(&checker.log, &checker.index, &checker.index.node()?).await.map_err(CheckError::from)?;
    let mut of_log: Vec<String> = distrust.into_iter().map(|why| log_trouble(&why)).collect();
    of_log.extend(consumer_trouble(checker, settings).await?);
    let mut whole = whole(checker).await?;
    checker.bar.counter().finish_and_clear();
    if !idle {
        settle(checker, &mut whole.differing).await?;
    }
    let mut asked = 0;
    if wanted.repair {
        say(&whole.differing, wanted.json);
        asked = repair(checker, &mut whole.differing, wanted.timeout).await?;
        if !whole.differing.is_empty() && !wanted.json {
            println!("still different after {} s:", wanted.timeout.as_secs());
        }
    }
    if !wanted.repair || asked > 0 {
        say(&whole.differing, wanted.json);
    }
    sum(&whole, &of_log, asked, wanted.json);
    let equal = whole.differing.is_empty() && of_log.is_empty();
    let ended = Timestamp::now();
    if equal && let Err(error) = checker.index.write(move |tx| tx.set_verified(ended)).await {
        tracing::warn!(%error, "that nothing differs could not be noted for the metrics");
    }
    Ok(if equal { Exit::Done } else { Exit::Failed })
}

fn log_trouble(why: &Distrust) -> String {
    format!("{why}; the running processes read it again, and publish what it lacks")
}

/// The consumer of this node, once its replicator has followed the log.
async fn consumer_trouble(
    checker: &Checker<JetStreamLog, Blobs>,
    settings: &Settings,
) -> Result<Option<String>, CheckError> {
    if !checker.index.node()?.log_read {
        return Ok(None);
    }
    let name = settings.node.consumer();
    let last = checker.log.state().await?.last;
    Ok(match checker.log.consumer(&settings.node).await? {
        None => Some(format!("the consumer {name} is gone; the running replicator makes it again")),
        Some(state) if state.delivered > last => {
            let delivered = state.delivered;
            Some(format!("the consumer {name} is at {delivered}, ahead of the log, which ends at {last}"))
        }
        Some(_) => None,
    })
}

/// Looks again at what differs until it has stood still, so that nothing is called a difference that is merely on its way.
async fn settle<L: EventLog, B: BlobStore>(
    checker: &Checker<L, B>,
    differing: &mut BTreeMap<MediaPath, Differing>,
) -> Result<(), CheckError> {
    let began = Instant::now();
    let mut quiet = began;
    let mut version = checker.index.node()?.version;
    while !differing.is_empty() && began.elapsed() < IN_FLIGHT && quiet.elapsed() < SETTLED {
        sleep(LOOK_AGAIN).await;
        let again = look_again(checker, differing).await?;
        let now = checker.index.node()?.version;
        if now != version || again != *differing || again.values().any(|path| path.in_work) {
            quiet = Instant::now();
        }
        (version, *differing) = (now, again);
    }
    Ok(())
}

async fn look_again<L: EventLog, B: BlobStore>(
    checker: &Checker<L, B>,
    differing: &BTreeMap<MediaPath, Differing>,
) -> Result<BTreeMap<MediaPath, Differing>, CheckError> {
    let paths: Vec<MediaPath> = differing.keys().cloned().collect();
    let mut again = BTreeMap::new();
    for batch in paths.chunks(BATCH) {
        again.extend(checker.check(batch).await?);
    }
    Ok(again)
}

/// Asks the running processes for what each difference needs, and waits until none is left, or time is up. Returns how many paths something was asked for.
async fn repair<L: EventLog, B: BlobStore>(
    checker: &Checker<L, B>,
    differing: &mut BTreeMap<MediaPath, Differing>,
    limit: Duration,
) -> Result<usize, CheckError> {
    let began = Instant::now();
    let mut asked: BTreeMap<MediaPath, Differing> = BTreeMap::new();
    let mut told = false;
    loop {
        let now = Timestamp::now();
        let new: Vec<(MediaPath, Differing)> = differing
            .iter()
            .filter(|(path, how)| asked.get(*path).is_none_or(|before| before.differences != how.differences))
            .filter(|(_, how)| {
                is_cold(how, now) && how.differences.iter().any(|d| d.repair() != Repair::Nothing)
            })
            .map(|(path, how)| (path.clone(), how.clone()))
            .collect();
        asked.extend(new.iter().cloned());
        if !new.is_empty() {
            checker
                .index
                .write(move |tx| {
                    begin_again(tx, &new)?;
                    new.iter().try_for_each(|(path, how)| ask(tx, path, how))
                })
                .await?;
            if !std::mem::replace(&mut told, true) {
                eprintln!("asked the running processes to repair {} paths; waiting for them", asked.len());
            }
        }
        if differing.is_empty() || began.elapsed() >= limit {
            return Ok(asked.len());
        }
        sleep(LOOK_AGAIN).await;
        *differing = look_again(checker, differing).await?;
    }
}

fn is_cold(how: &Differing, now: Timestamp) -> bool {
    let age = |changed| now.seconds_since(Timestamp::from_nanos(i128::from(changed)));
    let written = how.differences.iter().any(|difference| difference.repair() == Repair::AskWatcher);
    !written || how.changed.is_none_or(|changed| age(changed) > COLD_SECONDS)
}

/// Where the log lost events that the index trusts (rule 9): the processes read it again, and publish what it lacks (rule 10).
fn begin_again(tx: &mut Tx<'_>, new: &[(MediaPath, Differing)]) -> Result<(), common::index::IndexError> {
    let node = tx.node();
    let gone =
        new.iter().filter_map(|(_, how)| how.gone).find(|(generation, _)| *generation == node.generation);
    match (gone, node.created.clone()) {
        (Some((_, version)), Some(created)) => {
            tx.begin_generation(&created, &Distrust::Trimmed(version).to_string())
        }
        _ => Ok(()),
    }
}

fn ask(tx: &mut Tx<'_>, path: &MediaPath, how: &Differing) -> Result<(), common::index::IndexError> {
    for difference in &how.differences {
        match (difference.repair(), how.content) {
            (Repair::Fetch, _) => tx.repair(path)?,
            (Repair::Retry, _) => {
                tx.retry_parked(Some(path))?;
            }
            (Repair::AskWatcher, _) => tx.ask_watcher(path)?,
            (Repair::Want, Some((content, size))) => tx.want(content, size)?,
            (Repair::Want, None) | (Repair::Nothing, _) => {}
        }
    }
    Ok(())
}

/// One line for each path, for people; programs get all in one object at the end.
fn say(differing: &BTreeMap<MediaPath, Differing>, json: bool) {
    if json {
        return;
    }
    let mut out = io::stdout().lock();
    for (path, how) in differing {
        let text: Vec<String> = how.differences.iter().map(ToString::to_string).collect();
        // Whoever read us has seen enough.
        if writeln!(out, "{path}: {}", text.join("; ")).is_err() {
            return;
        }
    }
}

fn sum(whole: &Whole, of_log: &[String], asked: usize, json: bool) {
    let Whole { paths, poison, differing } = whole;
    if json {
        let differences = differing.iter().map(|(path, how)| {
            let names: Vec<_> = how.differences.iter().map(facts::Difference::name).collect();
            let text: Vec<_> = how.differences.iter().map(ToString::to_string).collect();
            json!({ "path": path.to_string(), "differences": names, "text": text.join("; ") })
        });
        let differences: Vec<_> = differences.collect();
        let equal = differing.is_empty() && of_log.is_empty();
        let line = json!({
            "equal": equal, "paths": paths, "log": of_log, "no_events": poison, "asked": asked, "differences": differences,
        });
        println!("{line}");
        return;
    }
    of_log.iter().for_each(|trouble| println!("{trouble}"));
    let others = if *poison > 0 { format!(", {poison} messages are no events") } else { String::new() };
    println!("{paths} paths checked, {} differ{others}", differing.len());
}
