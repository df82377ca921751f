//! Three real nodes and a real Prometheus that looks at them.

use crate::prometheus::{Pace, Prometheus, Target, may_run};
use e2e::{Http, Mirror, Node, Role, SOON, Samples, free_port, wait_for};
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// What opens the metrics.
pub const TOKEN: &str = "correct-horse-battery";

/// Where the processes of a mirror answer.
pub struct Ports {
    of: Vec<[u16; 2]>,
    tokens: PathBuf,
}

impl Ports {
    pub fn new(nodes: &[Node], dir: &Path) -> Self {
        let tokens = dir.join("tokens");
        fs::write(&tokens, TOKEN).unwrap();
        fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
        Self { of: nodes.iter().map(|_| [free_port(), free_port()]).collect(), tokens }
    }

    pub fn port(&self, node: usize, role: Role) -> u16 {
        self.of[node][usize::from(role == Role::Replicator)]
    }

    pub fn flags(&self, node: usize, role: Role) -> Vec<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port(node, role)));
        let tokens = self.tokens.to_str().unwrap().to_owned();
        vec!["--http".into(), address.to_string(), "--http-token-file".into(), tokens]
    }

    pub fn start(&self, nodes: &mut [Node], node: usize, role: Role, more: &[&str]) {
        let flags = self.flags(node, role);
        let all: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        nodes[node].start_with(role, &all);
    }

    pub fn targets(&self, nodes: &[Node]) -> Vec<Target> {
        let of = |(i, node): (usize, &Node)| {
            Role::ALL.map(|role| Target {
                node: node.name.clone(),
                role: role.name(),
                port: self.port(i, role),
            })
        };
        nodes.iter().enumerate().flat_map(of).collect()
    }
}

/// Three nodes, all of them scraped, and nothing amiss.
pub struct Observed {
    pub prometheus: Prometheus,
    pub ports: Ports,
    pub mirror: Mirror,
}

impl Observed {
    /// `prepare`: before the nodes start.
    pub fn start(test: &str, pace: Pace, prepare: impl FnOnce(&mut Mirror)) -> Option<Self> {
        if !may_run(test) {
            return None;
        }
        let mut mirror = Mirror::idle(&["a", "b", "c"]);
        prepare(&mut mirror);
        let ports = Ports::new(&mirror.nodes, mirror.dir());
        for node in 0..3 {
            Role::ALL.into_iter().for_each(|role| ports.start(&mut mirror.nodes, node, role, &[]));
        }
        mirror.wait_ready();
        let targets = ports.targets(&mirror.nodes);
        let prometheus = Prometheus::start(&mirror.outside("prometheus"), pace, &targets, TOKEN);
        let this = Self { prometheus, ports, mirror };
        wait_for(SOON, "all to be scraped", || {
            let up = this.prometheus.query("sum(up)")?;
            if up.first().is_some_and(|up| up["value"][1] == "6") { Ok(()) } else { Err(format!("{up:?}")) }
        });
        this.prometheus.wait_quiet("nothing is amiss");
        Some(this)
    }

    pub fn restart(&mut self, node: usize, role: Role, more: &[&str]) {
        self.mirror.nodes[node].stop(role);
        self.ports.start(&mut self.mirror.nodes, node, role, more);
    }

    /// The metrics of a process now, from itself.
    pub fn metrics(&self, node: usize, role: Role) -> Samples {
        let answer = self.http(node, role).ask("GET /metrics", &[&format!("Authorization: Bearer {TOKEN}")]);
        Samples::read(&answer.body)
    }

    /// Where a process answers.
    pub fn http(&self, node: usize, role: Role) -> Http {
        Http(SocketAddr::from(([127, 0, 0, 1], self.ports.port(node, role))))
    }
}
