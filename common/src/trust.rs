//! Rule 9: whether the log is still the one this index trusts. Asked at every connect, and on any error of the consumer, by both processes.

use crate::{
    broker::{BrokerError, Connection},
    event::{EventId, StreamCreated, Version},
    index::{Generation, Index, IndexError, Landmark, NodeState, Stage},
    log::{EventLog, LogState},
    startup::Keeper,
};
use tokio::sync::watch;

/// Rows that are looked up when the log no longer begins at 1: a log that was cut dropped its oldest events, so the lowest tell.
const TRIMMED: usize = 1000;

/// Why a new generation begins: the log is read again, the root compared with it, and what the log lacks is published. Nothing is removed because of it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Distrust {
    /// This index has never seen the log.
    #[error("the index is new")]
    NewIndex,
    /// The root was restored from an older copy.
    #[error("the root was restored from an older copy")]
    Restored,
    /// The stream was deleted and made again.
    #[error("the log was created anew at {0}")]
    Created(StreamCreated),
    /// The log ends before an event that this index has applied or published.
    #[error("the log ends at {last}, and this index knows {known}: it was rolled back")]
    Shorter {
        /// Where the log ends.
        last: Version,
        /// What the index knows.
        known: Version,
    },
    /// Another event stands where this index knows one.
    #[error(
        "the log has another event at {0} than this index knows: it was rolled back, and has gone on since"
    )]
    Forked(Version),
    /// An event is gone, and its path has no newer one.
    #[error("the event at {0} is gone from the log, and its path has no newer one")]
    Trimmed(Version),
}

/// What the log says about a landmark of ours.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The message at its position: subject and identity.
    pub there: Option<(String, EventId)>,
    /// The newest event on the landmark's subject.
    pub newest: Option<Version>,
}

/// Decides. `version` and `top` are what the log says about the two landmarks of the same names.
pub fn judge(node: &NodeState, log: &LogState, version: &Found, top: &Found) -> Option<Distrust> {
    let Some(created) = &node.created else { return Some(Distrust::NewIndex) };
    if node.restored {
        return Some(Distrust::Restored);
    }
    if *created != log.created {
        return Some(Distrust::Created(log.created.clone()));
    }
    let known = node.version.max(node.top.as_ref().map_or(Version::ZERO, |top| top.version));
    if log.last < known {
        return Some(Distrust::Shorter { last: log.last, known });
    }
    [(&node.at_version, version), (&node.top, top)]
        .into_iter()
        .filter_map(|(landmark, found)| Some((landmark.as_ref()?, found)))
        .find_map(|(landmark, found)| unexplained(landmark, found))
}

fn unexplained(landmark: &Landmark, found: &Found) -> Option<Distrust> {
    match &found.there {
        Some((subject, event)) if (subject, event) == (&landmark.subject, &landmark.event) => None,
        Some(_) => Some(Distrust::Forked(landmark.version)),
        None if found.newest.is_some_and(|newest| newest > landmark.version) => None,
        None => Some(Distrust::Trimmed(landmark.version)),
    }
}

/// The terms on which a process works until the next connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// The generation in force.
    pub generation: Generation,
    /// The life of the log that it trusts.
    pub created: StreamCreated,
    /// The log, when it was asked.
    pub log: LogState,
    /// Why a new generation was begun just now.
    pub began: Option<Distrust>,
    /// The connection over which the log was looked at: on another it may be another log.
    pub epoch: u64,
}

/// Why the log could not be judged. The index is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The broker did not answer.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Asks the log whether it is the one that an index trusts, and changes nothing. Three round trips, rarely five.
pub async fn verdict<L: EventLog>(
    log: &L,
    index: &Index,
    node: &NodeState,
) -> Result<(LogState, Option<Distrust>), TrustError> {
    let state = log.state().await?;
    let version = find(log, node.at_version.as_ref()).await?;
    let top = find(log, node.top.as_ref()).await?;
    let verdict = match judge(node, &state, &version, &top) {
        Some(verdict) => Some(verdict),
        None => trimmed(log, index, node, &state).await?,
    };
    Ok((state, verdict))
}

/// Asks the log, and begins a new generation when it must. Four round trips at most, when nothing changed meanwhile.
/// `epoch`: the connection that all of it goes over, as it was before.
pub async fn check<L: EventLog>(log: &L, index: &Index, epoch: u64) -> Result<Session, TrustError> {
    loop {
        let node = index.node()?;
        let (state, verdict) = verdict(log, index, &node).await?;
        let Some(why) = &verdict else {
            let created = state.created.clone();
            return Ok(Session { generation: node.generation, created, log: state, began: None, epoch });
        };
        let (created, why) = (state.created.clone(), why.to_string());
        let begun = index
            .write(move |tx| {
                // The other process may have come to the same verdict a moment ago.
                let same = tx.node().generation == node.generation;
                if same {
                    tx.begin_generation(&created, &why)?;
                }
                Ok(same.then(|| tx.node().generation))
            })
            .await?;
        if let Some(generation) = begun {
            return Ok(Session {
                generation,
                created: state.created.clone(),
                log: state,
                began: verdict,
                epoch,
            });
        }
    }
}

