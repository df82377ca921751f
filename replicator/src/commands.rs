//! The commands that work on this node, each from settings to an exit code.

use crate::{
    gc, hooks,
    http::Api,
    node::{ApplyError, Node, Parts},
    plan::Removals,
    scrub,
    service::{Service, ServiceError},
};
use common::{
    blobs::Blobs,
    broker::Broker,
    exit::{Exit, Failure, Fault},
    http::content::Shelf,
    limits::RateLimit,
    log::JetStreamLog,
    nodes::{ReportError, Reporter, Role},
    root::Ownership,
    settings::{
        self, CollectSettings, HookSettings, PlaceSettings, ScrubSettings, Settings, TransferSettings,
    },
    startup::{Local, Stores, Told, connect_service, identity, stop_on_signals},
    trust::Gate,
    vitals::{neighbours, probe},
};
use std::{sync::Arc, time::Duration};
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
            Self::Halted(ApplyError::Marker(error)) => error.hint(),
            Self::Report(ReportError::Claim(error)) => error.hint(),
            Self::Halted(_) | Self::Report(ReportError::Index(_)) | Self::Index(_) => None,
        }
    }
}

/// What `run` was told.
pub struct Run {
    pub transfer: TransferSettings,
    pub place: PlaceSettings,
    pub scrub: ScrubSettings,
    pub max_lag: Duration,
    pub miss_wait: Duration,
    pub hook: Option<HookSettings>,
    pub collect: CollectSettings,
}

pub async fn run(settings: Settings, run: Run) -> Result<Exit, Failure> {
    let owner = match &run.place.owner {
        Some(owner) => {
            let (uid, gid) = owner.look_up()?;
            Some(Ownership { uid, gid })
        }
        None => None,
    };
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    let local = Local::open(&settings, Role::Replicator, Some(&stop)).await?;
    let limit = RateLimit::new(run.transfer.limit.map(|size| size.bytes()));
    let shelf = Shelf::new(Arc::clone(&local.root), local.index.clone());
    let api = Api::new(shelf, local.index.clone(), run.miss_wait, stop.clone());
    let told =
        Told::start(&settings, Role::Replicator, run.max_lag, limit.clone(), &stop, api.routes()).await?;
    let hook = hooks::start(&settings, run.hook.clone(), &local, &told.vitals, &stop);
    let waiting = told.vitals.while_waiting(connect_service(&settings, Role::Replicator, &stop));
    let Some(broker) = waiting.await? else {
        hooks::end(hook, &stop).await;
        told.end().await;
        return Ok(Exit::Done);
    };
    told.vitals.connected_to(&broker);
    let begin = begin(&settings, &run, &local, &broker, &told, (limit, owner), &stop);
    let done = async {
        let Some((node, reporter, _following)) = told.vitals.while_waiting(begin).await? else { return Ok(Exit::Done) };
        tracing::info!(root = %local.root.path().display(), mirror = %settings.mirror, node = %settings.node, "replicating");
        told.vitals.reported_by(&reporter);
        let _probe = probe::start(&told.vitals, node.log.clone());
        let _neighbours =
            reporter.bucket().map(|bucket| neighbours::start(&told.vitals, bucket, node.name.clone()));
        let _collecting = reporter.bucket().and_then(|bucket| {
            gc::timer::start(run.collect, (node.log.clone(), node.blobs.clone(), bucket), &node.name)
        });
        let service = Service::new(node, run.transfer.transfers, u64::from(run.place.trash_days));
        if let Some(bucket) = reporter.bucket() {
            api.reached(&service.beside().0, service.urgent(), bucket);
        }
        let _scrub = scrub::start(&service, run.scrub, &stop);
        service.run(reporter, stop.clone()).await?;
        Ok(Exit::Done)
    }
    .await;
    hooks::end(hook, &stop).await;
    told.end().await;
    broker.shutdown().await;
    done
}

/// What works, what tells of it, and what follows the blobs where they move.
type Begun = (Node<JetStreamLog, Blobs>, Reporter, AbortOnDropHandle<()>);

/// What the service needs of the broker. `None`: it was told to stop.
async fn begin(
    settings: &Settings,
    run: &Run,
    local: &Local,
    broker: &Broker,
    told: &Told,
    (download_limit, owner): (RateLimit, Option<Ownership>),
    stop: &CancellationToken,
) -> Result<Option<Begun>, Failure> {
    let Some(stores) = Stores::open(broker, settings, &local.state, stop).await? else { return Ok(None) };
    let identity = identity(settings, &local.state, Role::Replicator, broker, told.url())?;
    let mut reporter = Reporter::new(broker.connection(), identity);
    reporter.stores_in(&stores.blobs);
    told.vitals.stores_in(&stores.blobs);
    let following = Stores::follow(broker, settings, Some(&local.state), &stores.blobs, &stores.nodes);
    let claim = reporter.claim(stores.nodes, &local.index, &local.root, stop);
    if !claim.await.map_err(ServiceError::from)? {
        return Ok(None);
    }
    let gate = Gate::new(broker.connection(), Stores::keeper(broker, settings, &local.state, &stores.blobs));
    let node = Node::new(Parts {
        root: Arc::clone(&local.root),
        index: local.index.clone(),
        log: stores.log,
        blobs: stores.blobs,
        name: settings.node.clone(),
        download_limit,
        owner,
        removals: match run.place.removals {
            settings::Removals::Trash => Removals::Trash,
            settings::Removals::Delete => Removals::Delete,
            settings::Removals::Ignore => Removals::Ignore,
        },
        min_free: run.place.min_free,
        state_dir: local.state.clone(),
        gate,
        vitals: Arc::clone(&told.vitals),
    });
    Ok(Some((node, reporter, following)))
}
