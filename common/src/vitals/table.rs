//! The one list of metrics: names, what they mean, and who has them. `docs/METRICS.md` is made of it, and a test holds the two together.

use crate::nodes::Role;
use std::fmt::Write;

/// What kind of number it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It only goes up, from 0 at the start of the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts in buckets, and a sum.
    Histogram,
    /// 1, with labels that tell.
    Info,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name, as Prometheus shows it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Who has it; `None`: both.
    pub of: Option<Role>,
    /// Its labels, with their values.
    pub labels: &'static str,
    /// What it says.
    pub help: &'static str,
}

const W: Option<Role> = Some(Role::Watcher);
const R: Option<Role> = Some(Role::Replicator);

const fn row(
    name: &'static str,
    kind: Kind,
    of: Option<Role>,
    labels: &'static str,
    help: &'static str,
) -> Row {
    Row { name, kind, of, labels, help }
}

/// All of them.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    row("sync_latency_seconds", Kind::Histogram, R, "", "From the moment a change was noticed on its node to the file in its place on this one"),
    row("sync_failures_total", Kind::Counter, None, "stage, reason", "Tries that failed, by what was being done and why; most are tried again"),
    row("mediamirror_build_info", Kind::Info, None, "version, role", "1, with the version of the program"),
    row("mediamirror_start_time_seconds", Kind::Gauge, None, "", "When the process started, in seconds since 1970"),
    row("mediamirror_state", Kind::Gauge, None, "state (starting, syncing, ready, degraded, stopping)", "1 for the state that the process is in"),
    row("mediamirror_ready", Kind::Gauge, None, "", "1 while /readyz says so, degraded included"),
    row("mediamirror_broker_connected", Kind::Gauge, None, "", "1 while there is a connection to the broker"),
    row("mediamirror_broker_durable", Kind::Gauge, None, "", "1 when what the broker acknowledges is on its disk, 0 when not; missing where that cannot be known: only an embedded one tells"),
    row("mediamirror_stalled_seconds", Kind::Gauge, None, "what (loop, broker, work)", "How long it has stood still although it had to move; 0 or little when it need not"),
    row("mediamirror_head", Kind::Gauge, None, "", "The newest event of the log, asked of the log itself"),
    row("mediamirror_version", Kind::Gauge, None, "", "Up to which event everything is applied or set aside on this node"),
    row("mediamirror_lag_events", Kind::Gauge, R, "", "Events between version and head"),
    row("mediamirror_lag_seconds", Kind::Gauge, R, "", "How old the oldest event is that the log has and this node has not applied; 0 when there is none"),
    row("mediamirror_oldest_unapplied_age_seconds", Kind::Gauge, None, "", "How long the oldest work has been under way here: an event that was taken, or a path that is being published; 0 when there is none"),
    row("mediamirror_pending", Kind::Gauge, None, "", "Events (watcher: paths) known and not finished"),
    row("mediamirror_queue_depth", Kind::Gauge, None, "queue (replicator: fresh, again, work, resting; watcher: settling, cleared, work, found)", "What waits in each queue of the process"),
    row("mediamirror_files_total", Kind::Counter, None, "direction (in: placed here, out: published from here)", "Files that went through"),
    row("mediamirror_removals_total", Kind::Counter, None, "direction (in, out)", "Removals that went through"),
    row("mediamirror_bytes_total", Kind::Counter, None, "direction (in: fetched, out: uploaded)", "Bytes of content that went over the network, those of repeated tries included"),
    row("mediamirror_retries_total", Kind::Counter, None, "", "Events (watcher: paths) that have to be tried again"),
    row("mediamirror_parked", Kind::Gauge, None, "", "Events that cannot be applied on this node"),
    row("mediamirror_held", Kind::Gauge, None, "kind (removals, replacements)", "Paths that wait for `watcher approve`"),
    row("mediamirror_outbox", Kind::Gauge, None, "", "Paths that the watcher has still to look at: what happened while the broker was away"),
    row("mediamirror_tree_files", Kind::Gauge, None, "", "Files of the log that stand on this node"),
    row("mediamirror_tree_bytes", Kind::Gauge, None, "", "Their bytes"),
    row("mediamirror_disk_free_bytes", Kind::Gauge, None, "", "Free bytes under the root"),
    row("mediamirror_waits_for_room", Kind::Gauge, None, "", "1 while something waits for room on a disk: under the root, under the index, or the broker's"),
    row("mediamirror_store_away", Kind::Gauge, None, "", "1 while the blob store does not answer, or refuses what is asked of it"),
    row("mediamirror_nodes", Kind::Gauge, None, "state (up, down)", "Processes of the mirror that were seen within 15 s, and those that were not"),
    row("mediamirror_digest_match", Kind::Gauge, R, "", "1; 0 while this node has applied the same events as others and has not the same files"),
    row("mediamirror_folders", Kind::Gauge, W, "", "Folders of the tree"),
    row("mediamirror_folders_unwatched", Kind::Gauge, W, "", "Of them polled, because inotify does not watch them"),
    row("mediamirror_watch_overflows_total", Kind::Counter, W, "", "How often the kernel's queue of changes was full; each is followed by a scan of the tree"),
    row("mediamirror_hook_runs_total", Kind::Counter, R, "result (done, failed, timed out, stopped)", "Runs of the command of --on-change, by how they ended; all but done are repeated"),
    row("mediamirror_hook_seconds_total", Kind::Counter, R, "", "How long these runs took together"),
    row("mediamirror_hook_waiting", Kind::Gauge, R, "", "Changes of this node that the command has still to be told of"),
    row("mediamirror_scrub_last_success_timestamp_seconds", Kind::Gauge, None, "", "When the last whole pass over all files ended, in seconds since 1970; 0: never"),
    row("mediamirror_verify_last_success_timestamp_seconds", Kind::Gauge, None, "", "When `replicator verify` last found nothing that differs, in seconds since 1970; 0: never"),
];

/// The row of a metric.
///
/// # Panics
/// When there is none: what is not in the table is not exposed.
pub fn row_of(name: &str) -> &'static Row {
    TABLE.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("{name} has no row in the table"))
}

/// `docs/METRICS.md`.
pub fn document() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Made of the table in `common/src/vitals/table.rs`; a test says when it is not. Both programs answer `GET /metrics` in the OpenMetrics text\n\
         format. No label ever holds a path, a name or a hash, and a scrape costs no look at the disk.\n\n\
         | name | type | of | labels | meaning |\n|---|---|---|---|---|\n",
    );
    for Row { name, kind, of, labels, help } in TABLE {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        };
        let of = of.map_or("both", Role::as_str);
        let _ = writeln!(text, "| `{name}` | {kind} | {of} | {labels} | {help} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
        if std::env::var_os("MEDIAMIRROR_WRITE_DOCS").is_some() {
            std::fs::write(path, document()).expect("written");
        }
        let written = std::fs::read_to_string(path).expect("the document");
        assert_eq!(
            written,
            document(),
            "write it anew: MEDIAMIRROR_WRITE_DOCS=1 cargo test -p mediamirror-common up_to_date"
        );
    }

    #[test]
    fn names_keep_to_the_rules() {
        for Row { name, kind, help, .. } in TABLE {
            assert!(name.starts_with("mediamirror_") || name.starts_with("sync_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(!help.ends_with('.'), "{name}: the encoder ends the sentence");
            assert_eq!(TABLE.iter().filter(|row| row.name == *name).count(), 1, "{name}");
        }
    }
}
