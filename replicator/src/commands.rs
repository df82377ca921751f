//! The commands that work on this node, each from settings to an exit code.

use crate::{
    node::{ApplyError, Node, Parts},
    plan::Removals,
    scrub,
    service::{Service, ServiceError},
};
use common::{
    exit::{Exit, Failure, Fault},
    limits::RateLimit,
    nodes::{ReportError, Reporter, Role},
    root::Ownership,
    settings::{self, PlaceSettings, ScrubSettings, Settings, TransferSettings},
    startup::{Local, Stores, connect_service, identity, stop_on_signals},
    trust::Gate,
};
use std::sync::Arc;

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

pub async fn run(
    settings: Settings,
    transfer: TransferSettings,
    place: PlaceSettings,
    scrub: ScrubSettings,
) -> Result<Exit, Failure> {
    let owner = match &place.owner {
        Some(owner) => {
            let (uid, gid) = owner.look_up()?;
            Some(Ownership { uid, gid })
        }
        None => None,
    };
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    let local = Local::open(&settings, Role::Replicator, Some(&stop)).await?;
    let Some(broker) = connect_service(&settings, Role::Replicator, &stop).await? else {
        return Ok(Exit::Done);
    };
    let done = async {
        let Some(stores) = Stores::open(&broker, &settings, &stop).await? else { return Ok(Exit::Done) };
        let identity = identity(&settings, &local.state, Role::Replicator, &broker)?;
        let mut reporter = Reporter::new(broker.connection(), identity);
        let claim = reporter.claim(stores.nodes, &local.index, &local.root, &stop);
        if !claim.await.map_err(ServiceError::from)? {
            return Ok(Exit::Done);
        }
        let node = Node::new(Parts {
            root: Arc::clone(&local.root),
            index: local.index.clone(),
            log: stores.log,
            blobs: stores.blobs,
            name: settings.node.clone(),
            download_limit: RateLimit::new(transfer.limit.map(|size| size.bytes())),
            owner,
            removals: match place.removals {
                settings::Removals::Trash => Removals::Trash,
                settings::Removals::Delete => Removals::Delete,
                settings::Removals::Ignore => Removals::Ignore,
            },
            min_free: place.min_free,
            state_dir: local.state.clone(),
            gate: Gate::new(broker.connection(), Stores::keeper(&broker, &settings)),
        });
        tracing::info!(root = %local.root.path().display(), mirror = %settings.mirror, node = %settings.node, "replicating");
        let service = Service::new(node, transfer.transfers, u64::from(place.trash_days));
        let _scrub = scrub::start(&service, scrub, &stop);
        service.run(reporter, stop.clone()).await?;
        Ok(Exit::Done)
    }
    .await;
    broker.shutdown().await;
    done
}
