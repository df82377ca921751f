//! `replicator migrate`: the blobs move to another store while the mirror works, and nothing is lost.

use crate::{contract::claim_for_another, elsewhere::Elsewhere};
use e2e::{
    Finished, LONG, Mirror, Node, Process, Role, S3, SOON, content, run, sha256_of, wait_for, wait_until,
    write,
};
use serde_json::json;
use std::collections::BTreeSet;

/// A mirror on the broker's store whose nodes could use an S3 server, and the URL of a store there.
fn before_the_move(names: &[&str]) -> (Mirror, S3, String) {
    let mut mirror = Mirror::idle(names);
    let s3 = S3::started(mirror.dir());
    mirror.nodes.iter_mut().for_each(|node| node.environment.extend(s3.environment()));
    mirror.nodes.iter_mut().for_each(Node::start_both);
    mirror.wait_ready();
    let url = s3.url("blobs");
    (mirror, s3, url)
}

fn migrate(node: &Node, arguments: &[&str]) -> Finished {
    run(LONG, node.command(Role::Replicator, [&["migrate", "--json", "--to"], arguments].concat()))
}

/// The contents of all files that the log has.
fn contents(mirror: &mut Mirror) -> BTreeSet<String> {
    mirror.log().into_iter().map(|line| line.event.sha256.to_string()).collect()
}

fn record(mirror: &mut Mirror) -> serde_json::Value {
    mirror.nats().value("_mirror").expect("a record of the mirror")
}

