//! Events that cannot be applied: they are named, wait for another try, and hold up nothing else.

use e2e::{Mirror, Role, SOON, wait_for, wait_until, write};
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
    let mut mirror = Mirror::running(&["a", "b"]);
    // Nothing is ever placed over a link.
    std::os::unix::fs::symlink("nowhere", mirror.nodes[1].path("taken")).unwrap();
    write(&mirror.nodes[0].path("taken"), b"taken");
    mirror.nats().publish("mirror.media.poison", b"no event at all");
    wait_for(2 * SOON, "two parked events", || {
        let parked = parked(&mirror);
        if parked.len() == 2 { Ok(()) } else { Err(format!("{parked:?}")) }
    });
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
}
