//! Real nats-servers for tests: own port, own store, gone with the value.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

/// The binaries to test against.
pub fn binaries() -> Vec<String> {
    let named = std::env::var("MEDIAMIRROR_NATS_SERVERS").unwrap_or_else(|_| "nats-server".into());
    named.split(':').filter(|binary| !binary.is_empty()).map(String::from).collect()
}

/// A running server.
pub struct Server {
    binary: String,
    child: Mutex<Child>,
    url: String,
    version: (u32, u32),
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts one with JetStream, as durable as its version can be, on a port that is free.
    pub fn start(binary: &str) -> Self {
        let version = version(binary);
        let folder = tempfile::tempdir().expect("a folder");
        configure(folder.path(), version, "127.0.0.1:-1");
        let child = spawn(binary, folder.path());
        let url = url(folder.path(), child.id());
        Self { binary: binary.into(), child: Mutex::new(child), url, version, folder }
    }

    /// Starts it again after [`stop`](Self::stop), on the same port and data.
    pub fn start_again(&self) {
        let address = self.url.strip_prefix("nats://").expect("a NATS address");
        configure(self.folder.path(), self.version, address);
        *self.child.lock().expect("no panic holds it") = spawn(&self.binary, self.folder.path());
    }

    /// A copy of its data; it must be stopped.
    pub fn copy_store(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a folder");
        copy_all(&self.folder.path().join("store"), copy.path());
        copy
    }

    /// Puts a copy of its data back; it must be stopped.
    pub fn put_back(&self, copy: &tempfile::TempDir) {
        let store = self.folder.path().join("store");
        fs::remove_dir_all(&store).expect("remove the data");
        copy_all(copy.path(), &store);
    }

    /// A new connection.
    pub async fn client(&self) -> async_nats::Client {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match async_nats::connect(&self.url).await {
                // JetStream is up a moment after the port.
                Ok(client) if client.request("$JS.API.INFO", "".into()).await.is_ok() => return client,
                other => assert!(Instant::now() < deadline, "{:?}", other.err()),
            }
        }
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether its version is this or a later one.
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        self.version >= (major, minor)
    }

    /// Kills it.
    pub fn stop(&self) {
        let mut child = self.child.lock().expect("no panic holds it");
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn configure(folder: &Path, version: (u32, u32), listen: &str) {
    let sync = if version >= (2, 10) { "sync_interval: always" } else { "" };
    let store = folder.join("store");
    let config = format!("listen: {listen:?}\njetstream {{ store_dir: {store:?}\n{sync} }}\n");
    fs::write(folder.join("nats.conf"), config).expect("a configuration");
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the data").flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_all(&source, &target);
        } else {
            fs::copy(source, target).expect("a copy");
        }
    }
}

fn spawn(binary: &str, folder: &Path) -> Child {
    let log = fs::File::create(folder.join("log")).expect("a log file");
    let mut command = Command::new(binary);
    command.arg("-c").arg(folder.join("nats.conf")).arg("--ports_file_dir").arg(folder);
    let child = command.stdout(Stdio::null()).stderr(log).spawn();
    child.unwrap_or_else(|e| panic!("{binary}: {e}"))
}

/// The server writes where it listens into a file.
fn url(folder: &Path, pid: u32) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let written = fs::read_dir(folder)
            .expect("the folder")
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().ends_with(&format!("_{pid}.ports")));
        let ports = written.and_then(|entry| fs::read(entry.path()).ok());
        let ports: Option<serde_json::Value> = ports.and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(url) = ports.as_ref().and_then(|ports| ports["nats"][0].as_str()) {
            return url.into();
        }
        let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "the server does not start: {}", log());
        std::thread::yield_now();
    }
}

fn version(binary: &str) -> (u32, u32) {
    let output = Command::new(binary).arg("--version").output().unwrap_or_else(|e| panic!("{binary}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = text.trim().rsplit('v').next().expect("a version");
    let mut numbers = numbers.split('.').map(|n| n.parse().expect("a number"));
    (numbers.next().expect("major"), numbers.next().expect("minor"))
}
