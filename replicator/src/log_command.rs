//! `replicator log`: the log, for people and for programs (HTTP has the same form). It only reads.

use crate::cli::Window;
use common::{
    broker::BrokerError,
    event::Version,
    exit::{Exit, Failure},
    log::{EventLog, JetStreamLog, Logged},
    path::MediaPath,
    settings::Settings,
    startup::{connect_command, stop_on_signals},
};
use std::{
    io::{self, Write},
    time::Duration,
};

/// Events asked for at once.
const PAGE: usize = 500;
/// How often the log is asked for new events.
const POLL: Duration = Duration::from_millis(250);

/// What to print.
pub struct Wanted {
    pub window: Window,
    pub path: Option<MediaPath>,
    pub follow: bool,
    pub json: bool,
}

pub async fn run(settings: Settings, wanted: Wanted) -> Result<Exit, Failure> {
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    let broker = connect_command(&settings, "replicator-log").await?;
    let printed = async {
        let log = JetStreamLog::attach(broker.client().clone(), &settings.mirror).await?;
        tokio::select! {
            printed = print(&log, &wanted) => printed,
            () = stop.cancelled() => Ok(()),
        }
    }
    .await;
    broker.shutdown().await;
    printed.map(|()| Exit::Done)
}

async fn print(log: &JetStreamLog, wanted: &Wanted) -> Result<(), Failure> {
    let to = wanted.window.to_seq.map_or(Version::new(u64::MAX), Version::new);
    let mut from = Version::new(wanted.window.from_seq.max(1));
    loop {
        let page = page(log, wanted.path.as_ref(), from).await?;
        let Some(last) = page.last().map(|last| last.version) else {
            if !wanted.follow {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
            continue;
        };
        let mut out = io::stdout().lock();
        for logged in page.iter().take_while(|logged| logged.version <= to) {
            match writeln!(out, "{}", if wanted.json { json(logged).to_string() } else { text(logged) }) {
                // Whoever read us has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written.map_err(|error| Failure::new(Exit::Failed, error))?,
            }
        }
        if last >= to {
            return Ok(());
        }
        from = last.next();
    }
}

async fn page(
    log: &JetStreamLog,
    path: Option<&MediaPath>,
    from: Version,
) -> Result<Vec<Logged>, BrokerError> {
    match path {
        Some(path) => Ok(log.next_of(path, from).await?.into_iter().collect()),
        None => log.read(from, PAGE).await,
    }
}

/// The payload with `version` and `time`; of a message that is no event, its subject and why.
pub fn json(logged: &Logged) -> serde_json::Value {
    let mut line = match serde_json::from_slice(&logged.payload) {
        Ok(serde_json::Value::Object(payload)) => payload,
        _ => serde_json::Map::new(),
    };
    line.insert("version".into(), logged.version.get().into());
    line.insert("time".into(), logged.time.to_string().into());
    if let Err(invalid) = &logged.event {
        line.insert("subject".into(), logged.subject.as_str().into());
        line.insert("invalid".into(), invalid.to_string().into());
    }
    serde_json::Value::Object(line)
}

fn text(logged: &Logged) -> String {
    let (version, time) = (logged.version, logged.time);
    match &logged.event {
        Ok(event) => {
            let hash = &event.sha256.to_string()[..12];
            let size = event.added.map_or_else(|| "-".into(), |added| added.size.to_string());
            let kind = event.kind().as_str();
            format!("{version:>8}  {time}  {kind:<7}  {size:>12}  {hash}  {}  {}", event.node, event.path)
        }
        Err(invalid) => {
            format!("{version:>8}  {time}  invalid  {}: {invalid}", logged.subject.escape_debug())
        }
    }
}
