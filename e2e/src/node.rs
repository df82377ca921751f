//! One node: a root, a state directory, a name, and the two processes.

use crate::{
    process::{Finished, Process, run},
    wait::SOON,
};
use common::{
    index::{Index, IndexError, Stat, Tx},
    path::MediaPath,
};
use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

/// Settings that must not leak from who runs the tests into what is tested.
const FOREIGN: [&str; 19] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "NATS_URL",
    "NATS_CREDS",
    "NATS_NKEY",
    "NATS_CERT",
    "NATS_KEY",
    "NATS_CA",
    "NATS_CONTEXT",
    "STATE_DIRECTORY",
    "NOTIFY_SOCKET",
    "MEDIAMIRROR_NATS_SERVER",
    "MEDIAMIRROR_EMBEDDED_PORT",
    "RUST_LOG",
    "MEDIAMIRROR_HTTP",
    "WATCHDOG_USEC",
];

/// The two processes of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Publishes what happens in the root.
    Watcher,
    /// Applies what the log says to the root.
    Replicator,
}

impl Role {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Watcher, Self::Replicator];

    /// The name of its program, and of its record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Watcher => "watcher",
            Self::Replicator => "replicator",
        }
    }

    /// The program, which stands beside the test's folder.
    pub fn program(self) -> PathBuf {
        let me = std::env::current_exe().expect("the path of the test");
        let beside = std::env::var_os("MEDIAMIRROR_BIN_DIR").map(PathBuf::from);
        let folder = beside.or_else(|| me.ancestors().nth(2).map(Path::to_owned)).expect("a folder");
        let program = folder.join(self.name());
        assert!(program.exists(), "{program:?} is missing: cargo build --release --workspace");
        program
    }
}

/// One node.
pub struct Node {
    /// Its name.
    pub name: String,
    /// The mirror that it is a node of.
    pub mirror: String,
    /// Its copy of the tree.
    pub root: PathBuf,
    /// Where the rest of its things are.
    pub home: PathBuf,
    /// Where its processes write their logs: its home, where nothing else is said.
    pub logs: PathBuf,
    url: Option<String>,
    watcher: Option<Process>,
    replicator: Option<Process>,
    /// Further flags for `run`, for both processes.
    pub flags: Vec<String>,
    /// Environment for both processes.
    pub environment: Vec<(String, PathBuf)>,
}

impl Node {
    /// A node below `dir`; without a `url` it is left to the embedded broker, and to the default state folder.
    pub fn new(dir: &Path, name: &str, url: Option<String>) -> Self {
        let home = dir.join(name);
        let root = home.join("media");
        fs::create_dir_all(&root).expect("make a root");
        let environment = vec![("XDG_STATE_HOME".into(), home.join("xdg"))];
        Self {
            name: name.into(),
            mirror: "media".into(),
            root,
            logs: home.clone(),
            home,
            url,
            watcher: None,
            replicator: None,
            flags: Vec::new(),
            environment,
        }
    }

    /// A path below its root.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// From its next start on, its processes look for the broker here.
    pub fn find_broker_at(&mut self, url: String) {
        self.url = Some(url);
    }

    /// A command of this node with its common flags, not started.
    pub fn command<S: AsRef<OsStr>>(&self, role: Role, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(role.program());
        command.args(arguments).arg("--root").arg(&self.root);
        command.args(["--node", &self.name, "--mirror", &self.mirror]);
        FOREIGN.iter().for_each(|name| _ = command.env_remove(name));
        // The default ports are one for all of this machine; a test that wants HTTP says where.
        command.env("MEDIAMIRROR_HTTP", "off");
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        if let Some(url) = &self.url {
            command.arg("--state").arg(self.state());
            command.args(["--nats-url", url]);
        }
        command
    }

    /// Runs a command of this node that ends by itself.
    pub fn run(&self, role: Role, arguments: &[&str]) -> Finished {
        run(SOON, self.command(role, arguments))
    }

    fn slot(&mut self, role: Role) -> &mut Option<Process> {
        match role {
            Role::Watcher => &mut self.watcher,
            Role::Replicator => &mut self.replicator,
        }
    }

