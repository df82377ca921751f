//! Node b reaches the broker over a link that is slow, cut, half open or corrupt.

use e2e::{LONG, Link, Mirror, Node, Proxy, Role, content, paced, wait_until, write};
use std::{fs, time::Duration};

fn behind_a_proxy() -> (Mirror, Proxy) {
    let mut mirror = Mirror::idle(&["a"]);
    let proxy = Proxy::to(mirror.broker.port(), e2e::seed());
    mirror.nodes.push(Node::new(mirror.dir(), "b", Some(proxy.url())));
    mirror.nodes.iter_mut().for_each(Node::start_both);
    mirror.wait_ready();
    (mirror, proxy)
}

/// Writes on both nodes for some seconds; every so often something happens to the link.
fn busy(mirror: &Mirror, mut fault: impl FnMut(usize)) {
    paced(Duration::from_millis(40), 0..100, |i| {
        let size = if i % 25 == 24 { 600_000 } else { 3_000 };
        write(&mirror.nodes[i % 2].path(format!("{}/{i}", i % 5)), &content(&i.to_string(), size));
        if i % 20 == 19 {
            fault(i);
        }
    });
}

#[test]
fn a_link_that_is_cut_again_and_again_loses_nothing() {
    let (mut mirror, proxy) = behind_a_proxy();
    let mut cut = 0;
    busy(&mirror, |_| cut += proxy.cut());
    assert!(cut >= 10, "only {cut} ends of connections were cut");
    assert_eq!(mirror.wait_recovered(LONG).0.len(), 100);
}

#[test]
fn a_slow_link_delivers_everything() {
    let (mut mirror, proxy) = behind_a_proxy();
    proxy.set(Link::Slow(20));
    busy(&mirror, |_| {});
    assert_eq!(mirror.wait_equal(LONG).0.len(), 100);
}

#[test]
fn a_half_open_link_is_noticed_and_left() {
    let (mut mirror, proxy) = behind_a_proxy();
    write(&mirror.nodes[1].path("before"), b"before");
    mirror.wait_everywhere("before", b"before");
    let before = Role::ALL.map(|role| mirror.nodes[1].process(role).log().len());
    proxy.set(Link::HalfOpen);
    write(&mirror.nodes[1].path("from b"), b"from b");
    write(&mirror.nodes[0].path("from a"), b"from a");
    for (role, before) in Role::ALL.into_iter().zip(before) {
        wait_until(LONG, "a word of trouble in the log", || {
            let now = mirror.nodes[1].process(role).log();
            now[before..].contains("WARN")
        });
    }
    assert!(!mirror.nodes[1].path("from a").exists());
    proxy.set(Link::Good);
    mirror.wait_everywhere("from a", b"from a");
    mirror.wait_everywhere("from b", b"from b");
    mirror.wait_recovered(LONG);
}

#[test]
fn a_corrupt_link_puts_nothing_wrong_into_the_tree() {
    let (mut mirror, proxy) = behind_a_proxy();
    mirror.nodes[1].stop(Role::Watcher);
    for i in 0..60 {
        write(&mirror.nodes[0].path(format!("{i}")), &content(&i.to_string(), 20_000));
    }
    proxy.set(Link::Corrupt(20_000));
    wait_until(LONG, "some corrupted bytes", || proxy.corrupted() > 10);
    proxy.set(Link::Good);
    mirror.nodes[1].start(Role::Watcher);
    mirror.wait_recovered(LONG);
    for i in 0..60 {
        assert!(fs::read(mirror.nodes[1].path(format!("{i}"))).unwrap() == content(&i.to_string(), 20_000));
    }
    assert_eq!(mirror.nodes[1].lost_conflicts(), Vec::<String>::new());
}
