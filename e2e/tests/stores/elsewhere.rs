//! A mirror whose blobs are not the broker's: on an S3 server, or in a folder that all nodes share; and what goes wrong there.

use crate::{gc, put_without_path};
use e2e::{
    Http, LONG, Link, Mirror, Proxy, Role, S3, SOON, always_busy, blobs_in, content, environment, wait_for,
    wait_until, write,
};
use serde_json::json;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// Where the blobs of a mirror are.
pub struct Elsewhere {
    pub mirror: Mirror,
    pub s3: Option<S3>,
    pub url: String,
    folder: PathBuf,
}

impl Elsewhere {
    /// Two nodes, of which nothing runs, with their blobs on an S3 server.
    pub fn on_s3() -> Self {
        let mut mirror = Mirror::idle(&["a", "b"]);
        let s3 = S3::started(mirror.dir());
        let url = s3.url("site/blobs");
        for node in &mut mirror.nodes {
            node.environment.extend(s3.environment());
            node.flags.extend(["--blobs".into(), url.clone()]);
        }
        let folder = s3.folder("site/blobs");
        Self { mirror, s3: Some(s3), url, folder }
    }

    /// The same with a shared folder.
    pub fn in_a_folder() -> Self {
        let mut mirror = Mirror::idle(&["a", "b"]);
        let folder = mirror.outside("shared");
        let url = format!("file://{}", folder.display());
        mirror.nodes.iter_mut().for_each(|node| node.flags.extend(["--blobs".into(), url.clone()]));
        Self { mirror, s3: None, url, folder }
    }

    /// Both processes of both nodes run.
    fn running(mut self) -> Self {
        self.mirror.nodes.iter_mut().for_each(e2e::Node::start_both);
        self.mirror.wait_ready();
        self
    }

    pub fn blobs(&self) -> BTreeMap<String, u64> {
        blobs_in(&self.folder)
    }

    fn s3(&mut self) -> &mut S3 {
        self.s3.as_mut().expect("an S3 server")
    }
}

