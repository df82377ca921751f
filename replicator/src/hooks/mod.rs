//! `--on-change CMD`: a command of the operator is told what changed in the tree of this node, for purging a cache, or changing owners.
//!
//! What changed is recorded in the index with the row of its path, in the same transaction, and forgotten when a command that was told of it has ended well. So
//! it is told at least once, whatever kills either, in order for each path, and placing never waits for it: what cannot be told is a backlog on the disk.
//!
//! Costs: one command at a time, with at most [`BATCH`] lines in memory; a look at the index every 200 ms.

mod command;

pub use command::maybe_run;

use backon::{BackoffBuilder, ExponentialBuilder};
use base64::{Engine, prelude::BASE64_STANDARD};
use command::{Ended, Place};
use common::{
    error_chain,
    event::Kind,
    index::{Change, Index, IndexError},
    names::NodeName,
    resolve::blocking,
    settings::{HookSettings, Settings},
    startup::Local,
    troubles::Troubles,
    vitals::Vitals,
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Lines that a command gets at most: 300 KiB or so.
const BATCH: usize = 1000;
/// How often it is looked whether something changed.
const LOOK: Duration = Duration::from_millis(200);
/// Until a command that failed is run again: the first time, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Begins. The handle ends when the process was told to stop, and with it the command.
pub fn start(
    settings: &Settings,
    hook: Option<HookSettings>,
    local: &Local,
    vitals: &Arc<Vitals>,
    stop: &CancellationToken,
) -> AbortOnDropHandle<()> {
    let place = Place {
        root: local.root.path().into(),
        mirror: settings.mirror.clone(),
        node: settings.node.clone(),
    };
    let teller = Teller {
        index: local.index.clone(),
        vitals: Arc::clone(vitals),
        place,
        stop: stop.clone(),
        troubles: Troubles::default(),
    };
    AbortOnDropHandle::new(tokio::spawn(teller.run(hook)))
}

/// Waits until the command was ended, once the process was told to stop or ends for another reason.
pub async fn end(handle: AbortOnDropHandle<()>, stop: &CancellationToken) {
    stop.cancel();
    let _ = handle.await;
}

struct Teller {
    index: Index,
    vitals: Arc<Vitals>,
    place: Place,
    stop: CancellationToken,
    troubles: Troubles,
}

impl Teller {
    async fn run(mut self, hook: Option<HookSettings>) {
        while let Err(error) = self.record(hook.is_some()).await {
            // A full disk, for one: the loop says so, and waits for it, too.
            self.troubles.say(&error_chain(&error));
            self.rest(RETRY.0).await;
        }
        let Some(hook) = hook else { return };
        while !self.stop.is_cancelled() {
            if let Err(error) = self.tell_all(&hook).await {
                self.troubles.say(&error_chain(&error));
            }
            self.rest(LOOK).await;
        }
    }

    /// Has changes recorded, or no longer.
    async fn record(&self, on: bool) -> Result<(), IndexError> {
        if self.index.records_changes()? != on {
            self.index.write(move |tx| tx.record_changes(on)).await?;
        }
        Ok(())
    }

    /// Tells until nothing is left to tell. A command that fails is run again, with the same changes first.
    async fn tell_all(&mut self, hook: &HookSettings) -> Result<(), IndexError> {
        let mut pauses = pauses();
        while let Some(changes) = self.next().await?
            && !self.stop.is_cancelled()
        {
            let (began, lines) = (Instant::now(), lines(&changes, &self.place.node));
            let ended = command::run(hook, &self.place, lines, &self.stop).await;
            let metrics = &self.vitals.metrics;
            metrics.hook_ran(ended.as_str(), began.elapsed());
            let failed = match ended {
                Ended::Done => {
                    self.vitals.hook.works();
                    pauses = self::pauses();
                    let last = changes.last().map_or(0, |change| change.id);
                    self.index.write(move |tx| tx.forget_changes(last)).await?;
                    continue;
                }
                Ended::Stopped => return Ok(()),
                Ended::Failed(why) => why,
                Ended::TimedOut => format!("it took longer than {} s", hook.timeout.as_secs_f64()),
            };
            self.vitals.hook.fails(began);
            self.troubles.say(&format!("the command of --on-change failed: {failed}"));
            self.rest(pauses.next().unwrap_or(RETRY.1)).await;
        }
        Ok(())
    }

    async fn next(&self) -> Result<Option<Vec<Change>>, IndexError> {
        let index = self.index.clone();
        let looked = blocking(move || {
            let changes = index.changes(BATCH)?;
            let waiting = match changes.len() {
                BATCH => index.changes_count()?,
                few => few as u64,
            };
            Ok::<_, IndexError>((changes, waiting))
        });
        let (changes, waiting) = looked.await?;
        self.vitals.metrics.set_hook_waiting(waiting);
        Ok(Some(changes).filter(|changes| !changes.is_empty()))
    }

    async fn rest(&self, time: Duration) {
        tokio::select! {
            () = sleep(time) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::new().with_min_delay(RETRY.0).with_max_delay(RETRY.1).without_max_times().build()
}

/// One JSON object a line.
fn lines(changes: &[Change], node: &NodeName) -> Vec<u8> {
    changes.iter().fold(Vec::new(), |mut lines, change| {
        lines.extend_from_slice(line(change, node).as_bytes());
        lines.push(b'\n');
        lines
    })
}

fn line(change: &Change, node: &NodeName) -> String {
    let Change { path, kind, sha256, size, version, generation, .. } = change;
    let kind = match kind {
        Kind::Added => "added",
        Kind::Removed => "removed",
    };
    let mut line = json!({
        "type": kind, "path": String::from_utf8_lossy(path.as_bytes()), "sha256": sha256, "size": size,
        "version": version, "generation": generation.0, "node": node.as_str(),
    });
    if path.as_utf8().is_none() {
        line["path_b64"] = BASE64_STANDARD.encode(path.as_bytes()).into();
    }
    line.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::{event::Version, hash::ContentHash, index::Generation, path::MediaPath};

    #[test]
    fn a_line_is_one_object_whatever_is_in_a_name() {
        let change = |path: &[u8]| Change {
            id: 1,
            path: MediaPath::new(path).expect("a path"),
            kind: Kind::Removed,
            sha256: ContentHash::of_nothing(),
            size: 3,
            version: Version::new(7),
            generation: Generation(2),
        };
        let lines = lines(&[change(b"a\n\"b"), change(b"caf\xe9")], &"web-1".parse().expect("a name"));
        let lines = String::from_utf8(lines).expect("text");
        let lines: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        let expected = json!({
            "type": "removed", "path": "a\n\"b", "sha256": ContentHash::of_nothing(), "size": 3, "version": 7,
            "generation": 2, "node": "web-1",
        });
        assert_eq!(lines[0], expected);
        assert_eq!((&lines[1]["path"], &lines[1]["path_b64"]), (&json!("caf\u{fffd}"), &json!("Y2Fm6Q==")));
    }
}
