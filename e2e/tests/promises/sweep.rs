//! The crash-point sweep: a process is killed at one system call of publishing, placing or committing, started again, and all is as if
//! nothing had been. Each case is one call, the n-th in some thread, while a few files come: a new one, a replaced one, a removed one, and a
//! large one in a new folder.

use e2e::{
    Fault, Injection, LONG, Mirror, Node, Reader, Role, SOON, Trace, Tree, Writer, content, kill_traced,
    wait_for, wait_until, write,
};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    os::unix::process::ExitStatusExt,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

/// Calls of a replicator that end it in turn.
const REPLICATOR: [&str; 13] = [
    "openat",
    "openat2",
    "write",
    "writev",
    "pwrite64",
    "fsync",
    "ftruncate",
    "renameat2",
    "unlinkat",
    "mkdirat",
    "fchown",
    "fchmod",
    "utimensat",
];
/// Calls of a watcher that end it in turn.
const WATCHER: [&str; 9] =
    ["openat", "openat2", "read", "write", "writev", "pwrite64", "fsync", "ftruncate", "inotify_add_watch"];
/// Sweeps side by side.
const LANES: usize = 3;
/// How long the sample of a commit goes on.
const SAMPLE: Duration = Duration::from_secs(50);
/// The highest occurrence that strace takes; no run reaches it.
const NEVER: u32 = 65_535;

/// A path with what stood there before and what stands there after.
struct Change {
    path: String,
    old: Option<Vec<u8>>,
    new: Option<Vec<u8>>,
}

fn batch(round: usize) -> Vec<Change> {
    let small = |name: &str, round: usize| content(&format!("{name} {round}"), 3_000 + round);
    let earlier = |name: &str| round.checked_sub(1).map(|before| small(name, before));
    let large = |round: usize| content(&format!("large {round}"), 300_000);
    let mut changes = vec![
        Change { path: format!("new-{round}"), old: None, new: Some(small("new", round)) },
        Change { path: "replaced".into(), old: earlier("replaced"), new: Some(small("replaced", round)) },
        Change { path: format!("folder-{round}/deep/large"), old: None, new: Some(large(round)) },
    ];
    if let Some(before) = round.checked_sub(1) {
        changes.push(Change { path: format!("new-{before}"), old: earlier("new"), new: None });
        let path = format!("folder-{before}/deep/large");
        changes.push(Change { path, old: Some(large(before)), new: None });
    }
    changes
}

/// One mirror on which cases follow each other.
struct Lane {
    mirror: Mirror,
    writer: Writer,
    reader: Reader,
    victim: (usize, Role),
    round: usize,
    expected: Tree,
    outdated: Vec<(String, Vec<u8>)>,
}

impl Lane {
    fn new(role: Role) -> Self {
        let mut mirror = Mirror::running(&["a", "b"]);
        let victim = match role {
            Role::Watcher => (0, Role::Watcher),
            Role::Replicator => (1, Role::Replicator),
        };
        let (writer, reader) = (Writer::connect(&mirror.broker.url()), Reader::of(&mirror.nodes[1].root));
        let (expected, outdated) = (Tree::default(), Vec::new());
        mirror.wait_ready();
        let mut lane = Self { mirror, writer, reader, victim, round: 0, expected, outdated };
        lane.change();
        lane.mirror.wait_agreed(SOON);
        lane.stop();
        lane
    }

    fn stop(&mut self) {
        assert_eq!(self.mirror.nodes[self.victim.0].stop(self.victim.1).code(), Some(0));
    }

    /// Makes the next changes: in the root of the watcher that is the victim, else in the log.
    fn change(&mut self) {
        for Change { path, old, new } in batch(self.round) {
            if let Some(new) = &new {
                let sha256 = common::hash::ContentHash::of(new).to_string();
                self.reader.may_see(&path, &sha256);
                self.expected.0.insert(path.clone().into(), sha256);
            } else {
                self.expected.0.remove(path.as_bytes());
            }
            let file = self.mirror.nodes[0].path(&path);
            match (self.victim.1, &old, &new) {
                (Role::Watcher, _, Some(new)) => write(&file, new),
                (Role::Watcher, _, None) => fs::remove_file(&file).unwrap(),
                (Role::Replicator, _, Some(new)) => _ = self.writer.add(&path, new),
                (Role::Replicator, Some(old), None) => _ = self.writer.remove(&path, old),
                (Role::Replicator, None, None) => unreachable!("a change from nothing to nothing"),
            }
            self.outdated.extend(old.map(|old| (path, old)));
        }
        if let Some(empty) = self.round.checked_sub(2) {
            // Every empty folder that stays is more calls in the next case, and there would be no last one.
            for node in &self.mirror.nodes {
                let folder = node.path(format!("folder-{empty}"));
                fs::remove_dir(folder.join("deep")).and_then(|()| fs::remove_dir(folder)).unwrap();
            }
        }
        self.round += 1;
    }