/// Waits until a process says that its store is away; it may be behind because of it.
fn wait_store_away(http: Http) {
    wait_for(LONG, "store_away", || {
        let answer = http.get("/readyz");
        if answer.reasons().iter().any(|reason| reason == "store_away") {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    });
}

#[test]
fn two_nodes_share_a_store_that_is_not_the_brokers() {
    for elsewhere in [Elsewhere::on_s3(), Elsewhere::in_a_folder()] {
        let mut elsewhere = elsewhere.running();
        let url = elsewhere.url.clone();
        // One part, several of them, and one of each that a single request carries.
        let sizes = [0, 10, 256 << 10, (256 << 10) + 1, 3 << 20, 21 << 20];
        for (n, size) in sizes.into_iter().enumerate() {
            write(
                &elsewhere.mirror.nodes[n % 2].path(format!("uploads/{n}.bin")),
                &content(&n.to_string(), size),
            );
        }
        (0..200).for_each(|n| {
            write(&elsewhere.mirror.nodes[0].path(format!("small/{n}")), format!("{n}").as_bytes())
        });
        wait_until(LONG, "their events", || elsewhere.mirror.log().len() == sizes.len() + 200);
        elsewhere.mirror.wait_equal(LONG);
        assert_eq!(elsewhere.blobs().len(), sizes.len() + 200);
        assert!(!elsewhere.mirror.nats().has_bucket(), "no bucket of blobs is made on the broker");
        for role in Role::ALL {
            let record = elsewhere.mirror.nats().record("b", role).unwrap();
            assert_eq!(record["store"], json!(url));
        }
        let doctor = elsewhere.mirror.nodes[0].run(Role::Replicator, &["doctor", "--json"]);
        let checks = doctor.json_lines()[0]["checks"].as_array().unwrap().clone();
        let store = checks.iter().find(|check| check["check"] == "store").unwrap();
        assert_eq!((&store["verdict"], &store["found"]), (&json!("ok"), &json!(format!("{url} answers"))));
        assert!(!checks.iter().any(|check| check["check"] == "blobs"), "{checks:?}");
        // A process that is told another one does not begin; one that is told none finds it.
        elsewhere.mirror.nodes[1].stop_both();
        let told = elsewhere.mirror.nodes[1].run(Role::Watcher, &["run", "--blobs", "nats"]);
        assert_eq!(told.code, Some(2), "{told:?}");
        assert!(
            told.stderr.contains(&url) && told.stderr.contains("replicator migrate --to nats"),
            "{told:?}"
        );
        elsewhere.mirror.nodes[1].flags.clear();
        write(&elsewhere.mirror.nodes[0].path("later"), b"later");
        elsewhere.mirror.nodes[1].start_both();
        elsewhere.mirror.wait_everywhere("later", b"later");
        // A new node gets all of it from there; what is read and checked by the other commands, too.
        let new = elsewhere.mirror.add_node("c");
        let environment = elsewhere.s3.as_ref().map(S3::environment).unwrap_or_default();
        elsewhere.mirror.nodes[new].environment.extend(environment);
        elsewhere.mirror.nodes[new].start_both();
        elsewhere.mirror.wait_equal(LONG);
        elsewhere.mirror.nodes[0].run(Role::Replicator, &["verify", "--read-blobs"]).succeeded();
        let history =
            elsewhere.mirror.nodes[0].run(Role::Replicator, &["history", "later", "--json"]).succeeded();
        assert_eq!(history.json_lines()[0]["blob"], json!(true));
    }
}

#[test]
fn blobs_that_no_event_names_are_collected_there_too() {
    for mut elsewhere in [Elsewhere::on_s3(), Elsewhere::in_a_folder()] {
        let http = Http::start(&mut elsewhere.mirror.nodes[0], Role::Watcher, &[]);
        elsewhere.mirror.nodes[0].start(Role::Replicator);
        elsewhere.mirror.wait_ready();
        (0..30).for_each(|n| {
            write(&elsewhere.mirror.nodes[0].path(format!("{n}")), &content(&n.to_string(), 2_000))
        });
        wait_until(SOON, "their events", || elsewhere.mirror.log().len() == 30);
        let unnamed =
            [b"small".to_vec(), content("large", 900_000)].map(|bytes| put_without_path(http, &bytes));
        // Found, and so marked as in use.
        put_without_path(http, b"small");
        // What is left of an upload that was cut off.
        if let Some(s3) = &elsewhere.s3 {
            s3.begin_upload(&format!("site/blobs/blobs/ab/{}", "ab".repeat(32)));
            s3.begin_upload("site/another");
        } else {
            let file = elsewhere.folder.join("blobs/ab").join(format!("{}#7", "ab".repeat(32)));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, b"half").unwrap();
        }
        let node = &elsewhere.mirror.nodes[0];
        let nothing = json!({ "taken_away": 0, "bytes": 0, "in_use_again": 0, "orphans": 0 });
        assert_eq!(gc(node, &[]).1, nothing, "within the time of grace");
        let (planned, told) = gc(node, &["--dry-run", "--grace", "0s"]);
        assert_eq!(
            (planned.code, &told["unnamed"], &told["blobs"]),
            (Some(0), &json!(2), &json!(32)),
            "{planned:?}"
        );
        let (done, told) = gc(node, &["--grace", "0s"]);
        assert_eq!(done.code, Some(0), "{done:?}");
        assert_eq!(told, json!({ "taken_away": 2, "bytes": 900_005, "in_use_again": 0, "orphans": 1 }));
        assert_eq!(gc(node, &["--grace", "0s"]).1, nothing, "nothing to collect is success");
        assert_eq!(elsewhere.blobs().len(), 30);
        for hash in unnamed {
            assert_eq!(http.get(&format!("/api/v1/files/{hash}")).status, 404);
        }
        put_without_path(http, b"small");
        elsewhere.mirror.nodes[1].start_both();
        elsewhere.mirror.wait_agreed(SOON);
    }
}

