//! Out of turn: who wants a path's newest event applied now asks here, and it goes ahead of all that waits; so does what [hints](super::hints) tell of. It is read by Direct Get, and applied by the same
//! rules as any other. It comes in its turn as well, and is found done, or is tried again and parked then: a try that fails here is not repeated here.

use super::{Busy, DeliveryOf, Service, hints::LOOK_AGAIN};
use crate::{
    apply::Outcome,
    node::{ApplyError, Node},
    work::{Item, Tried},
};
use common::{
    blobs::BlobStore,
    error_chain,
    event::Version,
    index::Generation,
    limits::Hurry,
    log::{EventLog, Logged},
    path::MediaPath,
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::sleep,
};

/// Events that are applied out of turn at once, beside those that are applied in turn.
pub(super) const URGENT: usize = 16;
/// Paths whose newest event is being read at once.
const LOOKS: usize = 64;
/// Questions that wait for that. Who asks waits for its turn.
const ASKED: usize = 64;

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct Urgent(mpsc::Sender<Ask>);

pub(super) struct Ask {
    path: MediaPath,
    answer: oneshot::Sender<Answer>,
}

/// What becomes of a question.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The event is being applied.
    Begun(Begun),
    /// There is nothing to apply.
    Nothing(Nothing),
    /// The log could not be asked.
    Away,
}

/// An event that is being applied.
#[derive(Clone, Debug)]
pub struct Begun {
    pub logged: Arc<Logged>,
    ended: watch::Receiver<Option<End>>,
}

impl Begun {
    /// Waits until it is applied, or is not.
    pub async fn ended(&mut self) -> End {
        // Who applies it is gone without a word: the session is over.
        self.ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone()).unwrap_or(End::Away)
    }
}

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It is applied, or superseded.
    Applied(Outcome),
    /// It cannot be applied here, for this reason, and is set aside.
    Parked(String),
    /// The store has not its content, or has other bytes under its name.
    NoContent(String),
    /// It failed otherwise.
    Failed(String),
    /// The broker was lost meanwhile.
    Away,
}

/// Why there is nothing to apply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nothing {
    /// The log has never had the path.
    NoEvent,
    /// What the log has there last is no event.
    Invalid,
    /// This node is at the newest event.
    Applied,
    /// This node is at the newest event, and about to bring the file to the disk once more.
    Repairing,
    /// The newest event is set aside here.
    Parked,
}

/// What a decision rests on.
pub struct Facts<'a> {
    /// The path's newest event.
    pub newest: Option<&'a Logged>,
    /// The path's event in the index, of this generation.
    pub row: Option<Version>,
    /// The path's event that is set aside.
    pub parked: Option<Version>,
    /// The path waits for a repair.
    pub repairing: bool,
}

/// `None`: the event is to be applied; what that comes to is for the rules of apply to say.
pub fn nothing_to_apply(facts: &Facts<'_>) -> Option<Nothing> {
    let Some(newest) = facts.newest else { return Some(Nothing::NoEvent) };
    if newest.event.is_err() {
        return Some(Nothing::Invalid);
    }
    if facts.row.is_some_and(|row| row >= newest.version) {
        return Some(if facts.repairing { Nothing::Repairing } else { Nothing::Applied });
    }
    (facts.parked == Some(newest.version)).then_some(Nothing::Parked)
}

impl Urgent {
    /// Asks for a path's newest event to be applied now. Several who ask for one path have one answer. Waits for the log's answer, within the bounds of a request.
    pub async fn apply(&self, path: MediaPath) -> Answer {
        let (answer, answered) = oneshot::channel();
        if self.0.send(Ask { path, answer }).await.is_err() {
            return Answer::Away;
        }
        answered.await.unwrap_or(Answer::Away)
    }
}

/// Who asks.
pub(super) enum Asked {
    /// Somebody who waits for the answer.
    By(oneshot::Sender<Answer>),
    /// A hint: the event that it is of is above this one, once the log has it.
    ByHint(Version),
}

impl Asked {
    fn answer(self, answer: Answer) {
        if let Self::By(asked) = self {
            // Who gave up waiting needs none.
            let _ = asked.send(answer);
        }
    }
}

/// A newest event was read.
pub(super) struct Looked {
    path: MediaPath,
    generation: Generation,
    found: Result<Result<Logged, Nothing>, ApplyError>,
}

struct Applying {
    begun: Begun,
    end: watch::Sender<Option<End>>,
    _hurry: Option<Hurry>,
}

