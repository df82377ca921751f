//! What the loop tells of itself, beside its record.

use super::Service;
use crate::{apply::Outcome, check::Check};
use common::{
    blobs::BlobStore,
    log::EventLog,
    nodes::Progress,
    vitals::{Direction, Turn},
};

impl<L: EventLog, B: BlobStore> Service<L, B> {
    /// At each turn. Returns what the record is to say.
    pub(super) fn tell(&self, progress: Progress) -> Progress {
        let node = &self.node;
        let queues = [
            ("fresh", self.fresh.len()),
            ("again", self.again.len()),
            ("work", self.work.len()),
            ("resting", self.pauses.len()),
        ];
        queues.into_iter().for_each(|(queue, depth)| node.vitals.metrics.set_queue(queue, depth));
        let turn = Turn {
            progress,
            session: self.session.is_some(),
            no_room: self.room.reason().is_some(),
            work: self.pending() > 0,
            long: self.check.as_ref().map(Check::long),
            oldest: self.taken.first_key_value().map(|(_, taken)| *taken),
        };
        node.vitals.turn(&node.index, &node.root, turn)
    }

    /// An event was applied, so many seconds after its change was noticed.
    pub(super) fn count(&self, outcome: Outcome, latency: f64) {
        let vitals = &self.node.vitals;
        match outcome {
            Outcome::Placed { .. } => vitals.placed(latency),
            Outcome::Removed => vitals.metrics.removed(Direction::In),
            _ => {}
        }
    }
}
