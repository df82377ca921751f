//! `replicator parked`: what cannot be applied here, and another try on demand. It works on the index alone; the running replicator does the rest.

use crate::cli::ParkedAction;
use common::{
    exit::{Exit, Failure},
    index::{Index, IndexError, Parked},
    nodes::Role,
    path::MediaPath,
    settings::Settings,
    startup::{index_of, is_running},
    time::Timestamp,
};
use serde_json::{Value, json};

pub async fn run(settings: &Settings, action: Option<ParkedAction>, json: bool) -> Result<Exit, Failure> {
    let (folders, index) = index_of(settings)?;
    let ParkedAction::Retry { paths } = action.unwrap_or(ParkedAction::List) else {
        for parked in index.parked()? {
            println!("{}", if json { in_json(&parked) } else { in_text(&parked) });
        }
        return Ok(Exit::Done);
    };
    let Retried { events, mut unknown } = retry(&index, paths).await?;
    if json {
        println!("{}", json!({ "retried": events }));
    } else {
        println!("{events} events are tried again");
    }
    if events > 0 && !is_running(&folders, Role::Replicator) {
        eprintln!("the replicator of this node is not running: it tries them when it is started");
    }
    match unknown.pop() {
        Some(path) => Err(Failure::new(Exit::Failed, format!("no event of {path} is parked"))),
        None => Ok(Exit::Done),
    }
}

/// What another try was asked for.
pub struct Retried {
    /// How many events are tried again.
    pub events: u64,
    /// Paths of which no event is parked.
    pub unknown: Vec<MediaPath>,
}

/// Asks the running replicator, through the index, to try these paths' events again; all, where no path is named.
pub async fn retry(index: &Index, paths: Vec<MediaPath>) -> Result<Retried, IndexError> {
    let mut unknown = Vec::new();
    for path in &paths {
        if index.parked_of(path)?.is_none() {
            unknown.push(path.clone());
        }
    }
    let asked = index.write(move |tx| match paths.is_empty() {
        true => tx.retry_parked(None),
        false => paths.iter().try_fold(0, |sum, path| Ok(sum + tx.retry_parked(Some(path))?)),
    });
    Ok(Retried { events: asked.await?, unknown })
}

/// The path, or where the payload names none, the subject.
fn what(parked: &Parked) -> String {
    parked.path.as_ref().map_or_else(|| parked.subject.escape_debug().to_string(), ToString::to_string)
}

/// As HTTP has it, and the command line with the payload.
pub fn json(parked: &Parked) -> Value {
    let Parked { subject, path, version, stamp, payload: _, reason, permanent, since, tries, next_try } =
        parked;
    json!({
        "version": version, "subject": subject, "path": path.as_ref().map(ToString::to_string), "time": stamp,
        "reason": reason, "permanent": permanent, "since": since, "tries": tries,
        "next_try": (!permanent).then_some(next_try),
    })
}

fn in_json(parked: &Parked) -> String {
    let mut told = json(parked);
    told["payload"] = String::from_utf8_lossy(&parked.payload).into();
    told.to_string()
}

fn in_text(parked: &Parked) -> String {
    let next = match parked.permanent {
        true => "given up".into(),
        false => {
            let left = parked.next_try.seconds_since(Timestamp::now()).max(0.0);
            format!("tried again in {left:.0} s")
        }
    };
    let Parked { version, since, tries, reason, .. } = parked;
    format!("{version:>8}  {}  since {since}, {tries} tries, {next}: {reason}", what(parked))
}
