//! Several things wrong at once, each on its own node: every place that an operator may look at tells the same.

use e2e::{Http, LONG, Mirror, Role, SOON, content, wait_for, wait_until, write};
use std::time::Duration;

/// Unseen for 15 s, and looked at within 5 s more.
const DOWN: Duration = Duration::from_secs(20);
/// At this rate what is written below takes a minute: longer than `--max-lag`.
const SLOW: [&str; 2] = ["--download-limit", "64KiB"];
const LARGE: usize = 4 << 20;

#[test]
fn one_node_stopped_one_slow_one_well() {
    let mut mirror = Mirror::idle(&["well", "stopped", "slow"]);
    let well = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    let slow = Http::start(&mut mirror.nodes[2], Role::Replicator, &SLOW);
    mirror.nodes[0].start(Role::Watcher);
    mirror.nodes[1].start_both();
    mirror.nodes[2].start(Role::Watcher);
    mirror.wait_ready();
    assert_eq!(mirror.nodes[0].run(Role::Replicator, &["status"]).code, Some(0));
    mirror.nodes[1].kill(Role::Watcher);
    mirror.nodes[1].kill(Role::Replicator);
    for i in 0..2 {
        write(&mirror.nodes[0].path(format!("large-{i}")), &content(&i.to_string(), LARGE));
    }
    let status = wait_for(DOWN, "the node to be down", || {
        let status = mirror.nodes[0].run(Role::Replicator, &["status"]);
        let down = |line: &&str| line.starts_with("stopped") && line.contains("down");
        if status.stdout.lines().filter(down).count() == 2 { Ok(status) } else { Err(status.stdout) }
    });
    assert_eq!(status.code, Some(1));
    let lines: Vec<&str> = status.stdout.lines().collect();
    assert!(lines[1].starts_with("stopped") && lines[2].starts_with("stopped"), "{}", status.stdout);
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{}", status.stdout);

    slow.wait_reasons(LONG, 503, &["behind", "slow"]);
    let samples = slow.metrics();
    assert_eq!((samples.of("mediamirror_lag_events"), samples.of("mediamirror_ready")), (2.0, 0.0));
    assert!(samples.of("mediamirror_lag_seconds") > 15.0, "{samples:?}");
    wait_until(DOWN, "it to know of the node that is down", || {
        slow.metrics().of("mediamirror_nodes{state=\"down\"}") == 2.0
    });
    // It is slow, and does not stand still.
    assert!(!slow.ask("GET /readyz", &[]).reasons().iter().any(|reason| reason == "work_stalled"));
    let replicator = |status: &serde_json::Value, node: &str| {
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().find(|seen| seen["node"] == node && seen["role"] == "replicator").unwrap().clone()
    };
    // A record may be of a moment in which nothing came.
    let status = wait_for(SOON, "a record of the slow node at work", || {
        let status = mirror.nodes[0].run(Role::Replicator, &["status", "--json"]).json_lines().remove(0);
        let slow = replicator(&status, "slow");
        if (&slow["lag"], &slow["state"]) == (&2.into(), &"syncing".into()) {
            Ok(status)
        } else {
            Err(slow.to_string())
        }
    });
    let of = |node: &str| replicator(&status, node);
    assert_eq!(of("slow")["underway"]["what"], "catching up");
    assert_eq!((&of("well")["lag"], &of("well")["state"]), (&0.into(), &"ready".into()));
    assert_eq!(of("stopped")["down"], true);
    well.wait_reasons(Duration::ZERO, 200, &[]);
    // Who can be compared cannot be said of two of three.
    let run = mirror.nodes[0].run(Role::Replicator, &["verify", "--cluster", "--timeout", "1s"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("stopped has not been seen for 15 s"), "{}", run.stdout);
    assert!(run.stdout.contains("slow is at version"), "{}", run.stdout);
}
