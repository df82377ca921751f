//! What vanishes in bulk waits for an operator: removals taken back, and files of a full node that was joined to the wrong mirror.

use e2e::{LONG, Mirror, Node, Role, SOON, Tree, content, sha256_of, wait_for, wait_until, write};
use std::fs;

const FILES: usize = 200;

fn local(node: &Node, key: &str) -> u64 {
    node.local_status(Role::Replicator)[key].as_u64().unwrap_or_default()
}

fn wait_state(mirror: &mut Mirror, node: &str, role: Role, state: &str) {
    wait_for(SOON, &format!("the {} of {node} to be {state}", role.name()), || {
        let record = mirror.nats().record(node, role).ok_or("no record")?;
        if record["state"] == state { Ok(()) } else { Err(record.to_string()) }
    });
}

fn fill(node: &Node, seed: &str) {
    for i in 0..FILES {
        write(&node.path(format!("bulk/{i}")), &content(&format!("{seed}{i}"), 500));
    }
}

#[test]
fn held_removals_that_are_taken_back_are_fetched_again() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    fill(&mirror.nodes[0], "");
    mirror.nodes.iter_mut().for_each(Node::start_both);
    let before = mirror.wait_agreed(LONG);
    mirror.wait_ready();
    fs::remove_dir_all(mirror.nodes[0].path("bulk")).unwrap();
    wait_until(SOON, "the removals to be held", || local(&mirror.nodes[0], "held") == FILES as u64);
    let said = mirror.nodes[0].run(Role::Watcher, &["approve", "--revert"]).succeeded();
    assert!(said.stdout.contains("200"), "{said:?}");
    wait_for(SOON, "the files to be back", || Tree::of(&mirror.nodes[0].root).equal(&before));
    wait_state(&mut mirror, "a", Role::Watcher, "ready");
    mirror.wait_agreed(SOON);
    assert_eq!(mirror.log().len(), FILES, "nothing was published");
    assert_eq!((local(&mirror.nodes[0], "held"), local(&mirror.nodes[0], "repairs")), (0, 0));
}

#[test]
fn a_file_that_waits_to_be_fetched_again_is_not_removed_elsewhere() {
    let mut mirror = Mirror::idle(&["a", "b"]);
    fill(&mirror.nodes[0], "");
    mirror.nodes.iter_mut().for_each(Node::start_both);
    let before = mirror.wait_agreed(LONG);
    mirror.wait_ready();
    mirror.nodes[0].stop(Role::Replicator);
    fs::remove_dir_all(mirror.nodes[0].path("bulk")).unwrap();
    wait_until(SOON, "the removals to be held", || local(&mirror.nodes[0], "held") == FILES as u64);
    let said = mirror.nodes[0].run(Role::Watcher, &["approve", "--revert"]).succeeded();
    assert!(said.stderr.contains("replicator of this node is not running"), "{said:?}");
    assert_eq!(local(&mirror.nodes[0], "repairs"), FILES as u64);
    // The scan of another start finds all of them missing, and what is removed after that is published.
    mirror.nodes[0].stop(Role::Watcher);
    mirror.nodes[0].start(Role::Watcher);
    write(&mirror.nodes[0].path("added"), b"added");
    mirror.nodes.pop();
    wait_until(SOON, "an addition", || mirror.log_of("added").len() == 1);
    fs::remove_file(mirror.nodes[0].path("added")).unwrap();
    wait_until(SOON, "its removal", || mirror.log_of("added").len() == 2);
    assert_eq!(mirror.log().len(), FILES + 2, "nothing else was published");
    mirror.nodes[0].start(Role::Replicator);
    wait_for(SOON, "the files to be back", || Tree::of(&mirror.nodes[0].root).equal(&before));
    wait_state(&mut mirror, "a", Role::Watcher, "ready");
    assert_eq!(mirror.log().len(), FILES + 2);
}

/// Node c has two hundred files at the paths of the mirror, all of other content, and is joined to it.
fn joined_to_the_wrong_mirror() -> Mirror {
    let mut mirror = Mirror::idle(&["a"]);
    fill(&mirror.nodes[0], "right");
    mirror.nodes[0].start_both();
    mirror.wait_agreed(LONG);
    let mut wrong = Node::new(mirror.dir(), "c", Some(mirror.broker.url()));
    fill(&wrong, "wrong");
    wrong.start_both();
    mirror.nodes.push(wrong);
    wait_for(SOON, "a hundred files to be held", || match local(&mirror.nodes[1], "held_replacements") {
        100 => Ok(()),
        other => Err(other.to_string()),
    });
    wait_state(&mut mirror, "c", Role::Replicator, "degraded");
    mirror
}

/// How many files of c are still its own.
fn own(mirror: &Mirror) -> usize {
    let own = |i: &usize| {
        let found = fs::read(mirror.nodes[1].path(format!("bulk/{i}"))).unwrap();
        found == content(&format!("wrong{i}"), 500)
    };
    (0..FILES).filter(own).count()
}

#[test]
fn a_full_node_joined_to_the_wrong_mirror_keeps_its_files_until_an_operator_agrees() {
    let mut mirror = joined_to_the_wrong_mirror();
    assert_eq!(own(&mirror), 100);
    // Additions go on, and neither another start nor another scan changes what is held.
    write(&mirror.nodes[0].path("added"), b"added");
    mirror.wait_everywhere("added", b"added");
    mirror.nodes[1].stop_both();
    mirror.nodes[1].start_both();
    write(&mirror.nodes[0].path("added later"), b"added later");
    mirror.wait_everywhere("added later", b"added later");
    wait_state(&mut mirror, "c", Role::Replicator, "degraded");
    wait_state(&mut mirror, "c", Role::Watcher, "ready");
    assert_eq!((own(&mirror), local(&mirror.nodes[1], "held_replacements")), (100, 100));
    assert_eq!(mirror.log().len(), FILES + 2, "nothing of c was published over it");
    let log = mirror.nodes[1].process(Role::Replicator).log();
    let said = log.lines().filter(|line| line.contains("are held")).count();
    assert_eq!(said, 1, "one error, not one for each file, and none at a restart that holds nothing new");
    assert_eq!(mirror.nodes[1].lost_conflicts().len(), 100);

    let said = mirror.nodes[1].run(Role::Watcher, &["approve"]).succeeded();
    assert!(said.stdout.contains("100 replacements"), "{said:?}");
    mirror.wait_agreed(SOON);
    assert_eq!((own(&mirror), mirror.nodes[1].lost_conflicts().len()), (0, 200));
    assert_eq!(local(&mirror.nodes[1], "held_replacements"), 0);
}

#[test]
fn held_files_that_are_to_stay_are_published_over_what_would_replace_them() {
    let mut mirror = joined_to_the_wrong_mirror();
    let said = mirror.nodes[1].run(Role::Watcher, &["approve", "--revert"]).succeeded();
    assert!(said.stdout.contains("100 replacements"), "{said:?}");
    wait_until(SOON, "a hundred new versions", || mirror.log().len() == FILES + 100);
    mirror.wait_agreed(SOON);
    assert_eq!(own(&mirror), 100);
    for node in &mirror.nodes {
        let kept = (0..FILES).map(|i| sha256_of(&node.path(format!("bulk/{i}"))).unwrap()).count();
        assert_eq!(kept, FILES);
    }
    assert_eq!(mirror.nodes[0].lost_conflicts(), Vec::<String>::new(), "a knew what it replaced");
    wait_state(&mut mirror, "c", Role::Replicator, "ready");
}
