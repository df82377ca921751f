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
mod rules_on_disk;
mod sim;
mod trial;
mod users;
mod watcher;
mod world;

use std::env;

/// Seeds in an ordinary test run: some ten seconds of one core, with optimisation and without.
const SEEDS: u64 = if cfg!(debug_assertions) { 300 } else { 2000 };

fn setting(name: &str, default: u64) -> u64 {
    env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn no_interleaving_loses_a_file_or_brings_one_back() {
    let (start, seeds) = (setting("MEDIAMIRROR_SIM_START", 0), setting("MEDIAMIRROR_SIM_SEEDS", SEEDS));
    let mut failed = Vec::new();
    for seed in start..start + seeds {
        let ops = trial::draw(seed);
        if let (Some(failure), _) = trial::play(&ops) {
            failed.push((seed, failure));
        }
    }
    let Some((seed, failure)) = failed.first() else { return };
    let ops = trial::shrink(trial::draw(*seed), failure);
    let (shrunk, trace) = trial::play(&ops);
    let list: Vec<String> = ops.iter().map(|op| format!("{op:?}")).collect();
    panic!(
        "{} of {seeds} seeds fail; the first is {seed}: {failure}\n\nshrunk to {} operations: {}\n{}\n\n{}\n\nreplay it with\n    \
         MEDIAMIRROR_SIM_START={seed} MEDIAMIRROR_SIM_SEEDS=1 cargo test --release -p mediamirror-e2e --test simulation no_interleaving",
        failed.len(),
        ops.len(),
        shrunk.unwrap_or_default(),
        list.join("\n"),
        trace.join("\n"),
    );
}