    /// Starts one process; does not wait.
    pub fn start(&mut self, role: Role) {
        let mut command = self.command(role, ["run"]);
        command.args(&self.flags);
        self.start_as(role, command);
    }

    /// Starts one process with further arguments of its own.
    pub fn start_with(&mut self, role: Role, arguments: &[&str]) {
        let mut command = self.command(role, ["run"]);
        command.args(&self.flags).args(arguments);
        self.start_as(role, command);
    }

    /// What `status --json` of a process says of this node without the broker's help; `null` when there is no index yet.
    pub fn local_status(&self, role: Role) -> serde_json::Value {
        let finished = self.run(role, &["status", "--json"]);
        // 1: a node is not well; 3: the broker is away. Either may be just what is tested.
        assert!(matches!(finished.code, Some(0 | 1 | 3)), "{finished:?}");
        finished.json_lines().pop().map_or(serde_json::Value::Null, |status| status["local"].clone())
    }

    /// The paths of lost conflicts in its trash.
    pub fn lost_conflicts(&self) -> Vec<String> {
        let local = self.local_status(Role::Replicator);
        let lost = local["lost_conflicts"].as_array().expect("a list").iter();
        lost.map(|lost| lost["path"].as_str().expect("a path").to_owned()).collect()
    }

    /// Lets a file rot: its bytes change, and its stat does not, as far as the index can tell: it is written, and the row takes the new stat. Not beside a
    /// running watcher, which would see the write.
    ///
    /// # Panics
    /// When the index has no row of the path.
    pub fn rot(&self, path: &str, bytes: &[u8]) {
        fs::write(self.path(path), bytes).expect("write a file");
        let meta = fs::metadata(self.path(path)).expect("a file");
        let nanos = |seconds: i64, nanos: i64| seconds * 1_000_000_000 + nanos;
        let stat = Stat {
            ino: meta.ino(),
            size: meta.size(),
            mtime: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime: nanos(meta.ctime(), meta.ctime_nsec()),
        };
        let path: MediaPath = path.parse().expect("a path");
        self.change_index(move |tx| {
            let row = tx.path_state(&path)?.row.expect("a row of the path");
            assert_eq!(row.size, stat.size, "what rots keeps its length");
            tx.mark(&path, |row| (row.stat, row.racy) = (Some(stat), false))
        });
    }

    /// Changes its index from outside, as no operator should.
    pub fn change_index(&self, change: impl FnOnce(&mut Tx<'_>) -> Result<(), IndexError> + Send + 'static) {
        let index = Index::open(&self.state().join("index.db")).expect("an index");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(index.write(change)).expect("a change");
    }

    /// The state directory that is passed to both processes.
    pub fn state(&self) -> PathBuf {
        self.home.join("state")
    }

    /// Starts one process by a command of the caller's.
    pub fn start_as(&mut self, role: Role, command: Command) {
        let name = format!("{}-{}", self.name, role.name());
        let process = Process::spawn(&name, &self.logs, command);
        assert!(self.slot(role).replace(process).is_none(), "{name} runs already");
    }

    /// Starts both.
    pub fn start_both(&mut self) {
        Role::ALL.into_iter().for_each(|role| self.start(role));
    }

    /// A running process.
    pub fn process(&mut self, role: Role) -> &mut Process {
        self.slot(role).as_mut().expect("a started process")
    }

    /// Whether this process was started and not taken away.
    pub fn has(&self, role: Role) -> bool {
        match role {
            Role::Watcher => self.watcher.is_some(),
            Role::Replicator => self.replicator.is_some(),
        }
    }

    /// Ends a process in order.
    pub fn stop(&mut self, role: Role) -> ExitStatus {
        self.slot(role).take().expect("a started process").stop()
    }

    /// Ends both in order.
    pub fn stop_both(&mut self) {
        Role::ALL.into_iter().for_each(|role| assert_eq!(self.stop(role).code(), Some(0), "{}", role.name()));
    }

    /// Takes away a process that has ended by itself, or will within `limit`.
    pub fn ended(&mut self, role: Role, limit: Duration) -> ExitStatus {
        self.slot(role).take().expect("a started process").wait(limit)
    }

    /// Kills a process.
    pub fn kill(&mut self, role: Role) {
        self.slot(role).take().expect("a started process").kill();
    }
}
