//! A trial: what users do and what fails, drawn from a seed, with steps of the processes in between. Each operation brings its own seed for the steps
//! before it, so that leaving operations out (shrinking) leaves the rest of the schedule mostly as it was.

use crate::{
    check,
    process::Role,
    sim::Sim,
    world::{NODES, PATHS},
};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

/// What happens between steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// New content under a new inode.
    Write,
    /// New content in the same inode.
    WriteInPlace,
    /// The same bytes under a new inode.
    WriteAgain,
    Remove,
    /// A rename to the other path.
    Move,
    /// A writer that still holds what was exchanged out.
    LateWrite,
    /// Somebody reads the path over HTTP: its newest event is applied out of turn.
    Read,
    Kill,
    Away,
    Back,
    RollBack,
    Wipe,
    BlobLost,
    Copy,
    IndexLost,
    IndexRestored,
    RootRestored,
    BothRestored,
    /// The log loses its oldest events.
    Trim,
    ConsumersDeleted,
    /// Two minutes pass: the broker tells no duplicates any more.
    Later,
    /// More is removed and replaced than rule 8 lets pass.
    Bulk,
    Approve,
    Revert,
    Rot,
    Verify,
}

/// One operation of a trial.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub act: Act,
    pub node: usize,
    pub path: &'static str,
    /// Steps of the processes before it.
    pub gap: u32,
    pub seed: u64,
}

/// What may fail in a trial, each family with the probability below.
const FAMILIES: usize = 9;
const FAMILY: f64 = 0.3;

/// The operations of a seed.
pub fn draw(seed: u64) -> Vec<Op> {
    use Act::*;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut faults = Vec::new();
    for family in 0..FAMILIES {
        if !rng.random_bool(FAMILY) {
            continue;
        }
        let first = rng.random_bool(0.5);
        match family {
            0 => faults.extend([Kill; 5]),
            1 => faults.extend([Away, Back]),
            2 => faults.push(BlobLost),
            3 => faults.extend([if first { RollBack } else { Wipe }, Later]),
            4 => faults.extend([Copy, Copy, if first { IndexLost } else { IndexRestored }]),
            5 => faults.extend([Copy, Copy, if first { RootRestored } else { BothRestored }]),
            6 => faults.push(if first { Trim } else { ConsumersDeleted }),
            7 => faults.extend([Bulk, Bulk, if first { Approve } else { Revert }]),
            _ => faults.extend([Verify, Rot]),
        }
    }
    if [Rot, RootRestored, BothRestored].iter().any(|fault| faults.contains(fault)) {
        faults.retain(|fault| *fault != BlobLost); // Together they may leave nobody who has the content.
    }
    let mut acts = vec![Write; 5];
    acts.extend([
        WriteInPlace,
        WriteInPlace,
        Remove,
        Remove,
        Remove,
        WriteAgain,
        WriteAgain,
        Move,
        LateWrite,
        Read,
        Read,
    ]);
    acts.extend(&faults);
    let mut ops: Vec<Op> = Vec::new();
    for _ in 0..rng.random_range(3..=12) {
        let of = if rng.random_bool(0.7) || faults.is_empty() { &acts } else { &faults };
        let act = *of.choose(&mut rng).unwrap_or(&Write);
        let once =
            matches!(act, RollBack | Wipe | Trim | IndexLost | IndexRestored | RootRestored | BothRestored);
        if once && ops.iter().any(|op| op.act == act) {
            continue;
        }
        let gap = *[0, 1, 3, 8, 20, 60, 150].choose(&mut rng).unwrap_or(&0);
        let path = PATHS.choose(&mut rng).unwrap_or(&PATHS[0]);
        ops.push(Op { act, node: rng.random_range(0..NODES), path, gap, seed: rng.random() });
        if act == Away {
            let gap = if rng.random_bool(0.5) { 5 } else { 40 };
            ops.push(Op { act: Back, node: 0, path: PATHS[0], gap, seed: rng.random() });
        }
    }
    ops
}