#[test]
fn the_blobs_move_and_back_while_files_come() {
    let (mut mirror, s3, url) = before_the_move(&["a", "b"]);
    for n in 0..60 {
        write(&mirror.nodes[n % 2].path(format!("old/{n}")), &content(&n.to_string(), 3_000));
    }
    write(&mirror.nodes[0].path("old/large"), &content("large", 10 << 20));
    wait_until(LONG, "their events", || mirror.log().len() == 61);
    mirror.wait_equal(LONG);
    // Old content moves, too.
    write(&mirror.nodes[0].path("old/7"), b"newer");
    wait_until(LONG, "its event", || mirror.log().len() == 62);
    mirror.wait_equal(LONG);

    let site = s3.url("site");
    let command = mirror.nodes[0].command(Role::Replicator, ["replay", "--follow", "--to", &site]);
    let mut exporting = Process::spawn("export", mirror.dir(), command);

    let planned = migrate(&mirror.nodes[0], &[&url, "--dry-run"]).succeeded();
    let told = &planned.json_lines()[0];
    assert_eq!(
        (&told["copied"], &told["there"], &told["done"]),
        (&json!(62), &json!(0), &json!(false)),
        "{told}"
    );
    assert!(s3.blobs("blobs").is_empty(), "nothing is done");
    assert_eq!(record(&mut mirror)["generation"], 1);

    // Files come all the while.
    let node = &mirror.nodes[0];
    let moved = std::thread::scope(|scope| {
        let moving = scope.spawn(|| migrate(node, &[&url]));
        let mut n = 0;
        while !moving.is_finished() {
            write(&node.path(format!("during/{n}")), &content(&format!("during {n}"), 20_000));
            n += 1;
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(n > 0);
        moving.join().unwrap()
    });
    moved.succeeded();
    write(&mirror.nodes[1].path("after"), b"after");
    mirror.wait_everywhere("after", b"after");
    mirror.wait_equal(LONG);
    let now = record(&mut mirror);
    assert_eq!((&now["blobs"], &now["previous"], &now["generation"]), (&json!(url), &json!(null), &json!(3)));
    assert_eq!(
        s3.blobs("blobs").into_keys().collect::<BTreeSet<_>>(),
        contents(&mut mirror),
        "all of them are there"
    );
    // The old store is not needed any more, by a new node either.
    mirror.nats().lose_blobs();
    let new = mirror.add_node("c");
    mirror.nodes[new].environment.extend(s3.environment());
    mirror.nodes[new].start_both();
    mirror.wait_equal(LONG);
    // Nor by an export that began before.
    write(&mirror.nodes[1].path("exported"), b"exported");
    let exported = s3.folder("site").join("exported");
    wait_until(LONG, "its export", || std::fs::read(&exported).is_ok_and(|bytes| bytes == b"exported"));
    assert!(exporting.is_running());
    let nothing = migrate(&mirror.nodes[0], &[&url]).succeeded();
    assert_eq!(nothing.json_lines()[0]["copied"], 0);

    let back = migrate(&mirror.nodes[1], &["nats"]).succeeded();
    let blobs = contents(&mut mirror).len();
    assert_eq!(back.json_lines()[0]["copied"], json!(blobs));
    assert_eq!(record(&mut mirror)["blobs"], "nats");
    mirror.nodes[0].run(Role::Replicator, &["verify", "--read-blobs"]).succeeded();
}

#[test]
fn a_move_that_was_cut_off_goes_on_and_damage_is_not_taken_along() {
    let (mut mirror, mut s3, url) = before_the_move(&["a", "b"]);
    for n in 0..40 {
        write(&mirror.nodes[0].path(format!("{n}")), &content(&n.to_string(), 5_000));
    }
    wait_until(LONG, "their events", || mirror.log().len() == 40);
    mirror.wait_equal(LONG);
    // The new store goes away in the middle: the mirror stays where it is.
    s3.kill();
    let failed = migrate(&mirror.nodes[0], &[&url]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stderr.contains("the blob store is away"), "{failed:?}");
    assert_eq!(record(&mut mirror)["blobs"], "nats");
    s3.start();
    // What is there under a name is read before it counts.
    let spoilt = sha256_of(&mirror.nodes[0].path("3")).unwrap();
    migrate(&mirror.nodes[0], &[&url, "--dry-run"]).succeeded();
    let file = s3.folder("blobs").join("blobs").join(&spoilt[..2]).join(&spoilt);
    write(&file, &content("spoilt", 5_000));
    // A node that cannot reach the new store holds the end up, and nothing else.
    mirror.nodes[1].stop_both();
    mirror.nodes[1].environment.retain(|(name, _)| !name.starts_with("AWS_"));
    let shared = mirror.outside("state of b");
    mirror.nodes[1].environment.push(("XDG_CACHE_HOME".into(), shared));
    mirror.nodes[1].start_both();
    mirror.wait_ready();
    let moved = migrate(&mirror.nodes[0], &[&url, "--timeout", "30s"]);
    assert!(matches!(moved.code, Some(0 | 4)), "{moved:?}");
    write(&mirror.nodes[0].path("later"), b"later");
    wait_until(LONG, "its event", || mirror.log().len() == 41);
    assert_eq!(sha256_of(&file).unwrap(), spoilt, "the right bytes were put over the others");
    mirror.nodes[1].stop_both();
    mirror.nodes[1].environment.extend(s3.environment());
    mirror.nodes[1].start_both();
    mirror.wait_everywhere("later", b"later");
    migrate(&mirror.nodes[0], &[&url]).succeeded();
    assert_eq!(record(&mut mirror)["previous"], json!(null));
    assert_eq!(s3.blobs("blobs").len(), 41);
}

#[test]
fn a_store_of_another_mirror_is_not_moved_to_and_nonsense_changes_nothing() {
    let (mut mirror, s3, url) = before_the_move(&["a"]);
    write(&mirror.nodes[0].path("x"), b"x");
    wait_until(SOON, "its event", || mirror.log().len() == 1);
    claim_for_another(&url, &s3.environment());
    let refused = migrate(&mirror.nodes[0], &[&url]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("keeps the blobs of another mirror (other)"), "{refused:?}");
    let folder = mirror.dir().join("nowhere");
    let refused = migrate(&mirror.nodes[0], &[&format!("file://{}", folder.display())]);
    assert!(refused.code == Some(1) && refused.stderr.contains("there is no folder"), "{refused:?}");
    for nonsense in ["memory:///", "s3://key:secret@bucket", "/shared"] {
        let refused = migrate(&mirror.nodes[0], &[nonsense]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(nonsense != "s3://key:secret@bucket" || !refused.stderr.contains("secret@"), "{refused:?}");
    }
    assert_eq!(record(&mut mirror)["generation"], 1);
}

/// Kills every process in turn, again and again, while the blobs move there and back.
#[test]
#[ignore = "takes minutes"]
fn full_a_move_under_load_survives_the_end_of_every_process() {
    let (mut mirror, mut s3, url) = before_the_move(&["a", "b", "c"]);
    for n in 0..2_000 {
        write(&mirror.nodes[n % 3].path(format!("old/{}/{n}", n % 17)), &content(&n.to_string(), 8_000));
    }
    write(&mirror.nodes[0].path("old/large"), &content("large", 64 << 20));
    wait_until(LONG, "their events", || mirror.log().len() == 2_001);
    let mut n = 0;
    for to in [url.as_str(), "nats", url.as_str()] {
        for round in 0..40 {
            // The move is killed as well, at all its stages, and what of it has ended is run again.
            let mut moving = start_move(&mirror, to);
            for _ in 0..20 {
                write(
                    &mirror.nodes[n % 3].path(format!("during/{n}")),
                    &content(&format!("during {n}"), 20_000),
                );
                n += 1;
            }
            match round % 9 {
                0..=5 => {
                    let (node, role) = (&mut mirror.nodes[round % 3], Role::ALL[round % 2]);
                    node.kill(role);
                    node.start(role);
                }
                6 => {
                    mirror.broker.kill();
                    mirror.broker.start();
                }
                7 => {
                    s3.kill();
                    s3.start();
                }
                _ => {}
            }
            std::thread::sleep(std::time::Duration::from_millis(100 * (round % 20) as u64));
            if moving.is_running() {
                moving.kill();
            }
        }
        wait_until(LONG, "the end of the move", || migrate(&mirror.nodes[0], &[to]).code == Some(0));
        let now = record(&mut mirror);
        assert_eq!((&now["blobs"], &now["previous"]), (&json!(to), &json!(null)));
    }
    mirror.wait_equal(LONG);
    for node in 0..3 {
        for k in (0..n).filter(|k| k % 3 == node) {
            assert!(mirror.nodes[node].path(format!("during/{k}")).exists(), "{k} on its own node");
        }
    }
    let blobs: BTreeSet<String> = s3.blobs("blobs").into_keys().collect();
    let missing: Vec<String> =
        contents(&mut mirror).into_iter().filter(|hash| !blobs.contains(hash)).collect();
    assert!(missing.is_empty(), "all are in the new store, but {missing:?}");
    for node in &mirror.nodes {
        wait_for(LONG, "nothing to differ", || {
            let verified = run(LONG, node.command(Role::Replicator, ["verify", "--read-blobs"]));
            if verified.code == Some(0) { Ok(()) } else { Err(format!("{verified:?}")) }
        });
    }
}

fn start_move(mirror: &Mirror, to: &str) -> Process {
    let command = mirror.nodes[0].command(Role::Replicator, ["migrate", "--to", to, "--timeout", "60s"]);
    Process::spawn("migrate", mirror.dir(), command)
}

#[test]
fn a_mirror_whose_broker_has_lost_its_record_finds_its_blobs_again() {
    let mut elsewhere = Elsewhere::on_s3();
    elsewhere.mirror.nodes.iter_mut().for_each(Node::start_both);
    elsewhere.mirror.wait_ready();
    write(&elsewhere.mirror.nodes[0].path("x"), b"x");
    elsewhere.mirror.wait_everywhere("x", b"x");
    // Nobody says any more where they are.
    elsewhere.mirror.nodes.iter_mut().for_each(|node| {
        node.stop_both();
        node.flags.clear();
    });
    elsewhere.mirror.nats().delete_nodes();
    elsewhere.mirror.nodes.iter_mut().for_each(Node::start_both);
    elsewhere.mirror.wait_ready();
    write(&elsewhere.mirror.nodes[1].path("y"), b"y");
    elsewhere.mirror.wait_everywhere("y", b"y");
    assert_eq!(elsewhere.blobs().len(), 2);
    assert_eq!(record(&mut elsewhere.mirror)["blobs"], json!(elsewhere.url));
}
