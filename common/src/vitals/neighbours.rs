//! What the other nodes say, looked at every 5 s beside the loop: whether most of them are down, and whether this one has the same files.
//!
//! One request a look (one for each key of the bucket from a server before 2.11), and one for the broker's clock.

use super::Vitals;
use crate::{
    broker::BrokerError,
    index::Digest,
    names::NodeName,
    nodes::{Comparison, DOWN, Diverged, NodeBucket, Role, SeenRecord, Survey, compare},
    path::MediaPath,
    time::Timestamp,
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

/// How often the records are read.
const EVERY: Duration = Duration::from_secs(5);
/// After a connection was made no record is younger than the broker's absence was long: nobody is called down until all have had time to say something.
const QUIET: Duration = Duration::from_secs(DOWN.as_secs() + EVERY.as_secs());
/// What is different twice by the same amount, so far apart, is no event on its way: that would have arrived, or its node would not be ready.
const APART: Duration = Duration::from_secs(4);
/// A difference that stands after it was looked for is looked for again.
const AGAIN: Duration = Duration::from_secs(600);
/// Paths that are named.
const NAMED: usize = 20;

/// What is known of the other nodes.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    /// How many nodes are down and how many there are, when more than half are.
    pub most_down: Option<(u64, u64)>,
    /// How often most of the nodes were down and came back.
    pub returned: u64,
    /// How this node's files differ from those of the others.
    pub diverged: Option<Diverged>,
    /// How often what differs had to be looked for.
    pub to_compare: u64,
}

/// What was seen at the looks before.
#[derive(Default)]
struct Looking {
    suspected: Option<(Digest, Instant)>,
    compared: Option<Instant>,
}

/// Begins; it ends when the handle is dropped.
pub fn start(vitals: &Arc<Vitals>, bucket: NodeBucket, me: NodeName) -> AbortOnDropHandle<()> {
    let vitals = Arc::clone(vitals);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut timer = interval(EVERY);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut looking, mut connected) = (Looking::default(), None);
        loop {
            timer.tick().await;
            let epoch = vitals.epoch();
            let since = match connected {
                Some((known, since)) if Some(known) == epoch => since,
                _ => Instant::now(),
            };
            connected = epoch.map(|epoch| (epoch, since));
            if connected.is_none() {
                looking.suspected = None;
                continue;
            }
            match read(&bucket).await {
                Ok((records, now)) if since.elapsed() >= QUIET => {
                    look(&vitals, &mut looking, &records, now, &me)
                }
                Ok((records, now)) => vitals.count_processes(&Survey::of(&records, now)),
                Err(error) => tracing::debug!(%error, "the records of the nodes could not be read"),
            }
        }
    }))
}

async fn read(bucket: &NodeBucket) -> Result<(Vec<SeenRecord>, Timestamp), BrokerError> {
    let records = bucket.all().await?;
    Ok((records, bucket.now().await?))
}

fn look(vitals: &Vitals, looking: &mut Looking, records: &[SeenRecord], now: Timestamp, me: &NodeName) {
    let survey = Survey::of(records, now);
    vitals.count_processes(&survey);
    let mut known = vitals.neighbours();
    let (down, nodes) = (survey.nodes_down, survey.nodes);
    match (survey.is_most_down(), known.most_down.is_some()) {
        (true, false) => tracing::warn!(down, nodes, "most of the nodes are down; this one goes on"),
        (false, true) => {
            known.returned += 1;
            tracing::info!(down, nodes, "most of the nodes are there again; everything is compared");
        }
        _ => {}
    }
    known.most_down = survey.is_most_down().then_some((down, nodes));
    if vitals.role == Role::Replicator {
        judge(&mut known, looking, compare(records, now, me), Instant::now());
    }
    vitals.set_neighbours(known);
}

