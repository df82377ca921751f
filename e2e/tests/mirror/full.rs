//! What takes gigabytes, or an otherwise idle machine: run by `deploy/test.sh --full`.

use e2e::{Mirror, SOON, content, write};
use std::{
    fs, thread,
    time::{Duration, Instant},
};

#[test]
#[ignore = "gigabytes; run by deploy/test.sh --full"]
fn full_one_gibibyte_passes_with_flat_memory() {
    crate::limits::passes_in_64_mib(1 << 30);
}

#[test]
#[ignore = "gigabytes; run by deploy/test.sh --full"]
fn full_two_gibibytes_pass_with_flat_memory() {
    crate::limits::passes_in_64_mib(2 << 30);
}

#[test]
#[ignore = "needs an idle machine; run by deploy/test.sh --full"]
fn full_a_file_of_100_kib_is_visible_elsewhere_in_under_20_ms_at_the_median() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let mut latencies: Vec<Duration> = (0..201)
        .map(|i| {
            let (name, bytes) = (format!("{i}.jpg"), content(&i.to_string(), 100 << 10));
            let target = mirror.nodes[1].path(&name);
            write(&mirror.nodes[0].path(&name), &bytes);
            let closed = Instant::now();
            while !target.exists() {
                assert!(closed.elapsed() < SOON, "{name} never came");
                // Finer than what is measured, and leaves the cores to the processes.
                thread::sleep(Duration::from_micros(200));
            }
            let latency = closed.elapsed();
            assert_eq!(fs::read(&target).unwrap(), bytes, "{name} is complete as soon as it is there");
            latency
        })
        .collect();
    mirror.wait_equal(SOON);
    latencies.sort();
    let (median, slow) = (latencies[100], latencies[199]);
    println!("close to visible, 100 KiB: median {median:?}, 99th percentile {slow:?}");
    assert!(median < Duration::from_millis(20), "median {median:?}, 99th percentile {slow:?}");
}
