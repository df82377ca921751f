//! The embedded broker with real processes: one server for all of them, none left over, nothing lost.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
    thread::sleep,
    time::{Duration, Instant},
};

const TEST: Duration = Duration::from_secs(20);

/// The example that these tests run as a process. Built here, since Cargo leaves examples out when one test is asked for.
fn program() -> &'static Path {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
        let mut build = Command::new(env!("CARGO"));
        // What Cargo tells a test of its package would make a build script of a dependency run again.
        let told = std::env::vars_os().map(|(name, _)| name);
        told.filter(|name| name.to_string_lossy().starts_with("CARGO_")).for_each(|name| {
            if name != "CARGO_HOME" && name != "CARGO_TARGET_DIR" {
                build.env_remove(name);
            }
        });
        build.args([
            "build",
            "--quiet",
            "-p",
            env!("CARGO_PKG_NAME"),
            "--example",
            "embedded_owner",
            "--profile",
        ]);
        build.arg(if folder.ends_with("debug") { "dev" } else { "release" });
        assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
        folder.join("examples/embedded_owner")
    });
    &BUILT
}

struct Machine {
    dir: tempfile::TempDir,
    port: u16,
    server: Option<PathBuf>,
}

impl Machine {
    fn new() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = std::env::var_os("MEDIAMIRROR_NATS_SERVER").map(PathBuf::from);
        Self { dir: tempfile::tempdir().unwrap(), port: free.local_addr().unwrap().port(), server }
    }

    fn nats(&self) -> PathBuf {
        self.dir.path().join("mediamirror/nats")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command
            .env("XDG_STATE_HOME", self.dir.path())
            .env("MEDIAMIRROR_EMBEDDED_PORT", self.port.to_string());
        command.env("MEDIAMIRROR_NODE", "test").env("MEDIAMIRROR_LOG_FORMAT", "text");
        if let Some(server) = &self.server {
            command.env("MEDIAMIRROR_NATS_SERVER", server);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self) -> Owner {
        Owner(self.command().stderr(Stdio::inherit()).spawn().unwrap())
    }

    fn fails(&self, command: &mut Command) -> (Option<i32>, String) {
        let mut owner = Owner(command.spawn().unwrap());
        let status = within(TEST, "the error", || owner.0.try_wait().unwrap());
        let mut said = String::new();
        owner.0.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }

    /// The processes that were started with this machine's folder: `(guards, servers)`.
    fn processes(&self) -> (Vec<i32>, Vec<i32>) {
        let (mut guards, mut servers) = (vec![], vec![]);
        let nats = self.nats().to_str().unwrap().to_owned();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
            let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line).into_owned();
            match line.contains(&nats) {
                true if line.contains("serve\0") => guards.push(pid),
                true => servers.push(pid),
                false => {}
            }
        }
        (guards, servers)
    }

    fn client<T>(&self, work: impl AsyncFnOnce(async_nats::jetstream::Context) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = async_nats::connect(format!("nats://127.0.0.1:{}", self.port)).await.unwrap();
            work(async_nats::jetstream::new(client)).await
        })
    }
}

/// Killed when the test ends, however it ends.
struct Owner(Child);

impl Owner {
    fn ready(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "{line:?}");
        line
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn stop(&mut self) {
        self.signal(Signal::TERM);
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(20));
    }
}

fn nobody_left(machine: &Machine, limit: Duration) {
    within(limit, "all processes gone", || machine.processes().eq(&(vec![], vec![])).then_some(()));
}

fn version(server: Option<&Path>) -> String {
    let server = server.unwrap_or(Path::new("nats-server"));
    String::from_utf8(Command::new(server).arg("--version").output().unwrap().stdout).unwrap()
}

async fn publish(context: &async_nats::jetstream::Context, count: u64) {
    let config = async_nats::jetstream::stream::Config {
        name: "KEPT".into(),
        subjects: vec!["kept.>".into()],
        ..Default::default()
    };
    context.get_or_create_stream(config).await.unwrap();
    for number in 0..count {
        context.publish("kept.n", number.to_string().into()).await.unwrap().await.unwrap();
    }
}

async fn kept(context: &async_nats::jetstream::Context) -> u64 {
    context.get_stream("KEPT").await.unwrap().cached_info().state.messages
}

