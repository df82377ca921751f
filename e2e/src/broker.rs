//! A nats-server of a test's own: its own port, its own store, as durable as the server can be.

use crate::{http::fetch, process::Process, wait::SOON, wait::wait_until};
use rand::Rng;
use rustix::process::Signal;
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

/// Ports below those that the system gives to outgoing connections, so that a broker that was killed finds its own
/// free again.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// The server that tests run with.
pub fn nats_server() -> PathBuf {
    std::env::var_os("MEDIAMIRROR_NATS_SERVER").unwrap_or("nats-server".into()).into()
}

/// A nats-server, running or not, on one port and one store for its whole life.
pub struct Broker {
    binary: PathBuf,
    dir: PathBuf,
    port: u16,
    monitor: u16,
    process: Option<Process>,
    users: String,
    login: String,
}

/// Bytes that crossed the broker's connections since it started.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// From clients to the broker.
    pub in_bytes: u64,
    /// From the broker to clients.
    pub out_bytes: u64,
}

impl Broker {
    /// Not started yet: the port is chosen, the configuration written.
    pub fn prepared(dir: &Path) -> Self {
        let binary = nats_server();
        let broker = Self {
            binary,
            dir: dir.to_owned(),
            port: free_port(),
            monitor: free_port(),
            process: None,
            users: String::new(),
            login: String::new(),
        };
        broker.configure();
        broker
    }

    fn configure(&self) {
        // 2.9 refuses to start with a setting that it does not know.
        let sync = if self.version() >= (2, 10) { "sync_interval: always" } else { "" };
        let config = format!(
            "server_name: e2e-{port}\nlisten: 127.0.0.1:{port}\nhttp: 127.0.0.1:{monitor}\n\
             jetstream {{ store_dir: {store:?}\n {sync} }}\n{users}\n",
            users = self.users,
            port = self.port,
            monitor = self.monitor,
            store = self.store(),
        );
        fs::write(self.config(), config).expect("write a configuration");
    }

    /// Takes another port, at its next start.
    pub fn change_port(&mut self) {
        self.port = free_port();
        self.configure();
    }

    /// Lets in only these users (entries of nats-server's `users`), at once where it runs. [`url`](Self::url) is from now on that of
    /// the user `all`, password `p`, who may do everything.
    pub fn let_in(&mut self, users: &str) {
        self.users = format!("authorization {{ users: [ {{user: all, password: p}}\n {users} ] }}");
        self.login = "all:p@".into();
        self.configure();
        if let Some(process) = &self.process {
            process.reload();
        }
    }

    /// From its next start on, it lets in whom this part of a configuration lets in.
    pub fn trust(&mut self, users: &str) {
        self.users = users.into();
        self.configure();
    }

    /// From its next start on, clients are of an account of these JetStream limits: `max_file: 1MB`, say.
    pub fn limit_account(&mut self, limits: &str) {
        self.users = format!(
            "accounts {{ limited {{ jetstream {{ {limits} }}\n users: [ {{user: all, password: p}} ] }} }}"
        );
        self.login = "all:p@".into();
        self.configure();
    }

    /// Where a user with the password `p` finds it.
    pub fn url_of(&self, user: &str) -> String {
        format!("nats://{user}:p@127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("a running broker")
    }

    /// The port that clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From its next start on, all its streams together take no more than this.
    pub fn limit_store(&self, size: &str) {
        let config = fs::read_to_string(self.config()).expect("read a configuration");
        let limited = config.replace("jetstream {", &format!("jetstream {{ max_file_store: {size}\n"));
        fs::write(self.config(), limited).expect("write a configuration");
    }

    /// Started, and ready for clients.
    pub fn started(dir: &Path) -> Self {
        let mut broker = Self::prepared(dir);
        broker.start();
        broker
    }

    fn config(&self) -> PathBuf {
        self.dir.join("nats.conf")
    }

    /// The folder of its JetStream data.
    pub fn store(&self) -> PathBuf {
        self.dir.join("nats")
    }

    /// Major and minor version of the server.
    pub fn version(&self) -> (u32, u32) {
        let output = Command::new(&self.binary).arg("--version").output();
        let output = output.unwrap_or_else(|e| panic!("run {:?}: {e}", self.binary));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = text.trim().rsplit(['v', ' ']).next().unwrap_or_default();
        let mut parts = number.split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("nats://{}127.0.0.1:{}", self.login, self.port)
    }

    /// Starts it, again or for the first time, and waits until it serves.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "the broker runs already");
        let mut command = Command::new(&self.binary);
        command.arg("-c").arg(self.config());
        let mut process = Process::spawn("nats-server", &self.dir, command);
        wait_until(SOON, "a nats-server that serves", || {
            assert!(process.is_running(), "nats-server ended: {}", process.log());
            self.get("/healthz").is_some_and(|body| body.contains("\"ok\""))
        });
        self.process = Some(process);
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        self.process.take().expect("a running broker").stop();
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.take().expect("a running broker").kill();
    }

    /// Lets it stand still: connections stay, and nothing answers.
    pub fn pause(&self) {
        self.process.as_ref().expect("a running broker").signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.as_ref().expect("a running broker").signal(Signal::CONT);
    }

    /// What crossed its connections.
    pub fn traffic(&self) -> Traffic {
        let varz = self.monitor("/varz");
        let bytes = |key: &str| varz[key].as_u64().expect("a number of bytes");
        Traffic { in_bytes: bytes("in_bytes"), out_bytes: bytes("out_bytes") }
    }

    /// What its monitoring endpoint says.
    pub fn monitor(&self, path: &str) -> serde_json::Value {
        let body = self.get(path).expect("an answer of the broker's monitor");
        serde_json::from_str(&body).expect("JSON from the broker's monitor")
    }

    fn get(&self, path: &str) -> Option<String> {
        fetch(self.monitor, path)
    }
}

/// A port on which nothing listens now.
pub fn free_port() -> u16 {
    let mut random = rand::rng();
    (0..1000)
        .map(|_| random.random_range(PORTS))
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .expect("a free port")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::Nats;

    #[test]
    fn a_killed_broker_comes_back_on_its_port() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut broker = Broker::started(dir.path());
        assert!(broker.version() >= (2, 9));
        let nats = Nats::connect(&broker.url());
        assert!(nats.log_state().is_none());
        assert!(broker.traffic().in_bytes < 10_000);
        broker.kill();
        assert!(broker.get("/healthz").is_none());
        broker.start();
        assert!(nats.log_state().is_none(), "an answer: there is no such stream");
        broker.stop();
    }
}
