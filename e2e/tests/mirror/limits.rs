//! Limits on bandwidth, on files at once, on memory; and what a burst of reads leaves behind.

use e2e::{LONG, Mirror, Role, SOON, content, write};
use std::{
    fs,
    time::{Duration, Instant},
};

/// The limit under test, in bytes per second.
const LIMIT: f64 = 1_048_576.0;
/// What may pass at once before the limit holds, and what is no file content: headers, events, records.
const SLACK: f64 = 1.5 * LIMIT;
/// Bytes that pass in these tests.
const SIZE: usize = 4 << 20;

#[test]
fn a_download_limit_holds() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start(Role::Watcher);
    mirror.nodes[1].flags = vec!["--download-limit".into(), "1MiB".into()];
    mirror.nodes[1].start(Role::Replicator);
    mirror.wait_ready();
    let before = mirror.broker.traffic().out_bytes;
    let start = Instant::now();
    for i in 0..8 {
        write(&mirror.nodes[0].path(i.to_string()), &content(&i.to_string(), SIZE / 8));
    }
    e2e::wait_until(SOON, "the limited files", || {
        let passed = (mirror.broker.traffic().out_bytes - before) as f64;
        let allowed = LIMIT * start.elapsed().as_secs_f64() + SLACK;
        assert!(passed <= allowed, "{passed} bytes passed where {allowed} may");
        (0..8).all(|i| mirror.nodes[1].path(i.to_string()).exists())
    });
    assert!(start.elapsed().as_secs_f64() >= (SIZE as f64 - SLACK) / LIMIT);
    mirror.wait_equal(SOON);
}

#[test]
fn an_upload_limit_holds() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].flags = vec!["--upload-limit".into(), "1MiB".into()];
    mirror.nodes[0].start(Role::Watcher);
    mirror.nodes[1].start(Role::Replicator);
    mirror.wait_ready();
    let before = mirror.broker.traffic().in_bytes;
    let start = Instant::now();
    write(&mirror.nodes[0].path("large"), &content("large", SIZE));
    e2e::wait_until(SOON, "the limited file", || {
        let passed = (mirror.broker.traffic().in_bytes - before) as f64;
        let allowed = LIMIT * start.elapsed().as_secs_f64() + SLACK;
        assert!(passed <= allowed, "{passed} bytes passed where {allowed} may");
        mirror.nodes[1].path("large").exists()
    });
    assert!(start.elapsed().as_secs_f64() >= (SIZE as f64 - SLACK) / LIMIT);
    mirror.wait_equal(SOON);
}

#[test]
fn one_transfer_at_a_time_moves_everything() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    for node in &mut mirror.nodes {
        node.flags = vec!["--transfers".into(), "1".into()];
        node.start_both();
    }
    for i in 0..100 {
        write(&mirror.nodes[i % 2].path(i.to_string()), &content(&i.to_string(), 10_000 * (i % 40)));
    }
    assert_eq!(mirror.wait_equal(LONG).0.len(), 100);
}

#[test]
fn reading_2000_blobs_in_a_burst_leaves_no_consumers() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    for i in 0..2_000 {
        write(&mirror.nodes[0].path(format!("{}/{i}", i % 20)), &content(&i.to_string(), 4_000));
    }
    mirror.nodes[0].run(Role::Watcher, &["scan"]).succeeded();
    mirror.nodes[1].start(Role::Replicator);
    assert_eq!(mirror.wait_equal(LONG).0.len(), 2_000);
    assert_eq!(mirror.nats().bucket_consumers(), Vec::<String>::new());
    let peak = mirror.nodes[1].process(Role::Replicator).peak_memory();
    assert!(peak < 64 << 20, "the replicator used {peak} bytes");
}

#[test]
fn memory_stays_flat_while_a_large_file_passes() {
    passes_in_64_mib(192 << 20);
}

/// One file of this size travels, and neither process was ever over 64 MiB.
pub fn passes_in_64_mib(size: u64) {
    let mut mirror = Mirror::running(&["a", "b"]);
    let elsewhere = mirror.outside("elsewhere").join("large");
    let mut file = fs::File::create(&elsewhere).unwrap();
    let block = content("block", 1 << 20);
    for i in 0..size >> 20 {
        // Each block is another, so that none can be saved.
        std::io::Write::write_all(&mut file, &[&i.to_le_bytes(), &block[8..]].concat()).unwrap();
    }
    drop(file);
    fs::rename(&elsewhere, mirror.nodes[0].path("large")).unwrap();
    e2e::wait_until(LONG * 5, "the large file", || mirror.nodes[1].path("large").exists());
    mirror.wait_equal(LONG);
    for (node, role) in [(0, Role::Watcher), (1, Role::Replicator)] {
        let peak = mirror.nodes[node].process(role).peak_memory();
        assert!(peak < 64 << 20, "the {} had {} MiB resident", role.name(), peak >> 20);
    }
}

#[test]
fn the_programs_tell_their_version_in_under_50_ms() {
    for role in Role::ALL {
        let fastest = (0..10).map(|_| {
            let start = Instant::now();
            let output = std::process::Command::new(role.program()).arg("--version").output().unwrap();
            assert!(output.status.success());
            assert!(String::from_utf8_lossy(&output.stdout).starts_with(role.name()));
            start.elapsed()
        });
        // The best of ten: other tests run beside this one.
        assert!(fastest.min().unwrap() < Duration::from_millis(50));
    }
}
