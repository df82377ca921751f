//! What changes under our hands: folders that become links while a file is placed, things in the way, files that change while they are hashed.

use e2e::{
    Fault, Injection, LONG, Mirror, Role, SOON, Trace, Tree, Writer, content, paced, sha256_of, wait_for,
    wait_until, write,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Seek, Write},
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// A folder of b becomes a link to a folder outside, and a folder again, for as long as files are placed in it.
#[test]
fn a_folder_swapped_for_a_link_again_and_again_leads_nowhere() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start_both();
    mirror.nodes[1].start(Role::Replicator);
    mirror.wait_ready();
    let outside = mirror.outside("outside");
    let (folder, link) = (mirror.nodes[1].path("folder"), mirror.nodes[1].path("link"));
    fs::create_dir(&folder).unwrap();
    symlink(&outside, &link).unwrap();
    let (over, writer) = (AtomicBool::new(false), Writer::connect(&mirror.broker.url()));
    let swapped = thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            let mut swapped = 0u32;
            while !over.load(Ordering::SeqCst) {
                renameat_with(CWD, &folder, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                swapped += 1;
            }
            swapped
        });
        for i in 0..300 {
            writer.add(&format!("folder/{i}"), &content(&i.to_string(), 500));
        }
        wait_until(LONG, "some files to be placed all the same", || {
            Tree::sizes(&mirror.nodes[1].root).0.len() > 20
        });
        over.store(true, Ordering::SeqCst);
        swapping.join().unwrap()
    });
    assert!(swapped > 100, "only {swapped} swaps");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was placed outside");
}

/// The same at the worst moment: between the look at the path and the rename.
#[test]
fn a_folder_swapped_for_a_link_just_before_the_rename_leads_nowhere() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let writer = Writer::connect(&mirror.broker.url());
    writer.add("folder/first", b"first");
    mirror.wait_everywhere("folder/first", b"first");
    let outside = mirror.outside("outside");
    let trace = Trace::at(mirror.dir().join("trace"));
    let process = mirror.nodes[1].process(Role::Replicator).id();
    let late = Injection::new("renameat2", Fault::Delay(400), "1+");
    let strace = trace.attach(process, mirror.dir(), &[], &[late]);
    writer.add("folder/second", b"second");
    // Complete: the folder that it goes to is open by then.
    wait_until(SOON, "the complete temp file", || {
        let names = fs::read_dir(mirror.nodes[1].path(".mirror/tmp")).unwrap().flatten();
        names.into_iter().any(|entry| !entry.file_name().to_string_lossy().ends_with(".part"))
    });
    let (folder, away) = (mirror.nodes[1].path("folder"), mirror.outside("elsewhere").join("folder"));
    fs::rename(&folder, &away).unwrap();
    symlink(&outside, &folder).unwrap();
    wait_until(SOON, "a late rename", || !trace.injected().is_empty());
    strace.stop();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was placed outside");
    fs::remove_file(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    mirror.wait_everywhere("folder/second", b"second");
    mirror.wait_everywhere("folder/first", b"first");
    mirror.wait_recovered(LONG);
}

#[test]
fn a_fifo_or_a_file_in_the_way_blocks_its_own_path_only_until_it_goes() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    mirror.nodes[0].start_both();
    mirror.nodes[1].start(Role::Replicator);
    mirror.wait_ready();
    let (fifo, file) = (mirror.nodes[1].path("fifo"), mirror.nodes[1].path("file"));
    let mut mkfifo = std::process::Command::new("mkfifo");
    mkfifo.arg(&fifo);
    e2e::run(SOON, mkfifo).succeeded();
    write(&file, b"where a folder should be");
    write(&mirror.nodes[0].path("fifo"), b"a file");
    write(&mirror.nodes[0].path("file/below"), b"below");
    write(&mirror.nodes[0].path("other"), b"other");
    mirror.wait_everywhere("other", b"other");
    wait_for(LONG, "word of it", || {
        let record = mirror.nats().record("b", Role::Replicator).ok_or("no record")?;
        if record["last_error"].is_string() { Ok(()) } else { Err(record.to_string()) }
    });
    assert_eq!(fs::read(&file).unwrap(), b"where a folder should be");
    fs::remove_file(&fifo).unwrap();
    fs::remove_file(&file).unwrap();
    mirror.wait_everywhere("fifo", b"a file");
    mirror.wait_everywhere("file/below", b"below");
    mirror.wait_recovered(LONG);
}

