//! The numbers behind [`TABLE`](super::table::TABLE). Cheap to write: atomics, no allocation in a loop.

use super::{
    health::Standstill,
    table::{self, Kind},
};
use crate::nodes::{NodeRunState, Role};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Metric, Registry},
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the buckets of `sync_latency_seconds`: a small file takes milliseconds, a large one over a slow link minutes.
const LATENCIES: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];

type One = [(&'static str, &'static str); 1];
type Two = [(&'static str, &'static str); 2];
type Seconds = Gauge<f64, AtomicU64>;

const DIRECTIONS: [&str; 2] = ["in", "out"];
const STATES: [NodeRunState; 5] = [
    NodeRunState::Starting,
    NodeRunState::Syncing,
    NodeRunState::Ready,
    NodeRunState::Degraded,
    NodeRunState::Stopping,
];

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the log to this node.
    In,
    /// From this node to the log.
    Out,
}

impl Direction {
    fn label(self) -> One {
        [("direction", DIRECTIONS[self as usize])]
    }
}

/// All metrics of one process.
pub struct Metrics {
    registry: Registry,
    latency: Histogram,
    failures: Family<Two, Counter>,
    state: Family<One, Gauge>,
    stalled: Family<One, Seconds>,
    queues: Family<One, Gauge>,
    files: Family<One, Counter>,
    removals: Family<One, Counter>,
    bytes: Family<One, Counter>,
    retries: Counter,
    overflows: Counter,
    held: Family<One, Gauge>,
    hook_runs: Family<One, Counter>,
    hook_seconds: Counter<f64, AtomicU64>,
    hook_waiting: Gauge,
    /// Nothing is in it while it is not known.
    durable: Family<[(&'static str, &'static str); 0], Gauge>,
    nodes: Family<One, Gauge>,
    pub(super) gauges: Gauges,
}

/// Those that are plain numbers, set by whoever looks.
#[allow(missing_docs)] // The table says what they mean.
pub(super) struct Gauges {
    pub ready: Gauge,
    pub connected: Gauge,
    pub head: Gauge,
    pub version: Gauge,
    pub lag_events: Gauge,
    pub lag: Seconds,
    pub oldest: Seconds,
    pub pending: Gauge,
    pub parked: Gauge,
    pub outbox: Gauge,
    pub files: Gauge,
    pub bytes: Gauge,
    pub disk_free: Gauge,
    pub no_room: Gauge,
    pub store_away: Gauge,
    pub digest_match: Gauge,
    pub folders: Gauge,
    pub unwatched: Gauge,
    pub scrubbed: Seconds,
    pub verified: Seconds,
}

/// Registers by the table, which has the words.
struct Registering {
    registry: Registry,
    role: Role,
    names: Vec<&'static str>,
}

impl Registering {
    fn add<M: Metric + Clone>(&mut self, name: &'static str, metric: M) -> M {
        let row = table::row_of(name);
        self.names.push(name);
        if row.of.is_none_or(|role| role == self.role) {
            // The encoder adds these endings.
            let stem = match row.kind {
                Kind::Counter => name.trim_end_matches("_total"),
                Kind::Info => name.trim_end_matches("_info"),
                Kind::Gauge | Kind::Histogram => name,
            };
            self.registry.register(stem, row.help, metric.clone());
        }
        metric
    }

    fn zero<M: Metric + Clone + Default>(&mut self, name: &'static str) -> M {
        self.add(name, M::default())
    }
}

impl Metrics {
    /// All at 0. `started`: seconds since 1970.
    pub fn new(role: Role, started: f64) -> Self {
        Self::with_names(role, started).0
    }

    fn with_names(role: Role, started: f64) -> (Self, Vec<&'static str>) {
        let mut r = Registering { registry: Registry::default(), role, names: Vec::new() };
        let build = Info::new([("version", env!("CARGO_PKG_VERSION")), ("role", role.as_str())]);
        // An `Info` cannot be cloned, so it goes in by itself.
        let row = table::row_of("mediamirror_build_info");
        r.registry.register(row.name.trim_end_matches("_info"), row.help, build);
        r.names.push(row.name);
        r.zero::<Seconds>("mediamirror_start_time_seconds").set(started);
        let gauges = Gauges {
            ready: r.zero("mediamirror_ready"),
            connected: r.zero("mediamirror_broker_connected"),
            head: r.zero("mediamirror_head"),
            version: r.zero("mediamirror_version"),
            lag_events: r.zero("mediamirror_lag_events"),
            lag: r.zero("mediamirror_lag_seconds"),
            oldest: r.zero("mediamirror_oldest_unapplied_age_seconds"),
            pending: r.zero("mediamirror_pending"),
            parked: r.zero("mediamirror_parked"),
            outbox: r.zero("mediamirror_outbox"),
            files: r.zero("mediamirror_tree_files"),
            bytes: r.zero("mediamirror_tree_bytes"),
            disk_free: r.zero("mediamirror_disk_free_bytes"),
            no_room: r.zero("mediamirror_waits_for_room"),
            store_away: r.zero("mediamirror_store_away"),
            digest_match: r.zero("mediamirror_digest_match"),
            folders: r.zero("mediamirror_folders"),
            unwatched: r.zero("mediamirror_folders_unwatched"),
            scrubbed: r.zero("mediamirror_scrub_last_success_timestamp_seconds"),
            verified: r.zero("mediamirror_verify_last_success_timestamp_seconds"),
        };
        let latency = r.add("sync_latency_seconds", Histogram::new(LATENCIES));
        let mut metrics = Self {
            latency,
            failures: r.zero("sync_failures_total"),
            state: r.zero("mediamirror_state"),
            stalled: r.zero("mediamirror_stalled_seconds"),
            queues: r.zero("mediamirror_queue_depth"),
            files: r.zero("mediamirror_files_total"),
            removals: r.zero("mediamirror_removals_total"),
            bytes: r.zero("mediamirror_bytes_total"),
            retries: r.zero("mediamirror_retries_total"),
            overflows: r.zero("mediamirror_watch_overflows_total"),
            held: r.zero("mediamirror_held"),
            hook_runs: r.zero("mediamirror_hook_runs_total"),
            hook_seconds: r.zero("mediamirror_hook_seconds_total"),
            hook_waiting: r.zero("mediamirror_hook_waiting"),
            durable: r.zero("mediamirror_broker_durable"),
            nodes: r.zero("mediamirror_nodes"),
            gauges,
            registry: Registry::default(),
        };
        metrics.registry = r.registry;
        metrics.begin();
        (metrics, r.names)
    }

