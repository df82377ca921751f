//! Each kind of damage to the log and its consumer is named, in the process's log and in the status of the node, and healed.

use e2e::{LONG, Mirror, Node, Role, SOON, content, copy_folder, put_back, wait_for, write};
use std::fs;

fn mirror() -> Mirror {
    let mut mirror = Mirror::running(&["a", "b"]);
    for i in 0..10 {
        write(&mirror.nodes[i % 2].path(i.to_string()), &content(&i.to_string(), 2_000));
    }
    mirror.wait_everywhere("9", &content("9", 2_000));
    mirror.wait_agreed(SOON);
    mirror
}

fn stop_all(mirror: &mut Mirror) {
    mirror.nodes.iter_mut().for_each(Node::stop_both);
}

/// Both nodes say it, each by one of its processes at least, and agree again.
fn is_named_and_healed(mirror: &mut Mirror, why: &str) {
    for node in &mut mirror.nodes {
        let what = format!("{} to say `{why}`", node.name);
        wait_for(LONG, &what, || {
            let local = node.local_status(Role::Replicator)["log"].clone();
            let said =
                local["why"].as_str().is_some_and(|said| said.contains(why)) && local["began"].is_string();
            if said { Ok(()) } else { Err(local.to_string()) }
        });
        let logs = Role::ALL.map(|role| node.process(role).log());
        assert!(logs.iter().any(|log| log.contains(why)), "no log of {} has `{why}`", node.name);
        let said = node.run(Role::Replicator, &["status"]).stdout;
        assert!(said.contains(why), "{said}");
    }
    let roots = [0, 1].map(|node| mirror.nodes[node].root.clone());
    write(&roots[0].join("later"), b"later");
    mirror.wait_everywhere("later", b"later");
    for i in 0..10 {
        mirror.wait_everywhere(&i.to_string(), &content(&i.to_string(), 2_000));
    }
}

/// The broker gets an older copy of its data, with `meanwhile` done to it, while no node looks.
fn rolled_back(meanwhile: impl FnOnce(&mut Mirror)) -> Mirror {
    let mut mirror = mirror();
    let copy = mirror.dir().join("nats-copy");
    mirror.broker.stop();
    copy_folder(&mirror.broker.store(), &copy);
    mirror.broker.start();
    write(&mirror.nodes[0].path("since"), b"since");
    mirror.wait_everywhere("since", b"since");
    mirror.wait_agreed(SOON);
    stop_all(&mut mirror);
    mirror.broker.stop();
    put_back(&copy, &mirror.broker.store());
    mirror.broker.start();
    meanwhile(&mut mirror);
    mirror.nodes.iter_mut().for_each(Node::start_both);
    mirror.wait_everywhere("since", b"since");
    mirror
}

#[test]
fn a_log_that_was_rolled_back_is_named() {
    let mut mirror = rolled_back(|_| {});
    is_named_and_healed(&mut mirror, "the log ends at 10, and this index knows 11: it was rolled back");
}

#[test]
fn a_log_that_went_on_after_it_was_rolled_back_is_named() {
    let mut mirror = rolled_back(|mirror| {
        for i in 0..5 {
            mirror.nats().publish(&format!("mirror.media.other{i}"), b"written by somebody else");
        }
    });
    is_named_and_healed(&mut mirror, "the log has another event at 11 than this index knows");
}

#[test]
fn a_log_that_was_made_anew_is_named() {
    let mut mirror = mirror();
    stop_all(&mut mirror);
    mirror.broker.stop();
    fs::remove_dir_all(mirror.broker.store()).unwrap();
    mirror.broker.start();
    mirror.nodes.iter_mut().for_each(Node::start_both);
    mirror.wait_ready();
    is_named_and_healed(&mut mirror, "the log was created anew at");
}

#[test]
fn a_log_that_was_trimmed_is_named() {
    let mut mirror = mirror();
    stop_all(&mut mirror);
    for i in 0..5 {
        mirror.nats().publish(&format!("mirror.media.other{i}"), b"written by somebody else");
    }
    mirror.nats().trim_log(5);
    mirror.nodes.iter_mut().for_each(Node::start_both);
    is_named_and_healed(&mut mirror, "is gone from the log, and its path has no newer one");
}

#[test]
fn a_consumer_that_was_deleted_is_named_and_made_again() {
    let mut mirror = mirror();
    mirror.nats().delete_consumer("b");
    wait_for(SOON, "the replicator of b to say so", || {
        let log = mirror.nodes[1].process(Role::Replicator).log();
        if log.contains("following the log by replicator-b: there is no such stream or consumer") {
            Ok(())
        } else {
            Err(log)
        }
    });
    write(&mirror.nodes[0].path("later"), b"later");
    mirror.wait_everywhere("later", b"later");
    mirror.nodes[1].stop(Role::Replicator);
    mirror.nats().delete_consumer("b");
    mirror.nodes[1].start(Role::Replicator);
    wait_for(SOON, "b to say it in its record", || {
        let record = mirror.nats().record("b", Role::Replicator).ok_or("no record")?;
        let said = record["last_error"].as_str().is_some_and(|said| said.contains("deleted or restored"));
        if said { Ok(()) } else { Err(record.to_string()) }
    });
    assert!(mirror.nodes[1].process(Role::Replicator).log().contains("deleted or restored"));
    write(&mirror.nodes[0].path("later still"), b"later still");
    mirror.wait_everywhere("later still", b"later still");
    mirror.wait_agreed(SOON);
}