/// What a comparison means after those before it.
fn judge(known: &mut Neighbours, looking: &mut Looking, comparison: Comparison, now: Instant) {
    let (by, from) = match comparison {
        Comparison::Alone => return,
        Comparison::Equal { with } => {
            if known.diverged.take().is_some() {
                let with = names(&with);
                tracing::info!(with, "this node has the same files as the others again");
            }
            *looking = Looking::default();
            return;
        }
        Comparison::Differs { by, from } => (by, from),
    };
    match looking.suspected {
        Some((before, since)) if before == by => {
            if now.duration_since(since) < APART {
                return;
            }
        }
        _ => {
            looking.suspected = Some((by, now));
            return;
        }
    }
    if known.diverged.is_none() {
        let from_nodes = names(&from);
        tracing::error!(
            from = from_nodes,
            "this node has diverged: it has applied the same events as others and has not the same files; its index is compared with the log"
        );
    }
    let diverged = known.diverged.take();
    let began = Diverged {
        since: Timestamp::now(),
        from: Vec::new(),
        checked: None,
        differing: 0,
        paths: Vec::new(),
    };
    known.diverged = Some(Diverged { from, ..diverged.unwrap_or(began) });
    if looking.compared.is_none_or(|at| now.duration_since(at) >= AGAIN) {
        looking.compared = Some(now);
        known.to_compare += 1;
    }
}

fn names(nodes: &[NodeName]) -> String {
    nodes.iter().map(NodeName::to_string).collect::<Vec<_>>().join(", ")
}

impl Vitals {
    /// What is known of the other nodes.
    pub fn neighbours(&self) -> Neighbours {
        self.neighbours.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// What was looked for because this node has diverged, and was found.
    pub fn compared(&self, differing: &[MediaPath]) {
        let mut known = self.neighbours.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(diverged) = &mut known.diverged {
            diverged.checked = Some(Timestamp::now());
            diverged.differing = differing.len() as u64;
            diverged.paths = differing.iter().take(NAMED).map(ToString::to_string).collect();
        }
    }

    /// Of what the loop does meanwhile nothing is lost: it changes only what was found.
    fn set_neighbours(&self, new: Neighbours) {
        let mut known = self.neighbours.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = known.diverged.take();
        *known = new;
        if let (Some(diverged), Some(found)) = (&mut known.diverged, found) {
            (diverged.checked, diverged.differing, diverged.paths) =
                (found.checked, found.differing, found.paths);
        }
        self.metrics.gauges.digest_match.set(i64::from(known.diverged.is_none()));
    }

    fn count_processes(&self, survey: &Survey) {
        self.metrics.set_nodes(survey.processes_up, survey.processes_down);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs(path: &str) -> Comparison {
        let mut by = Digest::default();
        by.add(&path.parse().expect("a path"), crate::hash::ContentHash::of_nothing());
        Comparison::Differs { by, from: vec!["b".parse().expect("a name")] }
    }

    struct Node {
        known: Neighbours,
        looking: Looking,
        began: Instant,
    }

    impl Node {
        fn sees(&mut self, seconds: u64, comparison: Comparison) -> (bool, u64) {
            let now = self.began + Duration::from_secs(seconds);
            judge(&mut self.known, &mut self.looking, comparison, now);
            (self.known.diverged.is_some(), self.known.to_compare)
        }
    }

    #[test]
    fn what_differs_by_the_same_twice_has_diverged_until_it_is_equal() {
        let mut node =
            Node { known: Neighbours::default(), looking: Looking::default(), began: Instant::now() };
        let equal = || Comparison::Equal { with: Vec::new() };
        // Two events on their way are not one that stays.
        for (seconds, comparison, expected) in [
            (0, differs("x"), (false, 0)),
            (5, differs("y"), (false, 0)),
            (10, equal(), (false, 0)),
            (15, differs("x"), (false, 0)),
            (16, differs("x"), (false, 0)),
            (20, Comparison::Alone, (false, 0)),
            (25, differs("x"), (true, 1)),
            (30, differs("x"), (true, 1)),
            (35, Comparison::Alone, (true, 1)),
            (624, differs("x"), (true, 1)),
            (625, differs("x"), (true, 2)),
            (630, equal(), (false, 2)),
            (635, differs("x"), (false, 2)),
            (640, differs("x"), (true, 3)),
        ] {
            assert_eq!(node.sees(seconds, comparison.clone()), expected, "{seconds} {comparison:?}");
        }
    }
}