#[test]
fn a_killed_owner_leaves_no_server_and_the_next_has_its_data() {
    let machine = Machine::new();
    let mut first = machine.start();
    let old = version(machine.server.as_deref()).contains("v2.9.");
    assert_eq!(first.ready().trim(), format!("ready durable=Some({})", !old));
    machine.client(async |context| publish(&context, 50).await);
    first.signal(Signal::KILL);
    nobody_left(&machine, Duration::from_secs(5));

    let mut second = machine.start();
    second.ready();
    assert_eq!(machine.client(async |context| kept(&context).await), 50);
    second.stop();
    assert_eq!(machine.processes(), (vec![], vec![]), "a clean stop waits for its server");
}

#[test]
fn another_process_takes_over_within_five_seconds() {
    let machine = Machine::new();
    let mut first = machine.start();
    first.ready();
    machine.client(async |context| publish(&context, 50).await);
    let mut second = machine.start();
    second.ready();
    let (_, servers) = machine.processes();
    assert_eq!(servers.len(), 1, "they share one server");

    let since = Instant::now();
    first.signal(Signal::KILL);
    let successor = within(TEST, "a new server", || {
        let (_, now) = machine.processes();
        (now.len() == 1 && now != servers && TcpStream::connect(("127.0.0.1", machine.port)).is_ok())
            .then_some(now)
    });
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    assert_eq!(machine.client(async |context| kept(&context).await), 50);
    assert_ne!(successor, servers);
    second.stop();
    nobody_left(&machine, Duration::from_secs(1));
}

#[test]
fn several_that_start_at_once_share_one_server() {
    let machine = Machine::new();
    let mut owners: Vec<_> = (0..4).map(|_| machine.start()).collect();
    owners.iter_mut().for_each(|owner| drop(owner.ready()));
    let (guards, servers) = machine.processes();
    assert_eq!((guards.len(), servers.len()), (1, 1));
    owners.iter_mut().for_each(Owner::stop);
    nobody_left(&machine, Duration::from_secs(1));
}

#[test]
fn a_killed_guard_takes_its_server_along_and_the_owner_starts_another() {
    let machine = Machine::new();
    let mut owner = machine.start();
    owner.ready();
    let (guards, servers) = machine.processes();
    kill_process(Pid::from_raw(guards[0]).unwrap(), Signal::KILL).unwrap();
    within(Duration::from_secs(5), "another server", || {
        let (_, now) = machine.processes();
        (now.len() == 1 && now != servers && TcpStream::connect(("127.0.0.1", machine.port)).is_ok())
            .then_some(())
    });
    owner.stop();
    nobody_left(&machine, Duration::from_secs(1));
}

#[test]
fn a_strangers_server_on_the_port_is_left_alone() {
    let machine = Machine::new();
    let store = tempfile::tempdir().unwrap();
    let server = machine.server.clone().unwrap_or("nats-server".into());
    let mut stranger = Command::new(server);
    stranger.args(["-a", "127.0.0.1", "-p", &machine.port.to_string(), "-n", "stranger", "-js", "-sd"]);
    let stranger = Owner(stranger.arg(store.path()).stderr(Stdio::null()).spawn().unwrap());
    within(TEST, "the stranger", || TcpStream::connect(("127.0.0.1", machine.port)).ok());
    let (code, said) = machine.fails(&mut machine.command());
    drop(stranger);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("taken by the NATS server \"stranger\"") && said.contains("--nats-url"), "{said}");
    nobody_left(&machine, Duration::from_secs(1));
}

#[test]
fn something_else_on_the_port_is_named_as_such() {
    let machine = Machine::new();
    let listener = TcpListener::bind(("127.0.0.1", machine.port)).unwrap();
    let (code, said) = machine.fails(&mut machine.command());
    drop(listener);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("a program that is no NATS server"), "{said}");
}

#[test]
fn a_missing_or_useless_server_says_how_to_get_one() {
    let mut machine = Machine::new();
    machine.server = None;
    let (code, said) = machine.fails(machine.command().env("PATH", "/nonexistent"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("apt-get install nats-server") && said.contains("go install"), "{said}");
    machine.server = Some("/bin/false".into());
    let (code, said) = machine.fails(&mut machine.command());
    assert_eq!((code, said.contains("/bin/false does not run")), (Some(2), true), "{said}");
}

#[test]
fn a_server_that_cannot_start_names_its_log() {
    let machine = Machine::new();
    fs::create_dir_all(machine.nats()).unwrap();
    fs::write(machine.nats().join("jetstream"), "a file where the folder should be").unwrap();
    let (code, said) = machine.fails(&mut machine.command());
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("nats.log"), "{said}");
    let mut log = String::new();
    fs::File::open(machine.nats().join("nats.log")).unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("ended by itself"), "{log}");
}
