//! The `status` command of both programs: once, or again and again.

use super::{LocalStatus, Status};
use crate::{
    broker::{Broker, BrokerError},
    event::Version,
    exit::{Exit, Failure},
    index::Index,
    log::{EventLog, JetStreamLog},
    nodes::{NodeBucket, Role, SeenRecord},
    settings::Settings,
    startup::{connect_command, stop_on_signals},
    time::Timestamp,
};
use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};
use tokio::time::sleep;

/// Between two looks of `--watch`.
const EVERY: Duration = Duration::from_secs(2);
/// Takes the cursor home and clears what was there.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The processes of one role; `None`: all.
    pub only: Option<Role>,
    /// JSON, one object a look.
    pub json: bool,
    /// Again every 2 s until interrupted.
    pub watch: bool,
}

/// It gives up on the broker after 5 s, and says then what this machine knows by itself. Its exit code is that of the last look.
pub async fn command(settings: &Settings, wanted: Wanted) -> Result<Exit, Failure> {
    let caller = format!("{}-status", wanted.only.unwrap_or(Role::Replicator));
    let broker = match connect_command(settings, &caller).await {
        Ok(broker) => broker,
        Err(error) => {
            alone(settings, wanted)?;
            return Err(error.into());
        }
    };
    let done = match wanted.watch {
        true => watch(&broker, settings, wanted).await,
        false => once(&broker, settings, wanted).await,
    };
    broker.shutdown().await;
    done
}

async fn once(broker: &Broker, settings: &Settings, wanted: Wanted) -> Result<Exit, Failure> {
    match ask(broker, settings, wanted.only).await {
        Ok((head, records, now)) => {
            let status = Status::new(head, records, now, local(settings)?);
            print(&status, wanted);
            Ok(status.exit())
        }
        Err(error) => {
            alone(settings, wanted)?;
            Err(error.into())
        }
    }
}

async fn watch(broker: &Broker, settings: &Settings, wanted: Wanted) -> Result<Exit, Failure> {
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    let mut last = Exit::Done;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(last),
            asked = ask(broker, settings, wanted.only) => {
                let local = local(settings)?;
                let status = match asked {
                    Ok((head, records, now)) => Status::new(head, records, now, local),
                    // It comes back, or whoever watches has seen enough.
                    Err(error) if error.is_away() => Status { head: None, nodes: Vec::new(), local },
                    Err(error) => return Err(error.into()),
                };
                last = status.exit();
                if !print(&status, wanted) {
                    return Ok(last);
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(last),
            () = sleep(EVERY) => {}
        }
    }
}

async fn ask(
    broker: &Broker,
    settings: &Settings,
    only: Option<Role>,
) -> Result<(Version, Vec<SeenRecord>, Timestamp), BrokerError> {
    let log = JetStreamLog::attach(broker.client().clone(), &settings.mirror).await?;
    let nodes = NodeBucket::attach(broker.client().clone(), &settings.mirror).await?;
    let (head, now) = (log.state().await?.last, nodes.now().await?);
    let mut records = nodes.all().await?;
    records.retain(|seen| only.is_none_or(|role| seen.record.role == role));
    Ok((head, records, now))
}

/// What this machine knows without the broker, where it knows anything.
fn alone(settings: &Settings, wanted: Wanted) -> Result<(), Failure> {
    if let local @ Some(_) = local(settings)? {
        print(&Status { head: None, nodes: Vec::new(), local }, wanted);
    }
    Ok(())
}

fn local(settings: &Settings) -> Result<Option<LocalStatus>, Failure> {
    match settings.state_dir.as_ref().map(|state| state.join("index.db")) {
        Some(path) if path.exists() => Ok(Some(LocalStatus::read(&Index::open(&path)?)?)),
        _ => Ok(None),
    }
}

/// False: nobody reads it any more.
fn print(status: &Status, wanted: Wanted) -> bool {
    let mut out = io::stdout().lock();
    let clear = if wanted.watch && !wanted.json && out.is_terminal() { CLEAR } else { "" };
    let written = match wanted.json {
        true => writeln!(out, "{}", serde_json::to_string(status).expect("a status has a JSON form")),
        false => writeln!(out, "{clear}{status}"),
    };
    written.and_then(|()| out.flush()).is_ok()
}
