//! `replicator gc`: what nothing needs goes, and nothing else.

use crate::{gc, put_without_path};
use common::hash::ContentHash;
use e2e::{Http, LONG, Mirror, Process, Role, SOON, content, wait_until, write};
use serde_json::json;

const CHUNK: &str = "$O.MIRROR_MEDIA_BLOBS.C.";

/// A node with so many files in the log, whose watcher takes uploads.
fn with_files(files: usize) -> (Mirror, Http) {
    let mut mirror = Mirror::idle(&["a", "b"]);
    let http = Http::start(&mut mirror.nodes[0], Role::Watcher, &[]);
    mirror.nodes[0].start(Role::Replicator);
    mirror.wait_ready();
    for i in 0..files {
        write(&mirror.nodes[0].path(format!("{i}")), &content(&i.to_string(), 2_000));
    }
    wait_until(SOON, "their events", || mirror.log().len() == files);
    (mirror, http)
}

#[test]
fn what_no_event_names_goes_after_the_time_of_grace_and_all_else_stays() {
    let (mut mirror, http) = with_files(30);
    // Old content is named by the log, and stays for whoever wants it back.
    write(&mirror.nodes[0].path("7"), b"newer");
    wait_until(SOON, "its event", || mirror.log().len() == 31);
    let unnamed = [b"small".to_vec(), content("large", 900_000)].map(|bytes| put_without_path(http, &bytes));
    let before = mirror.nats().chunks().len();

    let node = &mirror.nodes[0];
    let (planned, told) = gc(node, &["--dry-run", "--grace", "0s"]);
    assert_eq!(planned.code, Some(0), "{planned:?}");
    let expected =
        json!({ "blobs": 33, "unnamed": 2, "applied": 0, "bytes": 900_005, "orphans": 0, "refused": null });
    assert_eq!(told, expected);
    let nothing = json!({ "taken_away": 0, "bytes": 0, "in_use_again": 0, "orphans": 0 });
    assert_eq!(gc(node, &[]).1, nothing, "within the time of grace");
    assert_eq!(mirror.nats().chunks().len(), before);

    let (done, told) = gc(&mirror.nodes[0], &["--grace", "0s"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(told, json!({ "taken_away": 2, "bytes": 900_005, "in_use_again": 0, "orphans": 0 }));
    assert_eq!(gc(&mirror.nodes[0], &["--grace", "0s"]).1, nothing, "nothing to collect is success");
    for hash in unnamed {
        assert_eq!(http.get(&format!("/api/v1/files/{hash}")).status, 404);
    }
    assert_eq!(mirror.nats().chunks().len(), 31);
    // They can be stored again, and all that is left reaches a new node.
    put_without_path(http, b"small");
    put_without_path(http, &content("large", 900_000));
    mirror.nodes[1].start_both();
    mirror.wait_agreed(SOON);
    let restored = mirror.nodes[1].run(Role::Replicator, &["restore", "7"]);
    assert_eq!(restored.code, Some(0), "{restored:?}");
    mirror.wait_everywhere("7", &content("7", 2_000));
}

#[test]
fn much_without_a_name_and_a_log_that_no_node_follows_need_an_operator() {
    let (mut mirror, http) = with_files(3);
    let hash = put_without_path(http, b"unnamed");
    let (refused, told) = gc(&mirror.nodes[0], &["--grace", "0s"]);
    assert_eq!((refused.code, &told["unnamed"]), (Some(5), &json!(1)), "{refused:?}");
    assert!(refused.stderr.contains("1 of 4 blobs") && refused.stderr.contains("--yes"), "{refused:?}");
    assert_eq!(http.get(&format!("/api/v1/files/{hash}")).status, 200);
    assert_eq!(gc(&mirror.nodes[0], &["--grace", "0s", "--yes"]).1["taken_away"], 1);

    // The broker has lost its log, and no node has looked since.
    mirror.nodes[0].stop_both();
    mirror.nats().publish("mirror.media.foreign", b"no event");
    let versions = mirror.nats().log_state().unwrap();
    mirror.nats().delete_log();
    mirror.nodes[1].run(Role::Watcher, &["scan"]).succeeded();
    assert_eq!(mirror.nats().log_state().unwrap().messages, 0, "{versions:?}");
    let (refused, told) = gc(&mirror.nodes[0], &["--grace", "0s", "--dry-run"]);
    assert_eq!(refused.code, Some(0), "{refused:?}");
    assert_eq!(told["unnamed"], 3);
    assert!(told["refused"].as_str().unwrap().contains("another life"), "{told}");
    assert_eq!(gc(&mirror.nodes[0], &["--grace", "0s"]).0.code, Some(5));
    assert_eq!(mirror.nats().chunks().len(), 3);
}

#[test]
fn chunks_of_broken_uploads_go_and_a_later_upload_is_whole() {
    let (mut mirror, http) = with_files(12);
    let named = ContentHash::of(b"what it should be");
    for nuid in ["0123456789ABCDEFGHIJKL".to_owned(), named.to_string()] {
        (0..2).for_each(|_| mirror.nats().publish(&format!("{CHUNK}{nuid}"), b"something else"));
    }
    // cat.jpg, in the letters of a subject: no blob, and none of ours.
    mirror.nats().publish(&format!("{CHUNK}FOREIGN"), b"cat");
    let meta = br#"{"name":"cat.jpg","bucket":"MIRROR_MEDIA_BLOBS","nuid":"FOREIGN","size":3,"chunks":1}"#;
    mirror.nats().publish("$O.MIRROR_MEDIA_BLOBS.M.Y2F0LmpwZw==", meta);
    assert_eq!(gc(&mirror.nodes[0], &[]).1["orphans"], 0, "it may be an upload that goes on");
    assert_eq!(gc(&mirror.nodes[0], &["--grace", "0s"]).1["orphans"], 2);
    assert_eq!(mirror.nats().chunks().len(), 12 + 1);
    assert!(mirror.nats().chunks().contains(&format!("{CHUNK}FOREIGN")), "an object of somebody else");
    put_without_path(http, b"what it should be");
    let answer = http.get(&format!("/api/v1/files/{named}"));
    assert_eq!((answer.status, answer.body.as_str()), (200, "what it should be"));
}

#[test]
fn one_collects_at_a_time_and_who_died_is_waited_for_no_longer_than_a_minute() {
    let (mut mirror, _) = with_files(1);
    mirror.nats().publish(
        "$KV.MIRROR_MEDIA_NODES._gc",
        br#"{"v":1,"holder":"b","free":false,"finished":null,"transit":false}"#,
    );
    let (refused, _) = gc(&mirror.nodes[0], &[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("b collects already"), "{refused:?}");
    assert_eq!(gc(&mirror.nodes[0], &["--dry-run"]).0.code, Some(0), "looking needs no lease");
    mirror.nats().publish(
        "$KV.MIRROR_MEDIA_NODES._gc",
        br#"{"v":1,"holder":"b","free":true,"finished":"2026-01-01T00:00:00Z","transit":false}"#,
    );
    assert_eq!(gc(&mirror.nodes[0], &[]).0.code, Some(0));
}

/// Names, not contents, are what a collection goes through; it is the same memory for five times as many.
#[test]
#[ignore = "takes minutes"]
fn full_a_hundred_thousand_objects_are_listed_and_collected_in_flat_memory() {
    for elsewhere in [None, Some("shared")] {
        let mut mirror = Mirror::idle(&["a", "b"]);
        if let Some(folder) = elsewhere {
            let url = format!("file://{}", mirror.outside(folder).display());
            mirror.nodes[0].flags.extend(["--blobs".into(), url]);
        }
        mirror.nodes[0].start_both();
        mirror.wait_ready();
        let mut peaks = Vec::new();
        for (from, to) in [(0, 20_000), (20_000, 100_000)] {
            for i in from..to {
                write(&mirror.nodes[0].path(format!("{}/{i}", i / 1_000)), &u64::to_le_bytes(i));
            }
            wait_until(LONG * 10, "their events", || {
                mirror.nats().log_state().is_some_and(|log| log.messages == to)
            });
            let command = mirror.nodes[0].command(Role::Replicator, ["gc", "--grace", "0s"]);
            let began = std::time::Instant::now();
            let mut process = Process::spawn("gc", mirror.dir(), command);
            let mut peak = 0;
            while process.is_running() {
                peak = peak.max(process.try_peak_memory().unwrap_or(0));
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            assert!(process.wait(SOON).success(), "{}", process.log());
            println!(
                "{elsewhere:?}: {to} objects: {} MiB, {:.1} s",
                peak >> 20,
                began.elapsed().as_secs_f64()
            );
            peaks.push(peak);
        }
        assert!(peaks[1] < peaks[0] + (32 << 20), "{peaks:?}");
    }
}
