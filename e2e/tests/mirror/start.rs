//! Any order of starting works, and a broker that is not there is waited for.

use e2e::{Mirror, Role, SOON, wait_until, write};

/// What is started, one after the other.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Part {
    Broker,
    SourceWatcher,
    SinkWatcher,
    SinkReplicator,
}

fn orders(parts: &[Part]) -> Vec<Vec<Part>> {
    if parts.is_empty() {
        return vec![Vec::new()];
    }
    let first = |&part: &Part| {
        let others: Vec<Part> = parts.iter().copied().filter(|&p| p != part).collect();
        orders(&others).into_iter().map(move |order| [vec![part], order].concat())
    };
    parts.iter().flat_map(first).collect()
}

fn starts_in(order: &[Part]) {
    let mut mirror = Mirror::prepared(&["source", "sink"]);
    write(&mirror.nodes[0].path("before"), b"before");
    for part in order {
        let (node, role) = match part {
            Part::Broker => {
                mirror.broker.start();
                continue;
            }
            Part::SourceWatcher => (0, Role::Watcher),
            Part::SinkWatcher => (1, Role::Watcher),
            Part::SinkReplicator => (1, Role::Replicator),
        };
        mirror.nodes[node].start(role);
        let process = mirror.nodes[node].process(role);
        wait_until(SOON, "the first line of a log", || !process.log().is_empty());
    }
    write(&mirror.nodes[0].path("after"), b"after");
    write(&mirror.nodes[1].path("on the sink"), b"published, and seen by no one else");
    mirror.wait_everywhere("before", b"before");
    mirror.wait_everywhere("after", b"after");
    wait_until(SOON, &format!("three events, started as {order:?}"), || mirror.log().len() == 3);
}

#[test]
fn broker_watchers_and_replicator_may_start_in_any_order() {
    let parts = [Part::Broker, Part::SourceWatcher, Part::SinkWatcher, Part::SinkReplicator];
    let orders = orders(&parts);
    assert_eq!(orders.len(), 24);
    std::thread::scope(|scope| {
        // Four at a time: most of it is waiting for a broker.
        for part in orders.chunks(6) {
            scope.spawn(|| part.iter().for_each(|order| starts_in(order)));
        }
    });
}

#[test]
fn a_broker_that_is_away_at_the_start_is_waited_for_and_named() {
    let mut mirror = Mirror::prepared(&["a", "b"]);
    let url = mirror.broker.url();
    let address = url.trim_start_matches("nats://");
    mirror.nodes.iter_mut().for_each(e2e::Node::start_both);
    for node in &mut mirror.nodes {
        for role in Role::ALL {
            let process = node.process(role);
            wait_until(SOON, "a line that names the broker", || process.log().contains(address));
            assert!(process.is_running());
        }
    }
    write(&mirror.nodes[0].path("early"), b"early");
    mirror.broker.start();
    mirror.wait_everywhere("early", b"early");
    mirror.wait_equal(SOON);
}

#[test]
fn a_command_that_is_not_run_gives_up_on_an_absent_broker() {
    let mirror = Mirror::prepared(&["a"]);
    let commands: [(Role, &[&str]); 4] = [
        (Role::Watcher, &["scan"]),
        (Role::Watcher, &["status"]),
        (Role::Replicator, &["status"]),
        (Role::Replicator, &["log"]),
    ];
    for (role, arguments) in commands {
        let start = std::time::Instant::now();
        let finished = mirror.nodes[0].run(role, arguments);
        assert_eq!(finished.code, Some(3), "{arguments:?}: {finished:?}");
        assert!(finished.stderr.contains("127.0.0.1"), "{finished:?}");
        assert!(start.elapsed().as_secs() < 10, "{arguments:?} took {:?}", start.elapsed());
    }
}