/// Plays the operations, lets everything settle, and checks. What went wrong, and the trace.
pub fn play(ops: &[Op]) -> (Option<String>, Vec<String>) {
    let mut sim = Sim::new();
    for op in ops {
        let mut rng = SmallRng::seed_from_u64(op.seed);
        let weights = [(); NODES * 2].map(|()| *[0.01, 1.0, 1.0, 4.0].choose(&mut rng).unwrap_or(&1.0));
        sim.world().rng = SmallRng::seed_from_u64(op.seed + 1);
        for _ in 0..op.gap {
            sim.random_step(&mut rng, &weights, false);
        }
        sim.world().note(format!("== {:?} n{} {}", op.act, op.node, op.path));
        act(&mut sim, op, &mut rng);
    }
    sim.settle();
    check::all(&sim);
    let mut world = sim.world();
    (world.failure.take(), std::mem::take(&mut world.trace))
}

fn act(sim: &mut Sim, op: &Op, rng: &mut SmallRng) {
    match op.act {
        Act::Write => _ = sim.write(op.node, op.path),
        Act::WriteInPlace => sim.write_in_place(op.node, op.path),
        Act::WriteAgain => sim.write_again(op.node, op.path),
        Act::Remove => sim.remove(op.node, op.path),
        Act::Move => sim.rename(op.node, op.path, if op.path == PATHS[0] { PATHS[1] } else { PATHS[0] }),
        Act::LateWrite => sim.late_write(op.node, rng),
        Act::Read => sim.world().nodes[op.node].read = Some(crate::world::path(op.path)),
        Act::Kill => sim.kill(op.node, *Role::ALL.choose(rng).unwrap_or(&Role::Watcher)),
        Act::Away => sim.world().set_up(false),
        Act::Back => sim.world().set_up(true),
        Act::RollBack => sim.world().roll_back(rng.random_range(1..=3)),
        Act::Wipe => sim.world().wipe(),
        Act::BlobLost => {
            let mut world = sim.world();
            let blobs: Vec<_> = world.blobs.iter().copied().collect();
            if let Some(lost) = blobs.choose(rng) {
                world.blobs.remove(lost);
                let said = format!("   {}", world.name(*lost));
                world.note(said);
            }
        }
        Act::Copy => sim.copy_node(op.node),
        Act::IndexLost => sim.restore_index(op.node, false),
        Act::IndexRestored => sim.restore_index(op.node, true),
        Act::RootRestored => {
            sim.restore_root(op.node);
            // Stands for the number that was raised since the copy was made: a restored root is always noticed.
            sim.world().nodes[op.node].disk.number = 0;
        }
        Act::Trim => sim.world().trim(rng.random_range(1..=3)),
        Act::ConsumersDeleted => sim.world().log.delete_consumers(),
        Act::Later => sim.world().log.forget_duplicates(),
        Act::Bulk => sim.world().nodes[op.node].bulk = true,
        Act::Approve => sim.answer_held(op.node, true),
        Act::Revert => sim.answer_held(op.node, false),
        Act::Rot => sim.rot(op.node, op.path),
        Act::Verify => sim.verify(op.node),
        Act::BothRestored => {
            sim.restore_root(op.node);
            sim.restore_index(op.node, true);
        }
    }
}

/// The kind of a failure: its first words, which do not name what is different in each trial.
fn class(failure: &str) -> &str {
    failure.split(':').next().unwrap_or(failure)
}

/// Leaves out operations and steps as long as it still fails in the same way.
pub fn shrink(mut ops: Vec<Op>, failure: &str) -> Vec<Op> {
    loop {
        let shorter = (0..ops.len()).flat_map(|n| {
            let mut without = ops.clone();
            without.remove(n);
            let sooner = [0, 8, 60].into_iter().filter(|gap| *gap < ops[n].gap).map(|gap| {
                let mut sooner = ops.clone();
                sooner[n].gap = gap;
                sooner
            });
            std::iter::once(without).chain(sooner.collect::<Vec<_>>())
        });
        let found =
            shorter.into_iter().find(|ops| play(ops).0.is_some_and(|found| class(&found) == class(failure)));
        match found {
            Some(found) => ops = found,
            None => return ops,
        }
    }
}