    /// Whether all of it is everywhere.
    fn done(&mut self) -> bool {
        let at_end = |node: &Node| {
            Tree::sizes(&node.root).0.len() == self.expected.0.len() && Tree::of(&node.root) == self.expected
        };
        self.mirror.nodes.iter().all(at_end) && self.mirror.log_tree() == self.expected
    }

    /// A process opens some hundred files of the system before its first of ours.
    fn trace(&self, call: &str) -> Trace {
        let trace = Trace::at(self.mirror.dir().join("trace"));
        let node = &self.mirror.nodes[self.victim.0];
        match call {
            "openat" => trace
                .only(node.path(".mirror/tmp"))
                .only(node.path(".mirror"))
                .only(node.state().join("index.db")),
            _ => trace,
        }
    }

    /// One case. Says whether the process got as far as this call, and if not, how often it made each call in one thread.
    fn case(
        &mut self,
        call: &str,
        nth: u32,
        calls: &[&str],
        one_at_a_time: bool,
    ) -> Result<(), BTreeMap<String, u32>> {
        let (node, role) = self.victim;
        let trace = self.trace(call);
        if role == Role::Replicator {
            self.change();
        }
        let mut command = self.mirror.nodes[node].command(role, ["run"]);
        if one_at_a_time {
            command.args(["--transfers", "1"]);
        }
        let traced = trace.command(&command, calls, &[Injection::new(call, Fault::Kill, nth)]);
        let name = self.mirror.nodes[node].name.clone();
        let boot = |mirror: &mut Mirror| {
            mirror.nats().record(&name, role).map(|r| (r["boot"].clone(), r["state"].clone()))
        };
        let before = boot(&mut self.mirror);
        self.mirror.nodes[node].start_as(role, traced);
        if role == Role::Watcher {
            wait_until(LONG, "a watcher that is ready, or killed", || {
                let now = boot(&mut self.mirror);
                let ready = now.as_ref().is_some_and(|(_, state)| state == "ready");
                let new = now.map(|now| now.0) != before.as_ref().map(|before| before.0.clone());
                (new && ready) || !self.mirror.nodes[node].process(role).is_running()
            });
            self.change();
        }
        let mut killed = false;
        wait_until(LONG, &format!("the end of the work, or {call} number {nth}"), || {
            killed = !self.mirror.nodes[node].process(role).is_running();
            killed || self.done()
        });
        if !killed {
            kill_traced(self.mirror.nodes[node].process(role).id());
        }
        let status = self.mirror.nodes[node].ended(role, SOON);
        assert_eq!(status.signal(), Some(9), "{call} number {nth}: {status}");
        self.recovers(&format!("{role:?} killed at {call} number {nth}: {}", trace.last_call(call)));
        if killed { Ok(()) } else { Err(trace.counts()) }
    }

    /// Started again, without strace: everything agrees, and nothing unfinished is left.
    fn recovers(&mut self, after: &str) {
        let (node, role) = self.victim;
        self.mirror.nodes[node].start(role);
        let agreed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(LONG, "all of it everywhere", || self.done());
            self.mirror.wait_digests(LONG);
            self.mirror.nodes.iter().for_each(nothing_unfinished);
        }));
        if let Err(panic) = agreed {
            eprintln!("---- {after}");
            std::panic::resume_unwind(panic);
        }
        self.stop();
    }

    /// What holds over all cases.
    fn finish(mut self) {
        self.reader.finish();
        let trash = self.mirror.nodes[1].path(".mirror/trash");
        let kept: BTreeSet<Vec<u8>> = fs::read_dir(&trash)
            .unwrap()
            .flatten()
            .map(|id| id.path())
            .flat_map(|id| Tree::of(&id).0.into_iter().map(|(path, hash)| [path, hash.into_bytes()].concat()))
            .collect();
        for (path, old) in &self.outdated {
            let hash = common::hash::ContentHash::of(old).to_string();
            assert!(
                kept.contains(&[path.as_bytes(), hash.as_bytes()].concat()),
                "{path} {hash} is not in the trash"
            );
        }
        for node in &self.mirror.nodes {
            assert_eq!(node.lost_conflicts(), Vec::<String>::new(), "on {}", node.name);
        }
        let mut last: BTreeMap<String, String> = BTreeMap::new();
        for line in self.mirror.log() {
            let says = format!("{:?} {}", line.event.kind(), line.event.sha256);
            assert_ne!(last.get(&line.path()), Some(&says), "published twice at {}", line.version);
            last.insert(line.path(), says);
        }
    }
}

