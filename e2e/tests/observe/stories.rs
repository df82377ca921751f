//! One story from all who tell it, in time, at the pace that is shipped: `status`, `/readyz`, the metrics and the alerts.

use crate::{observed::Observed, prometheus::Pace};
use common::hash::ContentHash;
use e2e::{LONG, Role, SOON, content, wait_for, wait_until, write};
use serde_json::Value;
use std::time::Instant;

/// What `status` of the first node says of a replicator, and its exit code.
fn status(all: &Observed, node: &str) -> (Option<i32>, Value) {
    let finished = all.mirror.nodes[0].run(Role::Replicator, &["status", "--json"]);
    let nodes = finished.json_lines().remove(0)["nodes"].clone();
    let row = nodes
        .as_array()
        .expect("nodes")
        .iter()
        .find(|row| row["node"] == node && row["role"] == "replicator");
    (finished.code, row.expect("the replicator").clone())
}

fn fires(all: &Observed, alert: &str, node: &str) -> bool {
    let (_, firing) = all.prometheus.firing().expect("an answer of Prometheus");
    firing.contains(&(format!("Mediamirror{alert}"), node.to_owned()))
}

fn unready(all: &Observed, node: usize, status: u16, why: &str) -> bool {
    let answer = all.http(node, Role::Replicator).get("/readyz");
    answer.status == status && answer.reasons().iter().any(|reason| reason == why)
}

/// Who tells, within how many seconds, and whether they do now.
type Teller<'a> = (&'a str, u64, &'a dyn Fn(&Observed) -> bool);

/// Waits until each has told its story once, which has to be in time.
fn all_tell(all: &Observed, story: &str, tellers: &[Teller<'_>]) {
    let began = Instant::now();
    let mut open: Vec<&Teller<'_>> = tellers.iter().collect();
    wait_for(LONG, &format!("{story} to be told by all"), || {
        open.retain(|(who, limit, tells)| {
            let (told, took) = (tells(all), began.elapsed());
            assert!(took.as_secs() < *limit, "{story}: {who} has not told within {limit} s");
            if told {
                println!("{story}: {who} after {took:?}");
            }
            !told
        });
        if open.is_empty() { Ok(()) } else { Err(format!("{} are silent", open.len())) }
    });
}

#[test]
#[ignore = "minutes"]
fn full_a_stopped_a_slow_and_a_diverged_node_are_told_of_in_time() {
    let test = "full_a_stopped_a_slow_and_a_diverged_node_are_told_of_in_time";
    let Some(mut all) = Observed::start(test, Pace::Shipped, |_| {}) else { return };
    for i in 0..30 {
        write(&all.mirror.nodes[i % 3].path(i.to_string()), &content(&i.to_string(), 1000));
    }
    all.mirror.wait_agreed(SOON);
    let other = Some(ContentHash::of(b"other"));
    all.mirror.nodes[2].change_index(move |tx| tx.mark(&"7".parse().unwrap(), |row| row.sha256 = other));
    all_tell(
        &all,
        "diverged",
        &[
            ("status", 60, &|all| {
                let (code, row) = status(all, "c");
                code == Some(1) && row["state"] == "degraded" && row["diverged"].is_object()
            }),
            ("/readyz", 60, &|all| unready(all, 2, 200, "diverged")),
            ("the metric", 60, &|all| all.metrics(2, Role::Replicator).of("mediamirror_digest_match") == 0.0),
            ("the alert", 60, &|all| fires(all, "Diverged", "c")),
        ],
    );
    all.prometheus.wait_quiet("mended");

    all.restart(2, Role::Replicator, &["--download-limit", "64KiB"]);
    all.mirror.wait_ready();
    all.prometheus.wait_quiet("restarted");
    write(&all.mirror.nodes[0].path("large"), &content("large", 6 << 20));
    all.mirror.nodes[1].process(Role::Replicator).freeze();
    all_tell(
        &all,
        "stopped",
        &[
            ("status", 20, &|all| {
                let (code, row) = status(all, "b");
                code == Some(1) && row["down"] == true
            }),
            ("the alert", 20, &|all| fires(all, "Down", "b")),
        ],
    );
    all_tell(
        &all,
        "slow",
        &[
            ("status", 60, &|all| status(all, "c").1["lag"] == 1),
            ("/readyz", 60, &|all| unready(all, 2, 503, "behind")),
            ("the metric", 60, &|all| all.metrics(2, Role::Replicator).of("mediamirror_lag_seconds") > 15.0),
            ("the alert", 60, &|all| fires(all, "Behind", "c")),
        ],
    );
    assert!(!fires(&all, "Stalled", "c"), "slow is not stalled");
    all.mirror.nodes[1].process(Role::Replicator).resume();
    wait_until(LONG, "the large file", || all.mirror.nodes[2].path("large").exists());
    all.prometheus.wait_quiet("all are well");

    if all.mirror.broker.version() < (2, 11) {
        e2e::not_run(test, "this server cannot pause a consumer");
        return;
    }
    all.mirror.nats().pause_consumer("b");
    write(&all.mirror.nodes[0].path("late"), b"late");
    all_tell(
        &all,
        "stalled",
        &[
            ("status", 30, &|all| {
                let (code, row) = status(all, "b");
                let text = row["last_error"].as_str().unwrap_or_default().to_owned();
                code == Some(1) && row["state"] == "degraded" && text.contains("none of it got done")
            }),
            ("/readyz", 30, &|all| unready(all, 1, 503, "work_stalled")),
            ("the metric", 30, &|all| {
                all.metrics(1, Role::Replicator).of("mediamirror_stalled_seconds{what=\"work\"}") > 15.0
            }),
            ("the alert", 30, &|all| fires(all, "Stalled", "b")),
        ],
    );
    all.mirror.nats().resume_consumer("b");
    all.prometheus.wait_quiet("it delivers again");
}
