//! Waiting until a file is on the other nodes: `replicator wait`, and the same over HTTP. Judged by the records of the nodes, which say how far each is.

mod verdict;

pub use verdict::{Answer, Enough, Outcome};

use crate::sightings::{FRESH, Sightings};
use common::{
    broker::BrokerError,
    event::{Kind, Version},
    exit::{Exit, Failure},
    log::{EventLog, JetStreamLog},
    nodes::NodeBucket,
    path::MediaPath,
    settings::Settings,
    startup::{COMMAND_PATIENCE, connect_command},
    time::Timestamp,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use verdict::{Target, judge};

/// How long is waited where nothing is said.
pub const USUAL: Duration = Duration::from_secs(10);

/// What is waited for.
#[derive(Clone, Debug)]
pub enum What {
    /// The newest event of a path, which has to be an addition. One that comes meanwhile takes its place.
    Path(MediaPath),
    /// This event.
    Version(Version),
}

/// What is waited for, where, and how long at most.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub what: What,
    pub enough: Enough,
    pub timeout: Duration,
}

/// Waits. A broker that is away is waited for, too, for 5 s.
pub async fn wait(sightings: &Sightings, wanted: &Wanted) -> Result<Answer, BrokerError> {
    let began = Instant::now();
    let mut heard = began;
    loop {
        let left = wanted.timeout.saturating_sub(began.elapsed());
        match look(sightings, wanted).await {
            Ok(answer) if answer.outcome != Outcome::NotYet || left.is_zero() => return Ok(answer),
            Ok(_) => heard = Instant::now(),
            Err(error) if error.is_away() && !left.is_zero() && heard.elapsed() < COMMAND_PATIENCE => {}
            Err(error) => return Err(error),
        }
        sleep(FRESH.min(left)).await;
    }
}

async fn look(sightings: &Sightings, wanted: &Wanted) -> Result<Answer, BrokerError> {
    let newest = match &wanted.what {
        What::Path(path) => sightings.log.last(path).await?,
        What::Version(_) => None,
    };
    let (log, records) = tokio::try_join!(sightings.state(), sightings.records())?;
    let target = match (&wanted.what, newest) {
        (What::Version(version), _) if *version <= log.last => Target::Event(*version),
        (What::Path(_), Some(newest)) => match &newest.event {
            Ok(event) if event.kind() == Kind::Removed => Target::Removed(newest.version),
            // What is no event is parked on every node, and said to be.
            _ => Target::Event(newest.version),
        },
        (What::Version(_), _) | (What::Path(_), None) => Target::Unpublished,
    };
    let now = log.now.unwrap_or_else(Timestamp::now);
    Ok(judge(target, wanted.enough, &log.created, &records, now))
}

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
