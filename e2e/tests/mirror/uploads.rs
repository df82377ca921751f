//! How programs finish a file: each way is published once, and whole.

use e2e::{Mirror, SOON, content, paced, write};
use std::{
    fs,
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

/// One event for the path, none for any other, and the bytes everywhere.
fn published_once(mirror: &mut Mirror, path: &str, bytes: &[u8]) {
    mirror.wait_everywhere(path, bytes);
    mirror.wait_equal(SOON);
    // A second publish of the same file would come before that of a file finished later.
    write(&mirror.nodes[0].path("later"), b"later");
    mirror.wait_everywhere("later", b"later");
    let paths: Vec<_> = mirror.log().iter().map(e2e::LogLine::path).collect();
    assert_eq!(paths, [path, "later"]);
}

#[test]
fn an_upload_as_php_does_it_is_published_once() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let (bytes, target) = (content("php", 300_000), mirror.nodes[0].path("uploads/2026/cat.jpg"));
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    let elsewhere = mirror.outside("php-uploads").join("phpA1b2C3");
    write(&elsewhere, &bytes);
    fs::rename(elsewhere, target).unwrap();
    published_once(&mut mirror, "uploads/2026/cat.jpg", &bytes);
}

#[test]
fn an_upload_as_rsync_does_it_is_published_once() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let bytes = content("rsync", 300_000);
    let temporary = mirror.nodes[0].path(".cat.jpg.xY12Zz");
    let mut file = File::create(&temporary).unwrap();
    bytes.chunks(32 * 1024).for_each(|chunk| file.write_all(chunk).unwrap());
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
    drop(file);
    fs::rename(&temporary, mirror.nodes[0].path("cat.jpg")).unwrap();
    published_once(&mut mirror, "cat.jpg", &bytes);
}

#[test]
fn a_file_written_in_place_over_ten_seconds_is_published_once() {
    // A file that stood still for five seconds counts as finished; a busy disk may hold up a write for that long.
    for _ in 0..3 {
        let mut mirror = Mirror::running(&["a", "b"]);
        let bytes = content("slow", 1_000_000);
        let mut file = File::create(mirror.nodes[0].path("slow.mp4")).unwrap();
        let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
        paced(Duration::from_secs(1), bytes.chunks(100_000), |chunk| {
            file.write_all(chunk).unwrap();
            gap = gap.max(last.elapsed());
            last = Instant::now();
        });
        drop(file);
        if gap < Duration::from_secs(4) {
            return published_once(&mut mirror, "slow.mp4", &bytes);
        }
    }
    panic!("this machine stands still for seconds again and again");
}

#[test]
fn a_hard_link_is_published_once() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let bytes = content("linked", 10_000);
    let elsewhere = mirror.outside("elsewhere").join("original");
    write(&elsewhere, &bytes);
    fs::hard_link(&elsewhere, mirror.nodes[0].path("linked.jpg")).unwrap();
    published_once(&mut mirror, "linked.jpg", &bytes);
}

#[test]
fn a_link_within_the_tree_makes_two_files_of_one_blob() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let bytes = content("twice", 10_000);
    write(&mirror.nodes[0].path("one"), &bytes);
    mirror.wait_everywhere("one", &bytes);
    let nats = e2e::Nats::connect(&mirror.broker.url());
    let tap = nats.tap();
    fs::hard_link(mirror.nodes[0].path("one"), mirror.nodes[0].path("two")).unwrap();
    mirror.wait_everywhere("two", &bytes);
    mirror.wait_equal(SOON);
    assert_eq!((tap.seen().stored, tap.seen().read), (0, 0));
    // They are two files for the mirror: a change of one is no change of the other on b.
    fs::remove_file(mirror.nodes[0].path("two")).unwrap();
    mirror.wait_nowhere("two");
    mirror.wait_everywhere("one", &bytes);
}

#[test]
fn time_and_permission_bits_travel_with_content() {
    use std::os::unix::fs::PermissionsExt;
    let mut mirror = Mirror::running(&["a", "b"]);
    let then = std::time::UNIX_EPOCH + Duration::new(1_500_000_000, 123_456_789);
    let elsewhere = mirror.outside("elsewhere").join("dated");
    write(&elsewhere, b"dated");
    File::options().write(true).open(&elsewhere).unwrap().set_modified(then).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o4640)).unwrap();
    fs::rename(&elsewhere, mirror.nodes[0].path("dated")).unwrap();
    mirror.wait_everywhere("dated", b"dated");
    let metadata = fs::metadata(mirror.nodes[1].path("dated")).unwrap();
    assert_eq!(metadata.modified().unwrap(), then);
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640, "setuid must not travel");
}