#[test]
fn a_store_that_is_down_is_waited_for_and_nothing_is_lost_or_parked() {
    let mut elsewhere = Elsewhere::on_s3();
    let [watcher, replicator] = {
        let [a, b] = &mut elsewhere.mirror.nodes[..] else { unreachable!("two nodes") };
        a.start(Role::Replicator);
        b.start(Role::Watcher);
        [Http::start(a, Role::Watcher, &[]), Http::start(b, Role::Replicator, &[])]
    };
    elsewhere.mirror.wait_ready();
    write(&elsewhere.mirror.nodes[0].path("before"), b"before");
    elsewhere.mirror.wait_everywhere("before", b"before");
    // The replicator knows of a file whose blob it cannot have.
    elsewhere.mirror.nodes[1].process(Role::Replicator).freeze();
    write(&elsewhere.mirror.nodes[0].path("between"), &content("between", 100_000));
    wait_until(SOON, "its event", || elsewhere.mirror.log().len() == 2);
    elsewhere.s3().kill();
    elsewhere.mirror.nodes[1].process(Role::Replicator).resume();
    write(&elsewhere.mirror.nodes[0].path("during"), &content("during", 3 << 20));
    write(&elsewhere.mirror.nodes[0].path("during small"), b"small");
    for http in [watcher, replicator] {
        wait_store_away(http);
    }
    assert_eq!(elsewhere.mirror.log().len(), 2, "nothing is published without its blob");
    elsewhere.s3().start();
    elsewhere.mirror.wait_equal(LONG);
    assert_eq!(elsewhere.mirror.log().len(), 4);
    for http in [watcher, replicator] {
        http.wait_reasons(LONG, 200, &[]);
    }
    let log = elsewhere.mirror.nodes[1].process(Role::Replicator).log();
    assert!(!log.contains("parked"), "{log}");
    assert!(log.contains("the blob store is away"), "{log}");
}

#[test]
fn a_store_that_is_slow_has_too_much_to_do_or_knows_somebody_else_stops_nothing_for_good() {
    let mut elsewhere = Elsewhere::on_s3();
    let port = elsewhere.s3().port();
    let proxy = Proxy::to(port, 1);
    let slow: Vec<(String, PathBuf)> = environment(proxy.port(), "e2e", "e2e-secret");
    let busy = environment(always_busy(), "e2e", "e2e-secret");
    let stranger = environment(port, "e2e", "another");
    let good = elsewhere.s3().environment();
    elsewhere.mirror.nodes[0].start_both();
    elsewhere.mirror.wait_ready();
    for (n, (environment, words)) in
        [(busy, "the blob store is away"), (stranger, "denied by the blob store"), (slow, "")]
            .into_iter()
            .enumerate()
    {
        proxy.set(Link::Slow(40));
        let node = &mut elsewhere.mirror.nodes[1];
        node.environment.retain(|(name, _)| !name.starts_with("AWS_"));
        node.environment.extend(environment);
        let http = Http::start(node, Role::Replicator, &[]);
        node.start(Role::Watcher);
        let (mine, theirs) = (format!("mine {n}"), format!("theirs {n}"));
        write(&elsewhere.mirror.nodes[1].path(&mine), mine.as_bytes());
        write(&elsewhere.mirror.nodes[0].path(&theirs), &content(&theirs, 1 << 20));
        if words.is_empty() {
            elsewhere.mirror.wait_equal(LONG);
        } else {
            wait_store_away(http);
            for role in Role::ALL {
                wait_for(LONG, "the reason in the log", || {
                    let log = elsewhere.mirror.nodes[1].process(role).log();
                    if log.contains(words) { Ok(()) } else { Err(log) }
                });
            }
        }
        elsewhere.mirror.nodes[1].stop_both();
        let node = &mut elsewhere.mirror.nodes[1];
        node.environment.retain(|(name, _)| !name.starts_with("AWS_"));
        node.environment.extend(good.clone());
        node.start_both();
        elsewhere.mirror.wait_equal(LONG);
        elsewhere.mirror.nodes[1].stop_both();
    }
    assert!(!elsewhere.mirror.nodes[1].has(Role::Watcher));
}

#[test]
fn a_shared_folder_that_is_not_mounted_is_not_filled() {
    let mut elsewhere = Elsewhere::in_a_folder().running();
    write(&elsewhere.mirror.nodes[0].path("before"), b"before");
    elsewhere.mirror.wait_everywhere("before", b"before");
    let aside = elsewhere.folder.with_extension("aside");
    fs::rename(&elsewhere.folder, &aside).unwrap();
    fs::create_dir(&elsewhere.folder).unwrap();
    write(&elsewhere.mirror.nodes[0].path("during"), b"during");
    wait_until(LONG, "a watcher that misses its store", || {
        elsewhere.mirror.nodes[0].process(Role::Watcher).log().contains("is not mounted")
    });
    fs::remove_dir(&elsewhere.folder).expect("nothing was put into it");
    fs::rename(&aside, &elsewhere.folder).unwrap();
    elsewhere.mirror.wait_everywhere("during", b"during");
}
