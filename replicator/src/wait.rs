//! `replicator wait`: waits until a file is on the other nodes.

use common::{
    exit::{Exit, Failure},
    log::JetStreamLog,
    nodes::NodeBucket,
    settings::Settings,
    sightings::Sightings,
    startup::connect_command,
    wait::{Outcome, Wanted, wait},
};

/// 0: it is there; 1: it is parked where it is needed; 4: time is up.
pub async fn run(settings: &Settings, wanted: &Wanted, json: bool) -> Result<Exit, Failure> {
    let broker = connect_command(settings, "replicator-wait").await?;
    let waited = async {
        let log = JetStreamLog::attach(broker.client().clone(), &settings.mirror).await?;
        let nodes = NodeBucket::attach(broker.client().clone(), &settings.mirror).await?;
        wait(&Sightings::new(log, nodes), wanted).await
    }
    .await;
    broker.shutdown().await;
    let answer = waited?;
    println!("{}", if json { answer.json().to_string() } else { answer.to_string() });
    Ok(match answer.outcome {
        Outcome::There => Exit::Done,
        Outcome::NotYet => Exit::NotCaughtUp,
        Outcome::Parked => Exit::Failed,
    })
}
