//! The commands, each from settings to an exit code.

use crate::{
    node::{Node, Parts},
    service::{Mode, Service, ServiceError, Summary, Tally, read_rules},
};
use common::{
    blobs::NatsBlobs,
    broker::Broker,
    exit::{Exit, Failure, Fault},
    index::Index,
    limits::RateLimit,
    log::JetStreamLog,
    nodes::{NodeBucket, ReportError, Reporter, Role},
    settings::{Settings, TransferSettings, WatchSettings},
    startup::{Local, Stores, connect_command, connect_service, identity, stop_on_signals},
    trust::Gate,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::{
    fmt::Write,
    io::IsTerminal,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

impl Fault for ServiceError {
    fn exit(&self) -> Exit {
        match self {
            Self::Halted(_) => Exit::Halted,
            Self::Report(ReportError::Claim(error)) => error.exit(),
            Self::Report(ReportError::Index(_)) | Self::Index(_) | Self::Watch(_) => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Halted(crate::node::PublishError::Marker(error)) => error.hint(),
            Self::Report(ReportError::Claim(error)) => error.hint(),
            Self::Watch(_) => {
                Some("fs.inotify.max_user_instances may be reached: raise it with sysctl".into())
            }
            Self::Halted(_) | Self::Report(ReportError::Index(_)) | Self::Index(_) => None,
        }
    }
}

/// Everything a pass needs, opened in the order in which failures must show.
struct Opened {
    local: Local,
    broker: Broker,
    stores: Stores,
}

async fn open(
    settings: &Settings,
    service: bool,
    stop: &CancellationToken,
) -> Result<Option<Opened>, Failure> {
    let local = Local::open(settings, Role::Watcher, service.then_some(stop)).await?;
    let broker = match service {
        true => connect_service(settings, Role::Watcher, stop).await?,
        false => Some(connect_command(settings, "watcher-scan").await?),
    };
    let Some(broker) = broker else { return Ok(None) };
    match Stores::open(&broker, settings, stop).await {
        Ok(Some(stores)) => Ok(Some(Opened { local, broker, stores })),
        Ok(None) => {
            broker.shutdown().await;
            Ok(None)
        }
        Err(error) => {
            broker.shutdown().await;
            Err(error.into())
        }
    }
}

fn node(
    settings: &Settings,
    transfer: &TransferSettings,
    watch: &WatchSettings,
    opened: Opened,
) -> Result<(Node<JetStreamLog, NatsBlobs>, Local, Broker, NodeBucket), Failure> {
    let Opened { local, broker, stores } = opened;
    let node = Node::new(Parts {
        root: Arc::clone(&local.root),
        index: local.index.clone(),
        log: stores.log,
        blobs: stores.blobs,
        name: settings.node.clone(),
        upload_limit: RateLimit::new(transfer.limit.map(|size| size.bytes())),
        rules: read_rules(local.root.path(), &watch.ignore)?,
        state_dir: local.state.clone(),
        gate: Gate::new(broker.connection(), Stores::keeper(&broker, settings)),
    });
    Ok((node, local, broker, stores.nodes))
}

pub async fn run(
    settings: Settings,
    transfer: TransferSettings,
    watch: WatchSettings,
) -> Result<Exit, Failure> {
    common::root::IgnoreRules::new(&watch.ignore, None)?;
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    let Some(opened) = open(&settings, true, &stop).await? else { return Ok(Exit::Done) };
    let (node, local, broker, bucket) = node(&settings, &transfer, &watch, opened)?;
    let done = async {
        let identity = identity(&settings, &local.state, Role::Watcher, &broker)?;
        let mut reporter = Reporter::new(broker.connection(), identity);
        let claim = reporter.claim(bucket, &local.index, &local.root, &stop);
        if !claim.await.map_err(ServiceError::from)? {
            return Ok(Exit::Done);
        }
        tracing::info!(root = %local.root.path().display(), mirror = %settings.mirror, node = %settings.node, "watching");
        Service::new(node, Mode::Run, transfer.transfers, watch.ignore)?.run(reporter, stop).await?;
        Ok(Exit::Done)
    }
    .await;
    broker.shutdown().await;
    done
}

pub async fn scan(
    settings: Settings,
    transfer: TransferSettings,
    watch: WatchSettings,
) -> Result<Exit, Failure> {
    common::root::IgnoreRules::new(&watch.ignore, None)?;
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    let Some(opened) = open(&settings, false, &stop).await? else { return Ok(Exit::Failed) };
    let (node, local, broker, _) = node(&settings, &transfer, &watch, opened)?;
    let (found, done) = (Arc::new(Tally::default()), Arc::new(Tally::default()));
    let bar = Bar::show(Arc::clone(&found), Arc::clone(&done));
    let ended = async {
        let identity = identity(&settings, &local.state, Role::Watcher, &broker)?;
        let reporter = Reporter::new(broker.connection(), identity);
        let lost = give_up_on(&broker, &stop);
        let summary = Service::new(node, Mode::Scan { found, done }, transfer.transfers, watch.ignore)?
            .run(reporter, stop.clone())
            .await?;
        let away = lost.is_finished();
        lost.abort();
        Ok::<_, Failure>((summary, away))
    }
    .await;
    bar.end();
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

/// The progress of a scan on a terminal: files, bytes, rate, time left.
struct Bar {
    bar: ProgressBar,
    stop: CancellationToken,
}

impl Bar {
    fn show(found: Arc<Tally>, done: Arc<Tally>) -> Self {
        let stop = CancellationToken::new();
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let files = {
            let (found, done) = (Arc::clone(&found), Arc::clone(&done));
            move |_: &ProgressState, out: &mut dyn Write| {
                let (done, found) = (done.files.load(Ordering::Relaxed), found.files.load(Ordering::Relaxed));
                let _ = write!(out, "{done}/{found} files");
            }
        };
        let style = "{bar:24} {files}  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("a good template").with_key("files", files));
        let (ticker, ended) = (bar.clone(), stop.clone());
        tokio::spawn(async move {
            while !ended.is_cancelled() {
                ticker.set_length(found.bytes.load(Ordering::Relaxed));
                ticker.set_position(done.bytes.load(Ordering::Relaxed));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { bar, stop }
    }

    fn end(self) {
        self.stop.cancel();
        self.bar.finish_and_clear();
    }
}

pub async fn approve(settings: Settings) -> Result<Exit, Failure> {
    let folders = settings.folders()?;
    let path = folders.state.join("index.db");
    if !path.exists() {
        return Err(Failure::new(
            Exit::Failed,
            format!("there is no index at {}: no watcher has run here", path.display()),
        ));
    }
    let held = Index::open(&path)?.write(|tx| tx.approve_held()).await?;
    println!("{held} removals approved; the watcher publishes them");
    Ok(Exit::Done)
}
