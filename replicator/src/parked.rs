//! `replicator parked`: what cannot be applied here, and another try on demand. It works on the index alone; the running replicator does the rest.

use crate::cli::ParkedAction;
use common::{
    exit::{Exit, Failure},
    index::Parked,
    nodes::Role,
    path::MediaPath,
    settings::Settings,
    startup::{index_of, is_running},
    time::Timestamp,
};
use serde_json::json;

pub async fn run(settings: &Settings, action: Option<ParkedAction>, json: bool) -> Result<Exit, Failure> {
    let (folders, index) = index_of(settings)?;
    let ParkedAction::Retry { paths } = action.unwrap_or(ParkedAction::List) else {
        for parked in index.parked()? {
            println!("{}", if json { in_json(&parked) } else { in_text(&parked) });
        }
        return Ok(Exit::Done);
    };
    let mut missing: Option<MediaPath> = None;
    for path in &paths {
        if index.parked_of(path)?.is_none() {
            missing = Some(path.clone());
        }
    }
    let asked = index
        .write(move |tx| match paths.is_empty() {
            true => tx.retry_parked(None),
            false => paths.iter().try_fold(0, |sum, path| Ok(sum + tx.retry_parked(Some(path))?)),
        })
        .await?;
    if json {
        println!("{}", json!({ "retried": asked }));
    } else {
        println!("{asked} events are tried again");
    }
    if asked > 0 && !is_running(&folders, Role::Replicator) {
        eprintln!("the replicator of this node is not running: it tries them when it is started");
    }
    match missing {
        Some(path) => Err(Failure::new(Exit::Failed, format!("no event of {path} is parked"))),
        None => Ok(Exit::Done),
    }
}

/// The path, or where the payload names none, the subject.
fn what(parked: &Parked) -> String {
    parked.path.as_ref().map_or_else(|| parked.subject.escape_debug().to_string(), ToString::to_string)
}

fn in_json(parked: &Parked) -> String {
    let Parked { subject, path, version, stamp, payload, reason, permanent, since, tries, next_try } = parked;
    json!({
        "version": version, "subject": subject, "path": path.as_ref().map(ToString::to_string), "time": stamp,
        "reason": reason, "permanent": permanent, "since": since, "tries": tries,
        "next_try": (!permanent).then_some(next_try), "payload": String::from_utf8_lossy(payload),
    })
    .to_string()
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