/// What a writer does to a file while it is being hashed.
type Deed = fn(&Path);

fn append(file: &Path) {
    File::options().append(true).open(file).unwrap().write_all(b"appended").unwrap();
}

fn rewrite(file: &Path) {
    let mut open = File::options().write(true).open(file).unwrap();
    open.seek(std::io::SeekFrom::Start(700_000)).unwrap();
    open.write_all(b"rewritten").unwrap();
}

fn truncate(file: &Path) {
    File::options().write(true).open(file).unwrap().set_len(100_000).unwrap();
}

fn replace(file: &Path) {
    let other = file.with_extension("tmp");
    write(&other, &content("replaced", 800_000));
    fs::rename(other, file).unwrap();
}

fn remove(file: &Path) {
    fs::remove_file(file).unwrap();
}

/// Each block is read late; in between the file changes. Only what it was before or is afterwards is ever published.
fn changed_while_hashed(deed: Deed) {
    let mut mirror = Mirror::running(&["a", "b"]);
    let (file, copy) = (mirror.nodes[0].path("file"), mirror.outside("copy").join("file"));
    let trace = Trace::at(mirror.dir().join("trace")).only(file.clone());
    let watcher = mirror.nodes[0].process(Role::Watcher).id();
    let strace = trace.attach(watcher, mirror.dir(), &[], &[Injection::new("read", Fault::Delay(200), "1+")]);
    write(&file, &content("before", 900_000));
    fs::copy(&file, &copy).unwrap();
    let mut whole = BTreeSet::from([sha256_of(&copy).unwrap()]);
    // The read that follows is late already when this is seen.
    wait_until(SOON, "the reading to begin", || trace.text().contains("read("));
    deed(&file);
    strace.stop();
    whole.extend(sha256_of(&file));
    wait_until(SOON, "what stands there to be published", || {
        let last = mirror.log().pop().filter(|line| line.event.added.is_some());
        last.map(|line| line.event.sha256.to_string()) == sha256_of(&file).ok()
    });
    for line in mirror.log().into_iter().filter(|line| line.event.added.is_some()) {
        assert!(
            whole.contains(&line.event.sha256.to_string()),
            "a mixture was published at {}",
            line.version
        );
    }
    mirror.wait_recovered(SOON);
}

#[test]
fn a_file_appended_while_it_is_hashed_is_published_whole() {
    changed_while_hashed(append);
}

#[test]
fn a_file_rewritten_while_it_is_hashed_is_published_whole() {
    changed_while_hashed(rewrite);
}

#[test]
fn a_file_truncated_while_it_is_hashed_is_published_whole() {
    changed_while_hashed(truncate);
}

#[test]
fn a_file_replaced_while_it_is_hashed_is_published_whole() {
    changed_while_hashed(replace);
}

#[test]
fn a_file_removed_while_it_is_hashed_is_gone_everywhere() {
    changed_while_hashed(remove);
}

#[test]
fn a_writer_of_one_byte_a_second_is_waited_for() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let mut file = File::create(mirror.nodes[0].path("slow")).unwrap();
    paced(Duration::from_secs(1), b"one by one", |byte| file.write_all(&[*byte]).unwrap());
    drop(file);
    mirror.wait_everywhere("slow", b"one by one");
    assert_eq!(mirror.log().len(), 1, "published before it was finished");
}

#[test]
fn a_sparse_file_arrives_byte_for_byte() {
    let mut mirror = Mirror::running(&["a", "b"]);
    let file = mirror.nodes[0].path("sparse");
    let mut open = File::create(mirror.nodes[0].path("sparse.part")).unwrap();
    open.write_all(b"begin").unwrap();
    open.set_len(9_000_000).unwrap();
    open.seek(std::io::SeekFrom::Start(5_000_000)).unwrap();
    open.write_all(b"middle").unwrap();
    drop(open);
    fs::rename(mirror.nodes[0].path("sparse.part"), &file).unwrap();
    mirror.wait_everywhere("sparse", &fs::read(&file).unwrap());
    mirror.wait_equal(SOON);
}
