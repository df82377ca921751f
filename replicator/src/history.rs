//! The versions of one path: `replicator history` names them, and which of them `restore` brings back is decided here.

use common::{
    blobs::BlobStore,
    broker::BrokerError,
    event::{Kind, Version},
    exit::{Exit, Failure},
    hash::ContentHash,
    log::{EventLog, JetStreamLog, Logged},
    path::MediaPath,
    settings::Settings,
    startup::{blobs_of, connect_command},
};
use serde_json::json;

/// An event of the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Past {
    pub version: Version,
    pub kind: Kind,
    pub content: ContentHash,
    pub size: u64,
    pub mode: u32,
}

/// Which content is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// What the path had before its present state.
    Before,
    /// That of a version.
    Version(Version),
    /// This one.
    Content(ContentHash),
}

/// Why the history has no such content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nothing {
    /// The path never had any other content.
    Before,
    /// No event of the path has this version.
    Version(Version),
    /// That event removed the path.
    Removal(Version),
    /// The path never had this content, as far as the log is kept.
    Content(ContentHash),
}

/// Chooses from a path's history, oldest first.
pub fn choose(history: &[Past], which: Which) -> Result<Past, Nothing> {
    let newest = |fits: &dyn Fn(&Past) -> bool| {
        history.iter().rev().find(|past| past.kind == Kind::Added && fits(past)).copied()
    };
    match which {
        Which::Before => {
            let present = history.last().filter(|last| last.kind == Kind::Added).map(|last| last.content);
            newest(&|past| Some(past.content) != present).ok_or(Nothing::Before)
        }
        Which::Content(content) => newest(&|past| past.content == content).ok_or(Nothing::Content(content)),
        Which::Version(version) => match history.iter().find(|past| past.version == version) {
            None => Err(Nothing::Version(version)),
            Some(past) if past.kind == Kind::Removed => Err(Nothing::Removal(version)),
            Some(past) => Ok(*past),
        },
    }
}

/// All messages of a path that the log has, oldest first. One round trip each.
pub async fn read<L: EventLog>(log: &L, path: &MediaPath) -> Result<Vec<Logged>, BrokerError> {
    let (mut all, mut from) = (Vec::new(), Version::ZERO.next());
    while let Some(logged) = log.next_of(path, from).await? {
        from = logged.version.next();
        all.push(logged);
    }
    Ok(all)
}

/// What of them are events.
pub fn events(messages: &[Logged]) -> Vec<Past> {
    let past = |logged: &Logged| {
        let event = logged.event.as_ref().ok()?;
        let (size, mode) = event.added.map_or((0, 0), |added| (added.size, added.mode));
        Some(Past { version: logged.version, kind: event.kind(), content: event.sha256, size, mode })
    };
    messages.iter().filter_map(past).collect()
}

pub async fn run(settings: &Settings, path: MediaPath, json: bool) -> Result<Exit, Failure> {
    let broker = connect_command(settings, "replicator-history").await?;
    let asked = async {
        let log = JetStreamLog::attach(broker.client().clone(), &settings.mirror).await?;
        let blobs = blobs_of(&broker, settings).await?;
        let messages = read(&log, &path).await?;
        let contents: Vec<ContentHash> =
            messages.iter().filter_map(|m| Some(m.event.as_ref().ok()?.sha256)).collect();
        let there = blobs.contains(&contents).await.map_err(|error| Failure::new(Exit::Failed, error))?;
        Ok::<_, Failure>((messages, there))
    }
    .await;
    broker.shutdown().await;
    let (messages, there) = asked?;
    if messages.is_empty() {
        return Err(Failure::new(Exit::Failed, format!("the log has no event of {path}")));
    }
    let mut there = there.into_iter();
    for logged in &messages {
        let blob = logged.event.is_ok() && there.next().unwrap_or(false);
        println!("{}", if json { in_json(logged, blob) } else { in_text(logged, blob) });
    }
    Ok(Exit::Done)
}

fn in_json(logged: &Logged, blob: bool) -> String {
    let (version, time) = (logged.version, logged.time);
    match &logged.event {
        Ok(event) => json!({
            "version": version, "time": time, "type": event.kind().as_str(), "sha256": event.sha256.to_string(),
            "size": event.added.map(|added| added.size), "node": event.node.to_string(), "replaces": event.replaces, "blob": blob,
        }),
        Err(invalid) => json!({ "version": version, "time": time, "invalid": invalid.to_string() }),
    }
    .to_string()
}

fn in_text(logged: &Logged, blob: bool) -> String {
    let (version, time) = (logged.version, logged.time);
    match &logged.event {
        Ok(event) => {
            let size = event.added.map_or_else(|| "-".into(), |added| added.size.to_string());
            let (kind, node, hash) = (event.kind().as_str(), &event.node, event.sha256);
            let blob = if blob { "" } else { "  (not in the blob store)" };
            format!("{version:>8}  {time}  {kind:<7}  {size:>12}  {hash}  {node}{blob}")
        }
        Err(invalid) => format!("{version:>8}  {time}  invalid  {invalid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> ContentHash {
        ContentHash::of(text.as_bytes())
    }

    fn past(version: u64, kind: Kind, content: &str) -> Past {
        Past { version: Version::new(version), kind, content: hash(content), size: 1, mode: 0o644 }
    }

    #[test]
    fn the_wanted_content_is_found_or_said_to_be_missing() {
        use Kind::{Added, Removed};
        let v = Version::new;
        let replaced = [past(1, Added, "a"), past(4, Added, "b"), past(6, Added, "b")];
        let removed = [past(1, Added, "a"), past(4, Added, "b"), past(6, Removed, "b")];
        let twice = [past(1, Added, "a"), past(3, Removed, "a"), past(4, Added, "a")];
        for (history, which, expected) in [
            (&replaced[..], Which::Before, Ok(1)),
            (&removed, Which::Before, Ok(4)),
            (&twice, Which::Before, Err(Nothing::Before)),
            (&[], Which::Before, Err(Nothing::Before)),
            (&replaced, Which::Version(v(4)), Ok(4)),
            (&replaced, Which::Version(v(5)), Err(Nothing::Version(v(5)))),
            (&removed, Which::Version(v(6)), Err(Nothing::Removal(v(6)))),
            (&replaced, Which::Content(hash("b")), Ok(6)),
            (&removed, Which::Content(hash("b")), Ok(4)),
            (&removed, Which::Content(hash("c")), Err(Nothing::Content(hash("c")))),
        ] {
            let chosen = choose(history, which).map(|past| past.version.get());
            assert_eq!(chosen, expected, "{history:?} {which:?}");
        }
    }
}
