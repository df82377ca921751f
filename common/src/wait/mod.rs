//! Waiting until a file is on the other nodes, judged by the records of the nodes, which say how far each is.

mod verdict;

pub use verdict::{Answer, Enough, Outcome};

use crate::{
    broker::BrokerError,
    event::{Kind, Version},
    log::EventLog,
    path::MediaPath,
    sightings::{FRESH, Sightings},
    startup::COMMAND_PATIENCE,
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
    /// What.
    pub what: What,
    /// On how many nodes.
    pub enough: Enough,
    /// How long at most.
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
