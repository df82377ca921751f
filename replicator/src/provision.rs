//! `replicator provision`: log, blobs, node records, and the consumers of nodes are made by an operator, so that the nodes themselves need no right to make anything. What is there stays
//! as it is; it may be run any number of times.

use common::{
    exit::{Exit, Failure},
    names::NodeName,
    settings::Settings,
    startup::{Stores, connect_command},
};

pub async fn run(settings: &Settings, nodes: &[NodeName]) -> Result<Exit, Failure> {
    let broker = connect_command(settings, "replicator-provision").await?;
    let made = async {
        let stores = Stores::provision(&broker, settings).await?;
        for node in nodes {
            let made = stores.log.provide(node).await?;
            println!("node {node}: {}", if made { "its consumer is made" } else { "its consumer is there" });
        }
        println!("mirror {}: log, node records, and blobs in {}", settings.mirror, stores.blobs.location());
        Ok(Exit::Done)
    }
    .await;
    broker.shutdown().await;
    made
}
