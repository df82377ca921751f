//! What operators do, and what disks do by themselves.

use crate::{
    disk::File,
    sim::Sim,
    world::{Node, PATHS, World, now, path},
};
use ::replicator::{
    plan::OnDisk,
    verify::facts::{Blob, Difference, Facts, Found, Last, Repair, judge},
};
use common::{index::HeldKind, log::EventLog, path::MediaPath};

impl Sim {
    /// `watcher approve`, or with `--revert`. Whatever put it beyond the limit is over.
    pub fn answer_held(&mut self, node: usize, approve: bool) {
        let mut world = self.world();
        let node = &mut world.nodes[node];
        node.bulk = false;
        let answered = node.index.write(move |tx| if approve { tx.approve_held() } else { tx.revert_held() });
        now(answered).expect("an index in memory");
    }

    /// `replicator verify --repair`, as far as nobody is at work on a path.
    pub fn verify(&mut self, node: usize) {
        for at in PATHS.map(path) {
            let Some(found) = differences(&self.world(), node, &at) else { continue };
            self.world().note(format!("   {at}: {found:?}"));
            let index = self.world().nodes[node].index.clone();
            let asked = index.write(move |tx| {
                found.iter().try_for_each(|difference| match difference.repair() {
                    Repair::Fetch => tx.repair(&at),
                    Repair::Retry => tx.retry_parked(Some(&at)).map(drop),
                    Repair::AskWatcher => tx.ask_watcher(&at),
                    // Every replicator asks for what it needs; that of others is tried end to end.
                    Repair::Want | Repair::Nothing => Ok(()),
                })
            });
            now(asked).expect("an index in memory");
        }
    }

    /// The bytes of a file that the index knows change, and its stat does not; the scrub finds it.
    pub fn rot(&mut self, node: usize, at: &str) {
        let at = path(at);
        let rotten = self.world().new_content();
        let mut world = self.world();
        let index = world.nodes[node].index.clone();
        let row = index.path_state(&at).expect("the index").row;
        let Some(file) = world.nodes[node].disk.tree.get_mut(&at) else { return };
        let File { content, stat } = *file;
        if !row.is_some_and(|row| row.stat == Some(stat) && row.content() == Some(content)) {
            return;
        }
        file.content = rotten;
        world.past.rotten.insert(rotten);
        world.past.dropped.insert(content);
        let said = format!("   {at} = {}", world.name(rotten));
        world.note(said);
        now(index.write(move |tx| tx.repair(&at))).expect("an index in memory");
    }
}

/// What `verify` says of a path that nobody is at work on; `None`: nothing.
pub fn differences(world: &World, node: usize, at: &MediaPath) -> Option<Vec<Difference>> {
    // `Checker::look`.
    let Node { index, disk, .. } = &world.nodes[node];
    let state = index.path_state(at).expect("the index");
    let event =
        now(world.log.last(at)).ok().flatten().map(|last| (last.version, last.event.expect("an event")));
    let last = match &event {
        None => Last::Nothing,
        Some((version, event)) => {
            Last::Event { kind: event.kind(), content: event.sha256, version: *version }
        }
    };
    let stored =
        |(_, event): &(_, common::event::Event)| event.added.is_none() || world.blobs.contains(&event.sha256);
    let facts = Facts {
        last,
        found: Found::Disk(
            disk.tree.get(at).map_or(OnDisk::Absent, |file| OnDisk::File(file.content, file.stat)),
        ),
        blob: if event.as_ref().is_none_or(stored) { Blob::Whole } else { Blob::Missing },
        row: state.row,
        generation: index.node().expect("the index").generation,
        parked: index.parked_of(at).expect("the index").map(|parked| parked.reason),
        held: index.held_answer(at, HeldKind::Removal).expect("the index").is_some(),
        ignored: false,
    };
    let at_work =
        state.offer.is_some() || state.intent.is_some() || index.awaits_repair(at).expect("the index");
    let found = judge(&facts);
    (!found.is_empty() && !at_work).then_some(found)
}
