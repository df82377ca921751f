//! What the nodes see of each other: most of them gone, and one that has not the same files.

use e2e::{Http, LONG, Mirror, Role, SOON, content, wait_for, wait_until, write};
use std::time::Duration;

/// Two looks at the other nodes, 5 s apart, and what each takes; none in the first 20 s of a connection.
const NOTICED: Duration = Duration::from_secs(60);

#[test]
fn a_node_with_other_files_says_so_names_them_and_is_mended() {
    let mut mirror = Mirror::idle(&["a", "b", "c"]);
    let http = Http::start(&mut mirror.nodes[1], Role::Replicator, &[]);
    mirror.nodes[1].start(Role::Watcher);
    for node in [0, 2] {
        mirror.nodes[node].start_both();
    }
    mirror.wait_ready();
    for i in 0..30 {
        write(&mirror.nodes[i % 3].path(format!("f{i}")), &content(&i.to_string(), 1_000));
    }
    let tree = mirror.wait_agreed(SOON);
    let equal = mirror.nodes[0].run(Role::Replicator, &["verify", "--cluster"]).succeeded();
    assert!(equal.stdout.contains("3 nodes have the same 30 files"), "{}", equal.stdout);
    // It would look at a file that was placed a moment ago, and find out by itself.
    mirror.nodes[1].stop(Role::Watcher);
    mirror.nodes[1].change_index(|tx| {
        for path in ["f7", "f8"] {
            let path = path.parse().unwrap();
            tx.mark(&path, |row| row.sha256 = Some(common::hash::ContentHash::of(b"other")))?;
        }
        tx.forget_row(&"f9".parse().unwrap())
    });
    http.wait_reasons(NOTICED, 200, &["diverged"]);
    assert_eq!(http.metrics().of("mediamirror_digest_match"), 0.0);
    let found = wait_for(SOON, "b to say what differs", || {
        let run = mirror.nodes[0].run(Role::Replicator, &["verify", "--cluster", "--timeout", "1s"]);
        if run.stdout.contains("f9") { Ok(run.stdout) } else { Err(run.stdout) }
    });
    // By the time that it is printed it may have been mended.
    assert!(found.contains("b differ") && found.contains("  f7\n  f8\n  f9\n"), "{found}");
    http.wait_reasons(SOON, 200, &[]);
    assert_eq!(http.metrics().of("mediamirror_digest_match"), 1.0);
    let log = mirror.nodes[1].process(Role::Replicator).log();
    assert!(log.contains("this node has diverged") && log.contains("the same files as the others again"));
    assert_eq!(log.matches("the index was compared with the log").count(), 1, "{log}");
    for other in ["a", "c"] {
        assert_eq!(
            mirror.nats().record(other, Role::Replicator).unwrap()["diverged"],
            serde_json::Value::Null
        );
    }
    mirror.nodes[0].run(Role::Replicator, &["verify", "--cluster"]).succeeded();
    mirror.nodes[1].start(Role::Watcher);
    mirror.nodes[1].run(Role::Replicator, &["verify"]).succeeded();
    assert_eq!(mirror.wait_agreed(SOON), tree);
}

#[test]
fn a_digest_that_is_not_that_of_its_rows_is_counted_anew() {
    let mut mirror = Mirror::running(&["a", "b"]);
    write(&mirror.nodes[0].path("kept"), b"kept");
    mirror.wait_everywhere("kept", b"kept");
    mirror.wait_agreed(SOON);
    mirror.nodes[1].change_index(|tx| {
        tx.node_mut().digest = common::index::Digest::default();
        Ok(())
    });
    wait_until(NOTICED, "b to count anew", || {
        mirror.nodes[1].process(Role::Replicator).log().contains("it was counted anew")
    });
    mirror.wait_digests(SOON);
    // Of two nobody can tell who is wrong: both have looked, and are well.
    wait_until(SOON, "both to be well", || {
        mirror.nodes[0].run(Role::Replicator, &["status"]).code == Some(0)
    });
}

#[test]
fn a_node_whose_neighbours_are_gone_is_degraded_and_compares_everything_when_they_are_back() {
    let mut mirror = Mirror::idle(&["a", "b", "c"]);
    let watcher = Http::start(&mut mirror.nodes[0], Role::Watcher, &[]);
    let replicator = Http::start(&mut mirror.nodes[0], Role::Replicator, &[]);
    for node in [1, 2] {
        mirror.nodes[node].start_both();
    }
    mirror.wait_ready();
    mirror.nodes[1].stop_both();
    mirror.nodes[2].stop_both();
    for http in [watcher, replicator] {
        http.wait_reasons(NOTICED, 200, &["most_down"]);
        let samples = http.metrics();
        assert_eq!(samples.of("mediamirror_nodes{state=\"down\"}"), 4.0);
        assert_eq!(samples.of("mediamirror_nodes{state=\"up\"}"), 2.0);
    }
    write(&mirror.nodes[0].path("meanwhile"), b"meanwhile");
    wait_for(SOON, "the upload in the log", || match mirror.log_of("meanwhile").len() {
        1 => Ok(()),
        n => Err(format!("{n} events")),
    });
    mirror.nodes[1].start_both();
    for http in [watcher, replicator] {
        http.wait_reasons(NOTICED, 200, &[]);
    }
    mirror.nodes[2].start_both();
    mirror.wait_everywhere("meanwhile", b"meanwhile");
    for (role, compared) in [(Role::Watcher, "scanned"), (Role::Replicator, "the log was read through")] {
        wait_for(LONG, "everything to be compared", || {
            let log = mirror.nodes[0].process(role).log();
            let back = log.find("most of the nodes are there again").ok_or("not back")?;
            assert_eq!(log.matches("most of the nodes are down").count(), 1, "{log}");
            if log[back..].contains(compared) { Ok(()) } else { Err(log) }
        });
    }
}
