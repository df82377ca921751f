//! `replicator node`: what an operator does about a node of the mirror.

use common::{
    event::Version,
    exit::{Exit, Failure, Fault},
    log::JetStreamLog,
    names::NodeName,
    nodes::NodeBucket,
    settings::Settings,
    startup::connect_command,
    status::Status,
};

/// A node that cannot be forgotten.
#[derive(Debug, thiserror::Error)]
enum RemoveError {
    #[error("the mirror {mirror} has no node {node}")]
    Unknown { mirror: String, node: NodeName },
    #[error("a process of node {0} was seen just now: it would be a node again at once")]
    Alive(NodeName),
}

impl Fault for RemoveError {
    fn exit(&self) -> Exit {
        Exit::Failed
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { .. } => Some("`replicator status` lists them".into()),
            Self::Alive(_) => Some("stop its watcher and its replicator first".into()),
        }
    }
}

/// Forgets a node that is gone for good. One that lives is left alone.
pub async fn remove(settings: &Settings, name: &NodeName) -> Result<Exit, Failure> {
    let broker = connect_command(settings, "replicator-node").await?;
    let removed = async {
        let log = JetStreamLog::attach(broker.client().clone(), &settings.mirror).await?;
        let nodes = NodeBucket::attach(broker.client().clone(), &settings.mirror).await?;
        let (now, mut records) = (nodes.now().await?, nodes.all().await?);
        records.retain(|seen| seen.record.node == *name);
        let processes = records.len();
        if Status::new(Version::ZERO, records, now, None).nodes.iter().any(|node| node.lives()) {
            return Err(Failure::from(RemoveError::Alive(name.clone())));
        }
        // The consumer goes first: a node whose records are gone is not looked for again.
        let consumer = log.forget(name).await?;
        nodes.forget(name).await?;
        if processes == 0 && !consumer {
            let mirror = settings.mirror.as_str().to_owned();
            return Err(RemoveError::Unknown { mirror, node: name.clone() }.into());
        }
        println!("node {name} is forgotten");
        Ok(Exit::Done)
    }
    .await;
    broker.shutdown().await;
    removed
}
