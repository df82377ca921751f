//! What takes gigabytes: run by `deploy/test.sh --full`.

use e2e::{Http, LONG, Mirror, Role, SOON, content, wait_until};
use std::{fs, io::Write};

const SIZE: u64 = 2 << 30;

#[test]
#[ignore = "gigabytes; run by deploy/test.sh --full"]
fn full_two_gibibytes_are_read_with_flat_memory_while_they_arrive_from_the_disk_and_from_the_store() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start(Role::Watcher);
    let http = Http::start(&mut mirror.nodes[1], Role::Replicator, &["--removals", "delete"]);
    mirror.wait_ready();
    mirror.nats().pause_consumer("b");
    let elsewhere = mirror.outside("elsewhere").join("large");
    let mut file = fs::File::create(&elsewhere).unwrap();
    let block = content("block", 1 << 20);
    for i in 0..SIZE >> 20 {
        file.write_all(&[&i.to_le_bytes(), &block[8..]].concat()).unwrap();
    }
    drop(file);
    let hash = e2e::sha256_of(&elsewhere).unwrap();
    fs::rename(&elsewhere, mirror.nodes[0].path("large")).unwrap();
    wait_until(LONG, "its event", || mirror.log().len() == 1);
    let by_hash = format!("GET /api/v1/files/{hash}");
    let read = |request: &str| {
        let answer = http.download(request, &[]);
        assert_eq!(answer.status, 200, "{request}");
        assert_eq!(answer.hash(), (hash.clone(), SIZE), "{request}");
    };
    read("GET /api/v1/paths/large");
    wait_until(LONG, "the file", || mirror.nodes[1].path("large").exists());
    read("GET /api/v1/paths/large");
    read(&by_hash);
    mirror.nats().resume_consumer("b");
    fs::remove_file(mirror.nodes[0].path("large")).unwrap();
    wait_until(SOON, "its removal", || !mirror.nodes[1].path("large").exists());
    read(&by_hash);
    let peak = mirror.nodes[1].process(Role::Replicator).peak_memory();
    assert!(peak < 64 << 20, "the replicator had {} MiB resident", peak >> 20);
}
