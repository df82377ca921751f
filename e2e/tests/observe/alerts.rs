//! Under each fault its alert fires, and clears when the fault has ended, and no other alert tells of it: a real Prometheus with the shipped rules watches
//! real nodes.
//!
//! The waiting times of the rules are shortened (see [`Pace::Quick`]); thresholds are as shipped.

use crate::{
    observed::{Observed, Ports, TOKEN},
    prometheus::{Pace, Prometheus, may_run},
    rules::panels,
};
use common::{hash::ContentHash, index::Scrub, time::Timestamp};
use e2e::{
    LONG, Node, Role, SOON, SmallDisk, WATCHES, content, free_port, lift, limited, may_limit, not_run,
    wait_for, wait_until, write,
};
use std::{fs, os::unix::fs::symlink, path::PathBuf};

const MIB: usize = 1 << 20;

/// The same alert of each node.
fn all_of(name: &str) -> [(&str, &'static str); 3] {
    ["a", "b", "c"].map(|node| (name, node))
}

#[test]
#[ignore = "minutes"]
fn full_a_process_or_a_broker_that_ends_or_hangs_is_told_of_until_it_is_back() {
    let test = "full_a_process_or_a_broker_that_ends_or_hangs_is_told_of_until_it_is_back";
    let Some(mut all) = Observed::start(test, Pace::Quick, |_| {}) else { return };

    all.mirror.nodes[1].kill(Role::Replicator);
    let said = all.prometheus.wait_firing("killed", &[("Down", "b"), ("NodeUnseen", "")], &[]);
    let down = said.iter().find(|alert| alert["labels"]["alertname"] == "MediamirrorDown").unwrap();
    assert_eq!(down["annotations"]["summary"], "The replicator of b does not answer");
    all.ports.start(&mut all.mirror.nodes, 1, Role::Replicator, &[]);
    all.prometheus.wait_quiet("started again");

    all.mirror.nodes[1].process(Role::Replicator).freeze();
    all.prometheus.wait_firing("frozen", &[("Down", "b"), ("NodeUnseen", "")], &[]);
    all.mirror.nodes[1].process(Role::Replicator).resume();
    all.prometheus.wait_quiet("thawed");

    all.mirror.broker.kill();
    let away = [all_of("BrokerAway"), all_of("NotReady")].concat();
    all.prometheus.wait_firing("the broker is killed", &away, &[]);
    all.mirror.broker.start();
    all.prometheus.wait_quiet("the broker is back");

    // Pings go unanswered, and the connection is given up, before it counts as a stall.
    all.mirror.broker.pause();
    all.prometheus.wait_firing("the broker hangs", &away, &all_of("Stalled"));
    all.mirror.broker.resume();
    all.prometheus.wait_quiet("the broker answers");
    all.mirror.wait_agreed(SOON);
}

#[test]
#[ignore = "minutes"]
fn full_a_node_that_is_slow_or_stands_still_is_told_of_until_it_has_caught_up() {
    let test = "full_a_node_that_is_slow_or_stands_still_is_told_of_until_it_has_caught_up";
    let Some(mut all) = Observed::start(test, Pace::Quick, |_| {}) else { return };

    all.restart(2, Role::Replicator, &["--download-limit", "64KiB"]);
    all.mirror.wait_ready();
    all.prometheus.wait_quiet("restarted");
    write(&all.mirror.nodes[0].path("large"), &content("large", 3 * MIB));
    all.prometheus.wait_firing("slow", &[("Behind", "c"), ("NotReady", "c")], &[]);
    wait_until(LONG, "the large file", || all.mirror.nodes[2].path("large").exists());
    all.prometheus.wait_quiet("it has caught up");

    if all.mirror.broker.version() < (2, 11) {
        not_run(test, "this server cannot pause a consumer");
        return;
    }
    all.mirror.nats().pause_consumer("b");
    write(&all.mirror.nodes[0].path("late"), b"late");
    let said = [("Stalled", "b"), ("Behind", "b"), ("NotReady", "b")];
    all.prometheus.wait_firing("the consumer delivers nothing", &said, &[]);
    all.mirror.nats().resume_consumer("b");
    all.prometheus.wait_quiet("it delivers again");
}

#[test]
#[ignore = "minutes"]
fn full_what_cannot_be_applied_or_waits_for_a_person_is_told_of_until_it_is_cured() {
    let test = "full_what_cannot_be_applied_or_waits_for_a_person_is_told_of_until_it_is_cured";
    let Some(mut all) = Observed::start(test, Pace::Quick, |_| {}) else { return };

    // Tried for half a minute, then parked.
    for name in ["1", "2", "3"] {
        symlink("nowhere", all.mirror.nodes[1].path(name)).unwrap();
        write(&all.mirror.nodes[0].path(name), name.as_bytes());
    }
    let late = [("Behind", "b"), ("NotReady", "b")];
    all.prometheus.wait_firing("links in the way", &[("Failing", "b")], &late);
    all.prometheus.wait_firing("given up", &[("Parked", "b")], &[]);
    for name in ["1", "2", "3"] {
        fs::remove_file(all.mirror.nodes[1].path(name)).unwrap();
    }
    all.mirror.nodes[1].run(Role::Replicator, &["parked", "retry"]).succeeded();
    all.prometheus.wait_quiet("applied after all");

    all.mirror.nats().publish("mirror.media.poison", b"no event at all");
    all.prometheus.wait_firing("poison", &all_of("Parked"), &[]);
    write(&all.mirror.nodes[0].path("poison"), b"content after all");
    all.prometheus.wait_quiet("published over");

    for i in 0..200 {
        write(&all.mirror.nodes[0].path(format!("bulk/{i}")), &content(&i.to_string(), 100));
    }
    all.mirror.wait_agreed(LONG);
    fs::remove_dir_all(all.mirror.nodes[0].path("bulk")).unwrap();
    all.prometheus.wait_firing("removals in bulk", &[("Held", "a")], &[]);
    all.mirror.nodes[0].run(Role::Watcher, &["approve"]).succeeded();
    all.prometheus.wait_quiet("approved");
}

#[test]
#[ignore = "minutes"]
fn full_a_full_disk_is_told_of_until_there_is_room() {
    let test = "full_a_full_disk_is_told_of_until_there_is_room";
    let mut disk = None;
    let started = Observed::start(test, Pace::Quick, |mirror| {
        let home = mirror.nodes[2].home.join("disk");
        disk = SmallDisk::mounted(test, &home, (2100 * MIB) as u64, 10_000);
        mirror.nodes[2].root = home.join("media");
        fs::create_dir_all(&mirror.nodes[2].root).unwrap();
    });
    let (Some(mut all), Some(disk)) = (started, disk) else { return };
    all.restart(2, Role::Replicator, &["--min-free", "2GiB"]);
    all.mirror.wait_ready();
    all.prometheus.wait_quiet("restarted");
    let ballast = disk.path("ballast");
    write(&ballast, &content("ballast", 60 * MIB));
    all.prometheus.wait_firing("less than 2 GiB", &[("DiskLow", "c")], &[]);
    write(&all.mirror.nodes[0].path("more"), &content("more", MIB));
    let late = [("Behind", "c"), ("NotReady", "c")];
    all.prometheus.wait_firing("no room", &[("DiskLow", "c"), ("NoRoom", "c")], &late);
    fs::remove_file(ballast).unwrap();
    all.prometheus.wait_quiet("there is room");
}

#[test]
#[ignore = "minutes"]
fn full_a_blob_store_that_is_away_is_told_of_until_it_is_back() {
    let test = "full_a_blob_store_that_is_away_is_told_of_until_it_is_back";
    let mut shared = PathBuf::new();
    let started = Observed::start(test, Pace::Quick, |mirror| {
        shared = mirror.outside("shared");
        let flags = ["--blobs".to_owned(), format!("file://{}", shared.display())];
        mirror.nodes.iter_mut().for_each(|node| node.flags.extend(flags.clone()));
    });
    let Some(mut all) = started else { return };
    let aside = shared.with_extension("aside");
    fs::rename(&shared, &aside).unwrap();
    write(&all.mirror.nodes[0].path("file"), b"file");
    all.prometheus.wait_firing("not mounted", &[("StoreAway", "a")], &[("Failing", "a")]);
    fs::rename(&aside, &shared).unwrap();
    all.prometheus.wait_quiet("mounted again");
    all.mirror.wait_agreed(SOON);
}

#[test]
#[ignore = "minutes"]
fn full_neglect_is_told_of_until_it_ends() {
    let test = "full_neglect_is_told_of_until_it_ends";
    if !may_limit(test) {
        return;
    }
    let Some(mut all) = Observed::start(test, Pace::Quick, |_| {}) else { return };

    let node = &mut all.mirror.nodes[1];
    wait_until(SOON, "the first pass over all files", || {
        node.local_status(Role::Replicator)["scrub"]["finished"].is_string()
    });
    node.stop(Role::Replicator);
    let fifteen_days = 15 * 86_400 * 1_000_000_000;
    let finished = Some(Timestamp::from_nanos(Timestamp::now().nanos() - fifteen_days));
    node.change_index(move |tx| tx.set_scrub(&Scrub { finished, ..Scrub::default() }));
    all.ports.start(&mut all.mirror.nodes, 1, Role::Replicator, &["--scrub-rate", "off"]);
    all.prometheus.wait_firing("no scrub for 15 days", &[("ScrubOverdue", "b")], &[]);
    all.restart(1, Role::Replicator, &[]);
    all.prometheus.wait_quiet("files are read again");

    for i in 0..10 {
        write(&all.mirror.nodes[0].path(format!("{i}/file")), b"file");
    }
    all.mirror.wait_agreed(SOON);
    let node = &mut all.mirror.nodes[0];
    node.stop(Role::Watcher);
    let mut command = node.command(Role::Watcher, ["run"]);
    command.args(all.ports.flags(0, Role::Watcher));
    node.start_as(Role::Watcher, limited(&command, WATCHES, 4));
    let said = all.prometheus.wait_firing("too few watches", &[("FoldersUnwatched", "a")], &[]);
    assert_eq!(said[0]["annotations"]["summary"], "7 folders of a are polled instead of watched");
    lift(all.mirror.nodes[0].process(Role::Watcher).id(), WATCHES, 1000);
    all.prometheus.wait_quiet("all are watched");
}

#[test]
#[ignore = "minutes"]
fn full_a_node_that_has_diverged_is_told_of_until_it_is_mended() {
    let Some(mut all) =
        Observed::start("full_a_node_that_has_diverged_is_told_of_until_it_is_mended", Pace::Quick, |_| {})
    else {
        return;
    };
    for i in 0..30 {
        write(&all.mirror.nodes[i % 3].path(i.to_string()), &content(&i.to_string(), 1000));
    }
    let tree = all.mirror.wait_agreed(SOON);
    let other = Some(ContentHash::of(b"other"));
    all.mirror.nodes[1].change_index(move |tx| tx.mark(&"7".parse().unwrap(), |row| row.sha256 = other));
    all.prometheus.wait_firing("another hash in its index", &[("Diverged", "b")], &[]);
    all.prometheus.wait_quiet("mended");
    assert_eq!(all.mirror.wait_agreed(SOON), tree);
}

#[test]
#[ignore = "minutes"]
fn full_a_broker_that_is_not_durable_is_told_of_until_it_is() {
    let test = "full_a_broker_that_is_not_durable_is_told_of_until_it_is";
    let servers = std::env::var("MEDIAMIRROR_NATS_SERVERS").unwrap_or_default();
    let Some((old, new)) = servers.split_once(':') else {
        not_run(test, "MEDIAMIRROR_NATS_SERVERS names no old and no new nats-server");
        return;
    };
    if !may_run(test) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (bin, port) = (dir.path().join("bin"), free_port().to_string());
    fs::create_dir(&bin).unwrap();
    // The embedded one: its configuration is ours, so that its durability is known.
    let mut nodes: Vec<Node> = ["a", "b", "c"].map(|name| Node::new(dir.path(), name, None)).into();
    for node in &mut nodes {
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        node.environment = vec![
            ("XDG_STATE_HOME".into(), dir.path().join("xdg")),
            ("MEDIAMIRROR_EMBEDDED_PORT".into(), port.clone().into()),
            ("PATH".into(), path.into()),
        ];
    }
    let ports = Ports::new(&nodes, dir.path());
    let serve_by = |server: &str, nodes: &mut Vec<Node>| {
        let link = bin.join("nats-server");
        let _ = fs::remove_file(&link);
        symlink(fs::canonicalize(server).unwrap(), &link).unwrap();
        for node in 0..nodes.len() {
            Role::ALL.into_iter().for_each(|role| ports.start(nodes, node, role, &[]));
        }
    };
    serve_by(old, &mut nodes);
    let prometheus = Prometheus::start(&nodes[0].home, Pace::Quick, &ports.targets(&nodes), TOKEN);
    prometheus.wait_firing("it cannot sync", &all_of("BrokerNotDurable"), &[]);
    nodes.iter_mut().for_each(Node::stop_both);
    serve_by(new, &mut nodes);
    prometheus.wait_quiet("it syncs");
    let durable = prometheus.query("sum(mediamirror_broker_durable)").unwrap();
    assert_eq!(durable[0]["value"][1], "6");
}

#[test]
#[ignore = "minutes"]
fn full_each_panel_shows_something_of_nodes_that_work() {
    let Some(mut all) =
        Observed::start("full_each_panel_shows_something_of_nodes_that_work", Pace::Quick, |_| {})
    else {
        return;
    };
    for i in 0..50 {
        write(&all.mirror.nodes[i % 3].path(i.to_string()), &content(&i.to_string(), 1000));
    }
    all.mirror.wait_agreed(SOON);
    all.mirror.nodes[0].run(Role::Replicator, &["verify"]).succeeded();
    for (title, expressions) in panels() {
        for expression in expressions {
            // What goes wrong only, and what only an embedded broker tells.
            let empty = expression.ends_with("> 0") || expression.contains("broker_durable");
            let expression = expression.replace("$node", ".*").replace("$__rate_interval", "15s");
            wait_for(SOON, &format!("{title}: {expression}"), || {
                let shown = all.prometheus.query(&expression)?;
                if empty || !shown.is_empty() { Ok(()) } else { Err("nothing".into()) }
            });
        }
    }
    assert_eq!(
        all.http(0, Role::Replicator).get("/metrics").status,
        401,
        "Prometheus has a token, and we have none"
    );
}
