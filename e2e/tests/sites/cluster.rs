//! A cluster of three brokers: any one may go, and nothing stops for long or is lost; without two of them the nodes say so, and heal.

use e2e::{Cluster, Http, LONG, Node, Role, SOON, Tree, content, wait_for, wait_until, write};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Within this, files go on coming when a server was killed.
const GOES_ON: Duration = Duration::from_secs(15);

struct Site {
    nodes: Vec<Node>,
    http: Vec<Http>,
    cluster: Cluster,
    _dir: tempfile::TempDir,
}

impl Site {
    fn running() -> Self {
        let dir = tempfile::Builder::new().prefix("mirror-cluster-").tempdir().unwrap();
        let cluster = Cluster::started(dir.path());
        let (mut nodes, mut http) = (Vec::new(), Vec::new());
        for name in ["a", "b"] {
            let mut node = Node::new(dir.path(), name, Some(cluster.url()));
            for role in Role::ALL {
                http.push(Http::start(&mut node, role, &["--replicas", "3"]));
            }
            nodes.push(node);
        }
        for http in &http {
            http.wait_reasons(LONG, 200, &[]);
        }
        Self { nodes, http, cluster, _dir: dir }
    }

    fn root(&self, node: usize) -> PathBuf {
        self.nodes[node].root.clone()
    }

    fn wait_equal(&self) {
        wait_for(LONG, "equal trees", || Tree::of(&self.nodes[0].root).equal(&Tree::of(&self.nodes[1].root)));
    }
}

/// Writes a file every 50 ms until it is told to end. Returns how many.
fn traffic(root: PathBuf, over: &AtomicBool, written: &AtomicU64) -> u64 {
    while !over.load(Ordering::SeqCst) {
        let n = written.load(Ordering::SeqCst);
        write(&root.join(format!("traffic/{n}")), &content(&n.to_string(), 10_000));
        written.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(50));
    }
    written.load(Ordering::SeqCst)
}

/// Until a file that is written now on one node is on the other.
fn passes(site: &Site, name: &str) -> Duration {
    let began = Instant::now();
    write(&site.nodes[0].path(name), name.as_bytes());
    let there = site.nodes[1].path(name);
    wait_until(LONG, "a file to pass", || there.exists());
    began.elapsed()
}

#[test]
#[ignore = "takes minutes"]
fn full_any_one_of_three_brokers_may_go_and_two_are_waited_for() {
    let mut site = Site::running();
    let (over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let root = site.root(0);
    std::thread::scope(|scope| {
        let (over, written) = (&over, &written);
        let writer = scope.spawn(move || traffic(root, over, written));
        // Ends also when an assertion fails, or the scope would wait for ever.
        let ends = Ends(over);
        for n in 0..3 {
            site.cluster.kill(n);
            let took = passes(&site, &format!("killed {n}"));
            println!("server {n} killed: a file passes after {:.1} s", took.as_secs_f64());
            assert!(took < GOES_ON, "{took:?}");
            site.cluster.launch(n);
            site.cluster.wait_well(n);
        }
        // Rolling restart.
        for n in 0..3 {
            site.cluster.stop(n);
            let took = passes(&site, &format!("stopped {n}"));
            println!("server {n} stopped: a file passes after {:.1} s", took.as_secs_f64());
            assert!(took < GOES_ON, "{took:?}");
            site.cluster.launch(n);
            site.cluster.wait_well(n);
        }
        // Two are gone: nobody can say that a file is safe.
        site.cluster.kill(0);
        site.cluster.kill(1);
        for http in &site.http {
            wait_for(LONG, "a node that says that it cannot work", || {
                let answer = http.get("/readyz");
                if answer.status == 503 { Ok(()) } else { Err(format!("{answer:?}")) }
            });
        }
        write(&site.nodes[1].path("meanwhile"), b"meanwhile");
        site.cluster.launch(0);
        site.cluster.launch(1);
        (0..3).for_each(|n| site.cluster.wait_well(n));
        for http in &site.http {
            http.wait_reasons(LONG, 200, &[]);
        }
        drop(ends);
        let files = writer.join().unwrap();
        site.wait_equal();
        assert_eq!(Tree::of(&site.nodes[1].root).0.len() as u64, files + 6 + 1);
    });
    for node in &site.nodes {
        let verified = node.run(Role::Replicator, &["verify", "--read-blobs"]);
        assert_eq!(verified.code, Some(0), "{verified:?}");
    }
    let http = &site.http[1];
    wait_until(SOON, "both nodes at the same version", || {
        let nodes = http.get("/api/v1/nodes").json();
        let versions: Vec<_> =
            nodes["nodes"].as_array().unwrap().iter().map(|node| node["version"].clone()).collect();
        versions.windows(2).all(|pair| pair[0] == pair[1])
    });
}

/// Ends the traffic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
