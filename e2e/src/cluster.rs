//! Three nats-servers of a test's own that keep three copies of everything.

use crate::{
    broker::{free_port, nats_server},
    http::fetch,
    process::Process,
    wait::{LONG, wait_until},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A cluster, each of its servers running or not, on ports of their own for their whole lives.
pub struct Cluster {
    dir: PathBuf,
    servers: Vec<Server>,
}

struct Server {
    port: u16,
    route: u16,
    monitor: u16,
    process: Option<Process>,
}

impl Cluster {
    /// Three that run, and agree on a leader.
    pub fn started(dir: &Path) -> Self {
        let server =
            |_| Server { port: free_port(), route: free_port(), monitor: free_port(), process: None };
        let mut cluster = Self { dir: dir.to_owned(), servers: (0..3).map(server).collect() };
        let routes: Vec<String> =
            cluster.servers.iter().map(|server| format!("nats://127.0.0.1:{}", server.route)).collect();
        for (n, server) in cluster.servers.iter().enumerate() {
            let store = dir.join(format!("nats-{n}"));
            let config = format!(
                "server_name: s{n}\nlisten: 127.0.0.1:{}\nhttp: 127.0.0.1:{}\n\
                 jetstream {{ store_dir: {store:?}\n sync_interval: always }}\n\
                 cluster {{ name: e2e\n listen: 127.0.0.1:{}\n routes: [ {} ] }}\n",
                server.port,
                server.monitor,
                server.route,
                routes.join(", "),
            );
            fs::write(cluster.config(n), config).expect("write a configuration");
        }
        (0..3).for_each(|n| cluster.launch(n));
        (0..3).for_each(|n| cluster.wait_well(n));
        cluster
    }

    fn config(&self, n: usize) -> PathBuf {
        self.dir.join(format!("nats-{n}.conf"))
    }

    /// Where clients find any of them.
    pub fn url(&self) -> String {
        let urls = self.servers.iter().map(|server| format!("nats://127.0.0.1:{}", server.port));
        urls.collect::<Vec<_>>().join(",")
    }

    /// Starts one; does not wait.
    pub fn launch(&mut self, n: usize) {
        let mut command = Command::new(nats_server());
        command.arg("-c").arg(self.config(n));
        self.servers[n].process = Some(Process::spawn(&format!("nats-{n}"), &self.dir, command));
    }

    /// Waits until one serves, and has caught up with the others.
    pub fn wait_well(&mut self, n: usize) {
        let monitor = self.servers[n].monitor;
        wait_until(LONG, "a server of a cluster that has caught up", || {
            let running = self.servers[n].process.as_mut().is_some_and(Process::is_running);
            assert!(running, "a nats-server ended");
            fetch(monitor, "/healthz").is_some_and(|body| body.contains("\"ok\""))
        });
    }

    /// Kills one.
    pub fn kill(&mut self, n: usize) {
        self.servers[n].process.take().expect("a running server").kill();
    }

    /// Stops one in order.
    pub fn stop(&mut self, n: usize) {
        self.servers[n].process.take().expect("a running server").stop();
    }
}
