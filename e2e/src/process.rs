//! Child processes with their output in a file, killed when dropped; commands that must end in time.

use crate::wait::{wait_for, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

/// How long a process may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// Lines of a log that are shown when a test failed.
const SHOWN: usize = 60;

/// A running child. Its standard output and error go to one file.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; its log is `<logs>/<name>.log`, appended to.
    pub fn spawn(name: &str, logs: &Path, mut command: Command) -> Self {
        let log = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("open a log file");
        let both = file.try_clone().expect("clone a log file");
        command.stdin(Stdio::null()).stdout(file).stderr(both);
        let child = command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far, together with what earlier processes of its name wrote.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The lines of its log at this level: `WARN`, say.
    pub fn lines_at(&self, level: &str) -> Vec<String> {
        self.log().lines().filter(|line| line.contains(level)).map(str::to_owned).collect()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal a child");
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait for a child").is_none()
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(limit, &what, || self.child.try_wait().expect("wait for a child").ok_or("running".into()))
    }

    /// Asks it to read its configuration again.
    pub fn reload(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("signal a child");
    }

    /// Stops it where it is, until [`resume`](Self::resume).
    pub fn freeze(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).expect("signal a child");
    }

    /// Lets a frozen one go on.
    pub fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).expect("signal a child");
    }

    /// The descriptors that it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id())).map_or(0, Iterator::count)
    }

    /// Asks it to end, as a service manager does, and waits.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(STOP_LIMIT)
    }

    /// Ends it without any chance to tidy up.
    pub fn kill(mut self) {
        self.child.kill().expect("kill a child");
        self.child.wait().expect("wait for a child");
    }

    /// The most memory it ever had resident, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.try_peak_memory().expect("a running process")
    }

    /// The same; `None`: it has ended.
    pub fn try_peak_memory(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        Some(kib * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.child.try_wait().ok().flatten();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let state = ended.map_or("running".to_owned(), |status| status.to_string());
            eprintln!("---- {} ({state}), the end of its log:", self.name);
            lines.iter().skip(lines.len().saturating_sub(SHOWN)).for_each(|line| eprintln!("{line}"));
        }
    }
}

/// What a command left.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// The lines of standard output as JSON.
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Itself, when the command succeeded.
    ///
    /// # Panics
    /// When it did not, with all it said.
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

/// A command that runs a program as another user; for root only.
pub fn as_user(id: u32, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={id}")).arg(format!("--regid={id}")).arg("--clear-groups").arg(program);
    command
}

/// Runs a command to its end, which has to come within `limit`.
pub fn run(limit: Duration, mut command: Command) -> Finished {
    let (out, err) = (tempfile::NamedTempFile::new(), tempfile::NamedTempFile::new());
    let (out, err) = (out.expect("a temporary file"), err.expect("a temporary file"));
    let reopen = |file: &tempfile::NamedTempFile| file.reopen().expect("reopen a temporary file");
    command.stdin(Stdio::null()).stdout(reopen(&out)).stderr(reopen(&err));
    let mut child = command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    let mut ended = None;
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until(limit, &format!("the end of {command:?}"), || {
            ended = child.try_wait().expect("wait for a child");
            ended.is_some()
        });
    }));
    let read = |file: &tempfile::NamedTempFile| {
        String::from_utf8_lossy(&fs::read(file.path()).expect("read an output")).into_owned()
    };
    if let Err(panic) = end {
        let _ = child.kill();
        let _ = child.wait();
        eprintln!("---- it had said:\n{}{}", read(&out), read(&err));
        std::panic::resume_unwind(panic);
    }
    Finished { code: ended.and_then(|s| s.code()), stdout: read(&out), stderr: read(&err) }
}

/// Says that a test has not run, past the capture of its output: the runner's sum counts these lines.
pub fn not_run(test: &str, why: &str) {
    // Not by a macro, which the test runner would hold back.
    let _ = writeln!(std::io::stderr(), "not run: {test}: {why}");
}

/// The processes of this machine that run `program`, with `mark` in their command line.
pub fn running_with(program: &str, mark: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("list /proc").flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(program) && String::from_utf8_lossy(&line).contains(mark) {
            found.push(id);
        }
    }
    found
}