/// What is asked and not answered, and what is applied out of turn.
pub(super) struct Desk<D> {
    pub(super) way_in: Urgent,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) looks: JoinSet<Looked>,
    looking: HashMap<MediaPath, Vec<oneshot::Sender<Answer>>>,
    pub(super) ready: VecDeque<Item<D>>,
    applying: HashMap<MediaPath, Applying>,
}

impl<D> Desk<D> {
    pub(super) fn new() -> Self {
        let (way_in, asks) = mpsc::channel(ASKED);
        Self {
            way_in: Urgent(way_in),
            asks,
            looks: JoinSet::new(),
            looking: HashMap::new(),
            ready: VecDeque::new(),
            applying: HashMap::new(),
        }
    }

    /// Whether another question may be taken.
    pub(super) fn is_open(&self) -> bool {
        self.looks.len() < LOOKS
    }

    /// What waits behind an event that rests goes before its next try.
    pub(super) fn take_urgent(&mut self, waiting: &mut VecDeque<Item<D>>) {
        let (urgent, others) = waiting.drain(..).partition(|item| item.urgent);
        *waiting = others;
        self.ready.extend::<VecDeque<_>>(urgent);
    }

    /// All who wait are told that the session is over.
    pub(super) fn clear(&mut self) {
        self.looks.abort_all();
        self.looks.detach_all();
        self.looking.clear();
        self.ready.clear();
        self.applying.clear();
    }

    /// Paths that are looked at, or whose event is applied, out of turn.
    pub(super) fn in_hand(&self) -> usize {
        self.looking.len() + self.applying.len()
    }

    fn ended(&mut self, item: &Item<D>, end: End) {
        let Ok(event) = &item.logged.event else { return };
        let ours = |applying: &Applying| applying.begun.logged.version == item.logged.version;
        if self.applying.get(&event.path).is_some_and(ours)
            && let Some(applying) = self.applying.remove(&event.path)
        {
            applying.end.send_replace(Some(end));
        }
    }
}

impl<L: EventLog, B: BlobStore> Service<L, B> {
    /// For who wants an event applied out of turn.
    pub fn urgent(&self) -> Urgent {
        self.desk.way_in.clone()
    }

    pub(super) fn take_ask(&mut self, ask: Ask) {
        let Ask { path, answer } = ask;
        self.look_at_newest(path, Asked::By(answer));
    }

    pub(super) fn look_at_newest(&mut self, path: MediaPath, asked: Asked) {
        let Some(session) = &self.session else { return asked.answer(Answer::Away) };
        if let Some(applying) = self.desk.applying.get(&path) {
            return asked.answer(Answer::Begun(applying.begun.clone()));
        }
        let is_new = !self.desk.looking.contains_key(&path);
        let asking = self.desk.looking.entry(path.clone()).or_default();
        let above = match asked {
            Asked::By(answer) => {
                asking.push(answer);
                None
            }
            Asked::ByHint(replaces) => Some(replaces),
        };
        if is_new {
            let (node, generation) = (Arc::clone(&self.node), session.generation);
            self.desk.looks.spawn(async move {
                let found = look(&node, &path, generation, above).await;
                Looked { path, generation, found }
            });
        }
    }

    pub(super) fn take_looked(&mut self, looked: Looked) {
        let Looked { path, generation, found } = looked;
        let asking = self.desk.looking.remove(&path).unwrap_or_default();
        let current = self.session.as_ref().is_some_and(|session| session.generation == generation);
        let answer = match found {
            _ if !current => Answer::Away,
            Ok(Ok(logged)) => Answer::Begun(self.apply_now(path, logged)),
            Ok(Err(nothing)) => Answer::Nothing(nothing),
            Err(error) => {
                self.trouble(error_chain(&error));
                Answer::Away
            }
        };
        for asked in asking {
            let _ = asked.send(answer.clone());
        }
    }

    fn apply_now(&mut self, path: MediaPath, logged: Logged) -> Begun {
        if let Some(applying) = self.desk.applying.get(&path) {
            return applying.begun.clone();
        }
        let item = Item { urgent: true, ..Item::new(logged, None) };
        let (end, ended) = watch::channel(None);
        let begun = Begun { logged: Arc::clone(&item.logged), ended };
        let content = item.logged.event.as_ref().ok().filter(|event| event.added.is_some());
        let hurry = content.map(|event| self.node.hurried.hurry(event.sha256));
        self.desk.applying.insert(path, Applying { begun: begun.clone(), end, _hurry: hurry });
        self.desk.ready.push_back(item);
        begun
    }

    /// Told to all who wait for it.
    pub(super) fn tell_end(&mut self, item: &Item<DeliveryOf<L>>, result: &Result<Tried, ApplyError>) {
        if item.urgent {
            self.desk.ended(item, end_of(result));
        }
    }

