//! Events that cannot be applied: they are named, wait for another try, and hold up nothing else.

use e2e::{Http, Mirror, Role, SOON, wait_for, wait_until, write};
use std::{
    fs,
    time::{Duration, Instant},
};

fn parked(mirror: &Mirror) -> Vec<serde_json::Value> {
    mirror.nodes[1].run(Role::Replicator, &["parked", "--json"]).succeeded().json_lines()
}

#[test]
fn an_event_after_a_poisoned_one_is_applied_within_a_second() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("before"), b"before");
    mirror.wait_everywhere("before", b"before");
    mirror.nats().publish("mirror.media.poison", b"no event at all");
    let began = Instant::now();
    write(&mirror.nodes[0].path("after"), b"after");
    mirror.wait_everywhere("after", b"after");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    wait_until(SOON, "the poison to be parked", || parked(&mirror).len() == 1);
    let said = mirror.nodes[1].run(Role::Replicator, &["parked"]).succeeded().stdout;
    assert!(said.contains("mirror.media.poison") || said.contains("poison"), "{said}");
    assert!(said.contains("given up"), "{said}");
}

#[test]
fn a_parked_event_is_tried_again_on_demand() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start_both();
    mirror.nodes[1].start(Role::Watcher);
    let http = Http::start(&mut mirror.nodes[1], Role::Replicator, &[]);
    mirror.wait_ready();
    // Nothing is ever placed over a link.
    std::os::unix::fs::symlink("nowhere", mirror.nodes[1].path("taken")).unwrap();
    write(&mirror.nodes[0].path("taken"), b"taken");
    mirror.nats().publish("mirror.media.poison", b"no event at all");
    wait_for(2 * SOON, "two parked events", || {
        let parked = parked(&mirror);
        if parked.len() == 2 { Ok(()) } else { Err(format!("{parked:?}")) }
    });
    // The node does its work, and somebody should look.
    wait_for(SOON, "both to degrade the node", || {
        let answer = http.wait_reasons(SOON, 200, &["parked"]).json();
        let both = answer["status"] == "degraded" && answer["reasons"][0]["count"] == 2;
        if both { Ok(()) } else { Err(answer.to_string()) }
    });
    let samples = http.metrics();
    assert_eq!(samples.of("mediamirror_parked"), 2.0);
    assert_eq!(samples.of("sync_failures_total{stage=\"decode\",reason=\"invalid\"}"), 1.0);
    assert!(samples.of("sync_failures_total{stage=\"place\",reason=\"in_the_way\"}") > 1.0);
    assert!(samples.of("mediamirror_retries_total") > 1.0);
    let of = |path: &str| parked(&mirror).into_iter().find(|line| line["path"] == path).unwrap();
    let first = of("taken");
    assert!(first["reason"].as_str().unwrap().contains("symbolic link"), "{first}");
    assert_eq!((&first["permanent"], &first["tries"]), (&false.into(), &0.into()));
    assert!(first["since"].is_string() && first["next_try"].is_string(), "{first}");
    // Without its cause gone a retry changes nothing but the count; the poison has given up, and is tried on demand all the same.
    let said = mirror.nodes[1].run(Role::Replicator, &["parked", "retry"]).succeeded();
    assert!(said.stdout.contains('2'), "{said:?}");
    wait_until(SOON, "both to be tried", || of("taken")["tries"] == 1 && of("poison")["tries"] == 1);
    assert_eq!(of("taken")["since"], first["since"]);

    fs::remove_file(mirror.nodes[1].path("taken")).unwrap();
    mirror.nodes[1].run(Role::Replicator, &["parked", "retry", "taken"]).succeeded();
    mirror.wait_everywhere("taken", b"taken");
    wait_until(SOON, "only the poison to be parked", || parked(&mirror).len() == 1);
    let unknown = mirror.nodes[1].run(Role::Replicator, &["parked", "retry", "never heard of"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("never heard of"), "{unknown:?}");

    write(&mirror.nodes[0].path("poison"), b"content after all");
    mirror.wait_everywhere("poison", b"content after all");
    http.wait_reasons(SOON, 200, &[]);
    assert_eq!(http.metrics().of("mediamirror_parked"), 0.0);
}
