//! The rules of apply and publish, played at random: the real decisions (`watcher::look`, `common::trust`, `common::known`; `plan`, `tracker`, `check`, `hold`, `repair`
//! and `verify` of the replicator), the real transactions of the index, in memory, and the in-memory log; only disks, blobs and the services' loops are stood in for.
//! No disk, no network, no clock, no threads: a seed always plays the same, and a thousand take seconds.
//!
//! `MEDIAMIRROR_SIM_SEEDS` and `MEDIAMIRROR_SIM_START` choose the seeds of the random test.
#![allow(clippy::unwrap_used)]

mod apply;
mod check;
mod disk;
mod offer;
mod operators;
mod process;
mod repair;
mod replicator;
mod rules;
mod rules_after_losses;
mod rules_on_disk;
mod sim;
mod trial;
mod users;
mod watcher;
mod world;

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

/// Seeds in an ordinary test run: some twenty seconds of two cores, with optimisation and without.
const SEEDS: u64 = if cfg!(debug_assertions) { 400 } else { 4000 };
/// Trials played at once.
const PLAYERS: usize = 2;

/// Failing seeds that are named besides the first.
const NAMED: usize = 20;

fn setting(name: &str, default: u64) -> u64 {
    env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn no_interleaving_loses_a_file_or_brings_one_back() {
    let (start, seeds) = (setting("MEDIAMIRROR_SIM_START", 0), setting("MEDIAMIRROR_SIM_SEEDS", SEEDS));
    let next = AtomicU64::new(start);
    let play = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= start + seeds {
                return failed;
            }
            failed.extend(trial::play(&trial::draw(seed)).0.map(|failure| (seed, failure)));
        }
    };
    let mut failed: Vec<(u64, String)> = thread::scope(|scope| {
        let players: Vec<_> = (0..PLAYERS).map(|_| scope.spawn(play)).collect();
        players.into_iter().flat_map(|player| player.join().unwrap()).collect()
    });
    failed.sort();
    let Some((seed, failure)) = failed.first() else { return };
    let ops = trial::shrink(trial::draw(*seed), failure);
    let (shrunk, trace) = trial::play(&ops);
    let list: Vec<String> = ops.iter().map(|op| format!("{op:?}")).collect();
    let others: Vec<String> =
        failed.iter().skip(1).take(NAMED).map(|(seed, failure)| format!("{seed}: {failure}")).collect();
    panic!(
        "{} of {seeds} seeds fail; the first is {seed}: {failure}\nothers: {}\n\nshrunk to {} operations: {}\n{}\n\n{}\n\nreplay it with\n    \
         MEDIAMIRROR_SIM_START={seed} MEDIAMIRROR_SIM_SEEDS=1 cargo test --release -p mediamirror-e2e --test simulation no_interleaving",
        failed.len(),
        others.join("; "),
        ops.len(),
        shrunk.unwrap_or_default(),
        list.join("\n"),
        trace.join("\n"),
    );
}