    /// The next event to begin with, those out of turn first, for which there is room beside all others.
    pub(super) fn next_item(&mut self) -> Option<Item<DeliveryOf<L>>> {
        let most = self.transfers + if self.desk.ready.is_empty() { 0 } else { URGENT };
        if self.work.len() >= most {
            return None;
        }
        let ready = self.desk.ready.pop_front();
        ready.or_else(|| self.fresh.pop_front()).or_else(|| self.again.pop_front())
    }
}

/// Whether an event may begin although its path has one that rests before its next try: the newest goes first, and the others find themselves superseded.
pub(super) fn may_pass<D>(item: &Item<D>, busy: &Busy<D>) -> bool {
    item.urgent && !busy.running
}

fn end_of(result: &Result<Tried, ApplyError>) -> End {
    match result {
        Ok(Tried::Done(outcome)) => End::Applied(*outcome),
        Ok(Tried::Parked { reason, .. }) => End::Parked(reason.clone()),
        Ok(Tried::Held) => End::Parked(ApplyError::Held.to_string()),
        Ok(Tried::Again { reason, want: Some(_), .. }) => End::NoContent(reason.clone()),
        Ok(
            Tried::Again { reason, .. }
            | Tried::StoreAway { reason, .. }
            | Tried::NoRoom { reason, .. }
            | Tried::Rested { reason },
        ) => End::Failed(reason.clone()),
        Ok(Tried::SessionOver) => End::Away,
        Ok(Tried::Halt(error)) | Err(error) => End::Failed(error_chain(error)),
    }
}

/// `above`: the newest event is expected to be above this one, and waited for a little.
async fn look<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
    generation: Generation,
    above: Option<Version>,
) -> Result<Result<Logged, Nothing>, ApplyError> {
    let is_there = |newest: &Option<Logged>| {
        above.is_none_or(|above| newest.as_ref().is_some_and(|newest| newest.version > above))
    };
    let mut newest = node.log.last(path).await?;
    for pause in LOOK_AGAIN {
        if is_there(&newest) {
            break;
        }
        sleep(pause).await;
        newest = node.log.last(path).await?;
    }
    let row = node.index.path_state(path)?.row.filter(|row| row.generation == generation);
    let facts = Facts {
        newest: newest.as_ref(),
        row: row.map(|row| row.version),
        parked: node.index.parked_of(path)?.map(|parked| parked.version),
        repairing: node.index.awaits_repair(path)?,
    };
    Ok(match (nothing_to_apply(&facts), newest) {
        (None, Some(newest)) => Ok(newest),
        (nothing, _) => Err(nothing.unwrap_or(Nothing::NoEvent)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::{names::MirrorName, subject::Subjects, time::Timestamp};

    fn logged(version: u64, payload: &'static str) -> Logged {
        let mirror: MirrorName = "media".parse().expect("a name");
        let (subjects, stamp) = (Subjects::new(&mirror), Timestamp::from_nanos(0));
        Logged::new(&subjects, Version::new(version), stamp, "mirror.media.a".into(), payload.into())
    }

    #[test]
    fn only_what_is_news_is_applied() {
        let removal = r#"{"v":1,"type":"removed","path":"a","node":"n","replaces":1,"detected":"2026-01-01T00:00:00Z",
            "sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}"#;
        let (event, poison) = (logged(5, removal), logged(5, "{}"));
        assert!(event.event.is_ok() && poison.event.is_err());
        for (newest, row, parked, repairing, expected) in [
            (None, None, None, false, Some(Nothing::NoEvent)),
            (None, Some(4), None, false, Some(Nothing::NoEvent)),
            (Some(&poison), None, None, false, Some(Nothing::Invalid)),
            (Some(&poison), None, Some(5), false, Some(Nothing::Invalid)),
            (Some(&event), None, None, false, None),
            (Some(&event), Some(4), None, false, None),
            (Some(&event), Some(4), None, true, None),
            (Some(&event), Some(5), None, false, Some(Nothing::Applied)),
            (Some(&event), Some(6), None, false, Some(Nothing::Applied)),
            (Some(&event), Some(5), None, true, Some(Nothing::Repairing)),
            (Some(&event), Some(4), Some(5), false, Some(Nothing::Parked)),
            (Some(&event), None, Some(4), false, None),
        ] {
            let (row, parked) = (row.map(Version::new), parked.map(Version::new));
            let facts = Facts { newest, row, parked, repairing };
            assert_eq!(nothing_to_apply(&facts), expected, "{newest:?} {row:?} {parked:?} {repairing}");
        }
    }
}
