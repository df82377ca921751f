//! What must hold once everything is quiet.

use crate::{
    operators::differences,
    sim::Sim,
    world::{PATHS, World, now, path},
};
use ::replicator::verify::facts::Repair;
use common::{
    event::Kind,
    hash::ContentHash,
    index::{Digest, RowState},
    log::EventLog,
    path::MediaPath,
    trust,
};
use std::collections::{BTreeMap, BTreeSet};

/// All checks; the first that fails is kept.
pub fn all(sim: &Sim) {
    let mut world = sim.world();
    let expected = fold(&world);
    nodes_equal_the_log(&mut world, &expected);
    verify_agrees(&mut world, &expected);
    nothing_is_lost(&mut world);
}

/// What the log says of each path: present with this content, absent, or (left out) present with content that nobody holds any more.
fn fold(world: &World) -> BTreeMap<MediaPath, Option<ContentHash>> {
    let mut fold = BTreeMap::new();
    for at in PATHS.map(path) {
        let last = now(world.log.last(&at)).expect("the log is there");
        let content = last.and_then(|last| {
            let event = last.event.ok()?;
            (event.kind() == Kind::Added).then_some(event.sha256)
        });
        let held = |content| {
            world.blobs.contains(&content)
                || world.nodes.iter().any(|node| node.disk.tree.values().any(|file| file.content == content))
        };
        if content.is_none_or(held) {
            fold.insert(at, content);
        }
    }
    fold
}

fn nodes_equal_the_log(world: &mut World, expected: &BTreeMap<MediaPath, Option<ContentHash>>) {
    let mut digest = Digest::default();
    for (at, content) in expected {
        content.iter().for_each(|content| digest.add(at, *content));
    }
    let mut wrong = Vec::new();
    for (n, node) in world.nodes.iter().enumerate() {
        let state = node.index.node().expect("the index");
        for (at, content) in expected {
            let disk = node.disk.tree.get(at).map(|file| file.content);
            let row = node.index.path_state(at).expect("the index").row;
            let row = row.filter(|row| row.generation == state.generation && row.state == RowState::Present);
            let row = row.and_then(|row| row.sha256);
            let name =
                |content: Option<ContentHash>| content.map_or("nothing", |content| world.name(content));
            if disk != *content {
                wrong.push(format!("disk: n{n} {at} has {}, the log {}", name(disk), name(*content)));
            }
            if row != *content {
                wrong.push(format!("row: n{n} {at} says {}, the log {}", name(row), name(*content)));
            }
        }
        if wrong.is_empty() && expected.len() == PATHS.len() && state.digest != digest {
            wrong.push(format!("digest: n{n} has another than its rows"));
        }
        if expected.len() == PATHS.len() && node.index.parked_count().expect("the index") > 0 {
            wrong.push(format!("parked: n{n} keeps an event parked though nothing is missing"));
        }
    }
    wrong.into_iter().for_each(|wrong| world.fail(wrong));
}

/// `verify` finds no difference, and neither process would distrust the log if it looked at it now.
fn verify_agrees(world: &mut World, expected: &BTreeMap<MediaPath, Option<ContentHash>>) {
    let mut wrong = Vec::new();
    for (n, node) in world.nodes.iter().enumerate() {
        let state = node.index.node().expect("the index");
        let verdict = now(trust::verdict(&world.log, &node.index, &state)).expect("the log is there").1;
        wrong.extend(verdict.map(|why| format!("verify: n{n} says that {why}")));
        for at in expected.keys() {
            // A blob that nobody needs now is asked for when somebody does, or when a check asks.
            let found = differences(world, n, at)
                .filter(|found| found.iter().any(|difference| difference.repair() != Repair::Want));
            wrong.extend(found.map(|found| format!("verify: n{n} says of {at}: {found:?}")));
        }
    }
    wrong.into_iter().for_each(|wrong| world.fail(wrong));
}

/// Every content a user wrote is on a disk, or kept as a lost conflict, unless a user replaced or removed it.
fn nothing_is_lost(world: &mut World) {
    let mut kept = BTreeSet::new();
    for node in &world.nodes {
        kept.extend(node.disk.tree.values().map(|file| file.content));
        for (id, file) in &node.disk.trash {
            // What the index does not list is never dropped.
            if node.index.trashed(id).expect("the index").is_none_or(|entry| entry.lost) {
                kept.insert(file.content);
            }
        }
    }
    let past = &world.past;
    let mut gone = Vec::new();
    for written in &past.written {
        let content = written.content;
        let restored_over =
            past.overwritten.contains(&content) && !past.at_restore.values().any(|said| *said == content);
        if kept.contains(&content) || past.dropped.contains(&content) || restored_over {
            continue;
        }
        // The same bytes written twice and replaced by an addition: the log's history has them.
        let replaced = |at: &MediaPath| {
            past.all
                .iter()
                .any(|event| event.path == *at && event.kind == Kind::Added && event.sha256 != content)
        };
        let twice = past.rewritten.iter().any(|(at, again)| *again == content && replaced(at));
        let often = past.written.iter().filter(|other| other.content == content).count() > 2;
        if !twice && !often {
            gone.push(format!("lost: {} of n{} {}", world.name(content), written.node, written.path));
        }
    }
    gone.into_iter().for_each(|gone| world.fail(gone));
}