pub fn nothing_unfinished(node: &Node) {
    wait_for(SOON, "no unfinished files", || {
        let left: Vec<_> = fs::read_dir(node.path(".mirror/tmp")).unwrap().flatten().collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// How often each call killed.
type Fired = Mutex<BTreeMap<&'static str, u32>>;

/// Every call once at a place that the seed chooses, then as many more as there is time for.
fn sample(role: Role, calls: &'static [&'static str]) {
    let seed = e2e::seed();
    let fired = Fired::default();
    let mut first = Lane::new(role);
    let counts = first.case("fsync", NEVER, calls, false).expect_err("a run that nothing ends");
    let until = Instant::now() + SAMPLE;
    let mut order: Vec<&str> = calls.to_vec();
    order.shuffle(&mut SmallRng::seed_from_u64(seed));
    let left = Mutex::new(order);
    thread::scope(|scope| {
        for (number, lane) in (0u64..).zip([Some(first)].into_iter().chain((1..LANES).map(|_| None))) {
            let (left, fired, counts) = (&left, &fired, &counts);
            scope.spawn(move || {
                let mut random = SmallRng::seed_from_u64(seed ^ (number + 1));
                let mut lane = lane.unwrap_or_else(|| Lane::new(role));
                loop {
                    let owed = left.lock().unwrap().pop();
                    let Some(call) = owed.or_else(|| {
                        (Instant::now() < until).then(|| calls[random.random_range(0..calls.len())])
                    }) else {
                        break;
                    };
                    let highest = counts.get(call).copied().unwrap_or(1);
                    let mut nth = random.random_range(1..=highest);
                    while lane.case(call, nth, &[], random.random()).is_err() {
                        assert!(nth > 1, "{call} was never made");
                        nth /= 2;
                    }
                    *fired.lock().unwrap().entry(call).or_default() += 1;
                }
                lane.finish();
            });
        }
    });
    println!("killed at: {:?}", fired.lock().unwrap());
}

/// Every occurrence of every call that any thread reaches, with one file in work at a time and with many. `MEDIAMIRROR_SWEEP=openat,fsync` leaves out
/// all other calls.
fn all(role: Role, calls: &'static [&'static str]) {
    let only = env::var("MEDIAMIRROR_SWEEP").ok();
    let is_asked = |call: &&&str| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == **call));
    let sweeps: Vec<_> =
        calls.iter().filter(is_asked).flat_map(|call| [(call, true), (call, false)]).collect();
    assert!(!sweeps.is_empty(), "MEDIAMIRROR_SWEEP names no call of {calls:?}");
    let left = Mutex::new(sweeps);
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some((call, one_at_a_time)) = { left.lock().unwrap().pop() } {
                    // One of its own for each: what is compared grows with every case.
                    let mut lane = Lane::new(role);
                    let mut nth = 1;
                    while lane.case(call, nth, &[], one_at_a_time).is_ok() {
                        nth += 1;
                    }
                    println!("killed at each of {} {call}", nth - 1);
                    assert!(nth > 1, "{call} was never made");
                    lane.finish();
                }
            });
        }
    });
}

#[test]
fn a_replicator_killed_at_any_call_of_placing_loses_nothing() {
    sample(Role::Replicator, &REPLICATOR);
}

#[test]
fn a_watcher_killed_at_any_call_of_publishing_loses_nothing() {
    sample(Role::Watcher, &WATCHER);
}

#[test]
#[ignore = "minutes; run by deploy/test.sh --full"]
fn full_a_replicator_killed_at_every_call_of_placing_loses_nothing() {
    all(Role::Replicator, &REPLICATOR);
}

#[test]
#[ignore = "minutes; run by deploy/test.sh --full"]
fn full_a_watcher_killed_at_every_call_of_publishing_loses_nothing() {
    all(Role::Watcher, &WATCHER);
}