/// Whether the newest event of a path was dropped from the log's beginning. Where history is limited it stays, so a row below the beginning is one
/// that this node is behind with, or one that a new node would never hear of.
async fn trimmed<L: EventLog>(
    log: &L,
    index: &Index,
    node: &NodeState,
    state: &LogState,
) -> Result<Option<Distrust>, TrustError> {
    if state.first <= Version::new(1) {
        return Ok(None);
    }
    let rows = index.rows_before(node.generation, state.first, TRIMMED)?;
    let paths: Vec<_> = rows.iter().map(|(path, _)| path.clone()).collect();
    let lasts = log.lasts(&paths).await?;
    let gone = rows
        .iter()
        .zip(lasts)
        .find(|((_, version), last)| last.as_ref().is_none_or(|last| last.version < *version));
    Ok(gone.map(|((_, version), _)| Distrust::Trimmed(*version)))
}

/// What lets a process work: one connection, one generation, a root that was not found restored.
pub struct Gate {
    connection: watch::Receiver<Connection>,
    keeper: Keeper,
}

impl Gate {
    /// `keeper` makes log, blobs and node records again when the broker has lost them.
    pub fn new(connection: watch::Receiver<Connection>, keeper: Keeper) -> Self {
        Self { connection, keeper }
    }

    /// Looks at the log, which is made again first when the broker has lost it. `None`: there is no connection.
    pub async fn open<L: EventLog>(&self, log: &L, index: &Index) -> Result<Option<Session>, TrustError> {
        let now = *self.connection.borrow();
        if !now.connected {
            return Ok(None);
        }
        (self.keeper)().await?;
        Ok(Some(check(log, index, now.epoch).await?))
    }

    /// Whether a session still stands.
    pub fn stands(&self, session: &Session, index: &Index) -> Result<bool, IndexError> {
        Ok(self.stands_at(session, index.stage()?))
    }

    /// The same, where it was read already how the node stands.
    pub fn stands_at(&self, session: &Session, stage: Stage) -> bool {
        self.connects(session) && stage.generation == session.generation && !stage.restored
    }

    /// Whether the connection is still the one over which a session's log was looked at.
    pub fn connects(&self, session: &Session) -> bool {
        let now = *self.connection.borrow();
        now.connected && now.epoch == session.epoch
    }
}

async fn find<L: EventLog>(log: &L, landmark: Option<&Landmark>) -> Result<Found, BrokerError> {
    let Some(landmark) = landmark else { return Ok(Found::default()) };
    if let Some(there) = log.at(landmark.version).await? {
        let id = there.id(log.subjects());
        return Ok(Found { there: Some((there.subject, id)), newest: None });
    }
    let newest = log.last_on(&landmark.subject).await?.map(|last| last.version);
    Ok(Found { there: None, newest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hash::ContentHash, time::Timestamp};

    fn created(at: i128) -> StreamCreated {
        StreamCreated(Timestamp::from_nanos(at))
    }

    fn landmark(version: u64) -> Landmark {
        Landmark {
            version: Version::new(version),
            subject: "mirror.media.a".into(),
            event: EventId::from_hash(ContentHash::of(b"event")),
        }
    }

    fn node() -> NodeState {
        NodeState {
            created: Some(created(1)),
            version: Version::new(5),
            at_version: Some(landmark(5)),
            top: Some(landmark(7)),
            ..NodeState::default()
        }
    }

    fn log(last: u64) -> LogState {
        LogState {
            created: created(1),
            first: Version::new(1),
            last: Version::new(last),
            history: None,
            now: None,
        }
    }

    fn same() -> Found {
        let mark = landmark(0);
        Found { there: Some((mark.subject, mark.event)), newest: None }
    }

    #[test]
    fn each_kind_of_distrust_has_its_row() {
        let other = Found { there: Some(("mirror.media.b".into(), landmark(0).event)), newest: None };
        let superseded = Found { there: None, newest: Some(Version::new(9)) };
        let gone = Found { there: None, newest: Some(Version::new(3)) };
        let new = NodeState::default();
        let restored = NodeState { restored: true, ..node() };
        let moved = LogState { created: created(2), ..log(9) };
        for (node, log, version, top, expected) in [
            (node(), log(9), same(), same(), None),
            (node(), log(7), same(), same(), None),
            (node(), log(9), superseded.clone(), superseded, None),
            (new, log(9), Found::default(), Found::default(), Some(Distrust::NewIndex)),
            (restored, log(9), same(), same(), Some(Distrust::Restored)),
            (node(), moved, same(), same(), Some(Distrust::Created(created(2)))),
            (
                node(),
                log(6),
                same(),
                same(),
                Some(Distrust::Shorter { last: Version::new(6), known: Version::new(7) }),
            ),
            (node(), log(9), other.clone(), same(), Some(Distrust::Forked(Version::new(5)))),
            (node(), log(9), same(), other, Some(Distrust::Forked(Version::new(7)))),
            (node(), log(9), same(), gone, Some(Distrust::Trimmed(Version::new(7)))),
        ] {
            assert_eq!(judge(&node, &log, &version, &top), expected);
        }
    }
}
