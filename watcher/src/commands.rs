//! The commands, each from settings to an exit code.

use crate::{
    http::{Api, files},
    node::{Node, Parts, Rules},
    service::{Ground, Mode, Online, Service, ServiceError, Summary, Tally},
};
use common::{
    bar::{self, Bar},
    blobs::Blobs,
    broker::Broker,
    error_chain,
    exit::{Exit, Failure, Fault},
    http::{Routes, content::Shelf},
    index::HeldCount,
    limits::RateLimit,
    log::JetStreamLog,
    nodes::{ReportError, Reporter, Role},
    place::{left_behind, tidy_temp},
    root::{IgnoreRules, Ownership, UPLOAD},
    settings::{MinFree, Owner, ReceiveSettings, Settings, TransferSettings, WatchSettings},
    startup::{
        Local, Stores, Told, connect_command, connect_service, identity, index_of, is_running,
        stop_on_signals,
    },
    trust::Gate,
    vitals::{Vitals, neighbours, probe},
};
use indicatif::ProgressState;
use std::{
    fmt::Write,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

impl Fault for ServiceError {
    fn exit(&self) -> Exit {
        match self {
            Self::Halted(_) => Exit::Halted,
            Self::Report(ReportError::Claim(error)) => error.exit(),
            Self::Report(ReportError::Index(_)) | Self::Index(_) => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Halted(crate::node::PublishError::Marker(error)) => error.hint(),
            Self::Report(ReportError::Claim(error)) => error.hint(),
            Self::Halted(_) | Self::Report(ReportError::Index(_)) | Self::Index(_) => None,
        }
    }
}

fn ground(local: &Local, watch: &WatchSettings, vitals: Arc<Vitals>) -> Result<Ground, Failure> {
    Ok(Ground {
        root: Arc::clone(&local.root),
        index: local.index.clone(),
        rules: Rules::new(IgnoreRules::read(local.root.path(), &watch.ignore)?),
        patterns: watch.ignore.clone(),
        vitals,
        removals: Arc::default(),
    })
}

fn node(
    settings: &Settings,
    upload_limit: RateLimit,
    local: &Local,
    rules: Rules,
    (owner, min_free): (Option<Ownership>, MinFree),
    broker: &Broker,
    (log, blobs): (JetStreamLog, Blobs),
) -> Node<JetStreamLog, Blobs> {
    let gate = Gate::new(broker.connection(), Stores::keeper(broker, settings, &local.state, &blobs));
    Node::new(Parts {
        root: Arc::clone(&local.root),
        index: local.index.clone(),
        log,
        blobs,
        name: settings.node.clone(),
        upload_limit,
        owner,
        min_free,
        rules,
        state_dir: local.state.clone(),
        gate,
    })
}

pub async fn run(
    settings: Settings,
    transfer: TransferSettings,
    watch: WatchSettings,
    receive: ReceiveSettings,
    max_lag: Duration,
) -> Result<Exit, Failure> {
    IgnoreRules::new(&watch.ignore, None)?;
    let owner = receive.owner.as_ref().map(Owner::look_up).transpose()?;
    let owner = owner.map(|(uid, gid)| Ownership { uid, gid });
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    let local = Local::open(&settings, Role::Watcher, Some(&stop)).await?;
    let limit = RateLimit::new(transfer.limit.map(|size| size.bytes()));
    let _tidying = tidy(&local).await;
    let live = watch::Sender::new(None);
    let removals = Arc::default();
    let api = Api::new(live.subscribe(), receive.max_upload.bytes(), Arc::clone(&removals), stop.clone());
    let shelf = Arc::new(Shelf::new(Arc::clone(&local.root), local.index.clone()));
    let routes = Routes { in_time: files(&shelf), ..api.routes() };
    let told = Told::start(&settings, Role::Watcher, max_lag, limit.clone(), &stop, routes).await?;
    api.tells(&told.vitals);
    let ground = Ground { removals, ..ground(&local, &watch, Arc::clone(&told.vitals))? };
    let rules = ground.rules.clone();
    // Kept apart, so that it is left in order also when it was reached and not yet of use.
    let (reached, probing) = (OnceLock::new(), OnceLock::new());
    let connect = async {
        let Some(broker) = connect_service(&settings, Role::Watcher, &stop).await? else { return Ok(None) };
        let broker = reached.get_or_init(|| broker);
        told.vitals.connected_to(broker);
        let Some(stores) = Stores::open(broker, &settings, &local.state, &stop).await? else {
            return Ok(None);
        };
        let identity = identity(&settings, &local.state, Role::Watcher, broker, told.url())?;
        let mut reporter = Reporter::new(broker.connection(), identity);
        reporter.stores_in(&stores.blobs);
        told.vitals.stores_in(&stores.blobs);
        let following = Stores::follow(broker, &settings, Some(&local.state), &stores.blobs, &stores.nodes);
        let claim = reporter.claim(stores.nodes, &local.index, &local.root, &stop);
        if !claim.await.map_err(ServiceError::from)? {
            return Ok(None);
        }
        told.vitals.reported_by(&reporter);
        shelf.reached(stores.blobs.clone(), RateLimit::default());
        let bucket = reporter.bucket();
        if let Some(bucket) = &bucket {
            api.reached(stores.log.clone(), bucket.clone());
        }
        probing.get_or_init(|| {
            let neighbours =
                bucket.map(|bucket| neighbours::start(&told.vitals, bucket, settings.node.clone()));
            (probe::start(&told.vitals, stores.log.clone()), neighbours, following)
        });
        let placing = (owner, receive.min_free);
        let node = node(&settings, limit, &local, rules, placing, broker, (stores.log, stores.blobs));
        Ok(Some(Online { node, reporter }))
    };
    tracing::info!(root = %local.root.path().display(), mirror = %settings.mirror, node = %settings.node, "watching");
    let service = Service::new(ground, Mode::Run, transfer.transfers).telling(live);
    let ended = service.run(connect, stop.clone()).await;
    api.end().await;
    told.end().await;
    if let Some(broker) = reached.get() {
        broker.shutdown().await;
    }
    ended.map(|_| Exit::Done)
}

/// Lists what an earlier run left of uploads, and tidies it beside the start: it may have to be read.
async fn tidy(local: &Local) -> AbortOnDropHandle<()> {
    let (root, index) = (Arc::clone(&local.root), local.index.clone());
    let left = left_behind(&root, &index, |name| name.starts_with(UPLOAD)).await;
    AbortOnDropHandle::new(tokio::spawn(async move {
        let tidied = match left {
            Ok(left) => tidy_temp(&root, &index, &left).await,
            Err(error) => Err(error),
        };
        if let Err(error) = tidied {
            tracing::warn!(error = %error_chain(&error), "unfinished uploads stay until the next start");
        }
    }))
}

pub async fn scan(
    settings: Settings,
    transfer: TransferSettings,
    watch: WatchSettings,
    prefer_newest: bool,
) -> Result<Exit, Failure> {
    IgnoreRules::new(&watch.ignore, None)?;
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    let local = Local::open(&settings, Role::Watcher, None).await?;
    let limit = RateLimit::new(transfer.limit.map(|size| size.bytes()));
    // Nobody asks how a pass is: it tells by its end.
    let vitals = Vitals::new(Role::Watcher, Duration::MAX, limit.clone(), None, stop.clone());
    let ground = ground(&local, &watch, Arc::new(vitals))?;
    let broker = connect_command(&settings, "watcher-scan").await?;
    let (found, done) = (Arc::new(Tally::default()), Arc::new(Tally::default()));
    let bar = ScanBar::show(Arc::clone(&found), Arc::clone(&done));
    let ended = async {
        let Some(stores) = Stores::open(&broker, &settings, &local.state, &stop).await? else {
            return Ok((Summary::default(), false));
        };
        let identity = identity(&settings, &local.state, Role::Watcher, &broker, None)?;
        let reporter = Reporter::new(broker.connection(), identity);
        let rules = ground.rules.clone();
        let placing = (None, MinFree::default());
        let mut node = node(&settings, limit, &local, rules, placing, &broker, (stores.log, stores.blobs));
        node.prefer_newest = prefer_newest;
        let lost = give_up_on(&broker, &stop);
        let connected = std::future::ready(Ok(Some(Online { node, reporter })));
        let service = Service::new(ground, Mode::Scan { found, done }, transfer.transfers);
        let summary = service.run(connected, stop.clone()).await?;
        let away = lost.is_finished();
        lost.abort();
        Ok::<_, Failure>((summary, away))
    }
    .await;
    drop(bar);
    broker.shutdown().await;
    let (summary, away) = ended?;
    say(&summary);
    Ok(match summary {
        _ if away => Exit::BrokerAway,
        _ if stop.is_cancelled() => Exit::NotCaughtUp,
        Summary { held: 1.., .. } => Exit::Halted,
        Summary { failed: 1.., .. } => Exit::Failed,
        _ => Exit::Done,
    })
}

/// A command does not wait for a broker for longer than 5 s.
fn give_up_on(broker: &Broker, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
    let (mut connection, stop) = (broker.connection(), stop.clone());
    tokio::spawn(async move {
        loop {
            let _ = connection.wait_for(|now| !now.connected).await;
            let back = connection.wait_for(|now| now.connected);
            if tokio::time::timeout(common::startup::COMMAND_PATIENCE, back).await.is_err() {
                stop.cancel();
                return;
            }
        }
    })
}

fn say(summary: &Summary) {
    let Summary { files, published, bytes, removed, held, failed } = summary;
    println!(
        "{files} files scanned, {published} published ({bytes} bytes), {removed} removals, {held} held, {failed} failed"
    );
}

/// How far a scan is: files, bytes, rate, time left.
struct ScanBar {
    _bar: Bar,
    _ticker: AbortOnDropHandle<()>,
}

impl ScanBar {
    fn show(found: Arc<Tally>, done: Arc<Tally>) -> Self {
        let files = {
            let (found, done) = (Arc::clone(&found), Arc::clone(&done));
            move |_: &ProgressState, out: &mut dyn Write| {
                let (done, found) = (done.files.load(Ordering::Relaxed), found.files.load(Ordering::Relaxed));
                let _ = write!(out, "{done}/{found} files");
            }
        };
        let style = bar::style("{bar:24} {files}  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left");
        let bar = Bar::show("scanning", 0, style.with_key("files", files));
        let counter = bar.counter().clone();
        let ticker = tokio::spawn(async move {
            loop {
                counter.set_length(found.bytes.load(Ordering::Relaxed));
                counter.set_position(done.bytes.load(Ordering::Relaxed));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { _bar: bar, _ticker: AbortOnDropHandle::new(ticker) }
    }
}

/// Answers what is held (rule 8). The running processes do the rest, or do it when they are started.
pub async fn approve(settings: Settings, revert: bool) -> Result<Exit, Failure> {
    let (folders, index) = index_of(&settings)?;
    let HeldCount { removals, replacements } = match revert {
        false => index.write(|tx| tx.approve_held()).await?,
        true => index.write(|tx| tx.revert_held()).await?,
    };
    let (done, them) = match revert {
        false => ("approved; the watcher publishes them", "approved; the replicator makes them"),
        true => (
            "taken back; the replicator fetches the files",
            "taken back; the watcher publishes what stands here",
        ),
    };
    println!("{removals} removals {done}");
    if replacements > 0 {
        println!("{replacements} replacements {them}");
    }
    for role in [Role::Watcher, Role::Replicator] {
        let needed = match role {
            Role::Watcher => replacements > 0 && revert || removals > 0 && !revert,
            Role::Replicator => replacements > 0 || removals > 0 && revert,
        };
        if needed && !is_running(&folders, role) {
            eprintln!("the {role} of this node is not running: it does its part when it is started");
        }
    }
    Ok(Exit::Done)
}