    /// What has labels is there from the beginning, so that a rate is seen with the first of its kind.
    fn begin(&self) {
        for direction in [Direction::In, Direction::Out].map(Direction::label) {
            drop(self.files.get_or_create(&direction));
            drop(self.removals.get_or_create(&direction));
            drop(self.bytes.get_or_create(&direction));
        }
        self.set_state(NodeRunState::Starting);
        self.set_held(0, 0);
        self.set_nodes(0, 0);
        for result in ["done", "failed", "timed out", "stopped"] {
            drop(self.hook_runs.get_or_create(&[("result", result)]));
        }
        self.gauges.digest_match.set(1);
        Standstill::ALL.into_iter().for_each(|what| self.set_stalled(what, 0.0));
    }

    /// Processes of the mirror that were seen within 15 s, and those that were not.
    pub fn set_nodes(&self, up: u64, down: u64) {
        self.nodes.get_or_create(&[("state", "up")]).set(number(up));
        self.nodes.get_or_create(&[("state", "down")]).set(number(down));
    }

    /// A file was placed, so many seconds after its change was noticed.
    pub(super) fn placed(&self, latency: f64) {
        self.latency.observe(latency);
        self.files.get_or_create(&Direction::In.label()).inc();
    }

    /// A file was published.
    pub fn published(&self) {
        self.files.get_or_create(&Direction::Out.label()).inc();
    }

    /// A removal was made, or published.
    pub fn removed(&self, direction: Direction) {
        self.removals.get_or_create(&direction.label()).inc();
    }

    /// A try failed. `again`: there will be another.
    pub fn failed(&self, stage: &'static str, reason: &'static str, again: bool) {
        self.failures.get_or_create(&[("stage", stage), ("reason", reason)]).inc();
        if again {
            self.retries.inc();
        }
    }

    /// The kernel's queue of changes was full.
    pub fn overflowed(&self) {
        self.overflows.inc();
    }

    /// A hook ran for so long, and this is how it ended.
    pub fn hook_ran(&self, result: &'static str, time: Duration) {
        self.hook_runs.get_or_create(&[("result", result)]).inc();
        self.hook_seconds.inc_by(time.as_secs_f64());
    }

    /// So many changes have not been told yet.
    pub fn set_hook_waiting(&self, changes: u64) {
        self.hook_waiting.set(number(changes));
    }

    /// How many wait there.
    pub fn set_queue(&self, queue: &'static str, depth: usize) {
        self.queues.get_or_create(&[("queue", queue)]).set(number(depth as u64));
    }

    pub(super) fn set_state(&self, now: NodeRunState) {
        for state in STATES {
            self.state.get_or_create(&[("state", state.as_str())]).set(i64::from(state == now));
        }
    }

    pub(super) fn set_held(&self, removals: u64, replacements: u64) {
        self.held.get_or_create(&[("kind", "removals")]).set(number(removals));
        self.held.get_or_create(&[("kind", "replacements")]).set(number(replacements));
    }

    pub(super) fn set_durable(&self, durable: bool) {
        self.durable.get_or_create(&[]).set(i64::from(durable));
    }

    pub(super) fn set_stalled(&self, what: Standstill, seconds: f64) {
        self.stalled.get_or_create(&[("what", what.as_str())]).set(seconds);
    }

    /// Bytes that went through since the start; they are counted where they pass.
    pub(super) fn set_bytes(&self, direction: Direction, bytes: u64) {
        self.bytes.get_or_create(&direction.label()).inner().store(bytes, Ordering::Relaxed);
    }

    /// In the OpenMetrics text format.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes everything");
        text
    }
}

/// As a gauge holds it.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_exposed_by_those_who_have_it_and_nothing_else_is() {
        for role in [Role::Watcher, Role::Replicator] {
            let (metrics, mut names) = Metrics::with_names(role, 0.0);
            metrics.failed("fetch", "missing", true);
            metrics.set_queue("work", 1);
            metrics.set_durable(true);
            names.sort_unstable();
            let mut rows: Vec<&str> = table::TABLE.iter().map(|row| row.name).collect();
            rows.sort_unstable();
            assert_eq!(names, rows);
            let text = metrics.text();
            for row in table::TABLE {
                let sample = |line: &str| {
                    line.strip_prefix(row.name)
                        .is_some_and(|rest| rest.starts_with([' ', '{']) || rest.starts_with("_count "))
                };
                let has = row.of.is_none_or(|of| of == role);
                assert_eq!(text.lines().any(sample), has, "{} of the {role}:\n{text}", row.name);
            }
            assert!(text.ends_with("# EOF\n"), "{text}");
        }
    }
}
