//! A process whose chosen system calls fail, come late, or are its last.
//!
//! strace counts occurrences by thread, so `when` chooses among the calls of whichever thread gets that far first.

use crate::{
    process::Process,
    wait::{SOON, wait_until},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What happens at a call.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The process is killed before the call is made.
    Kill,
    /// The call is not made, and returns this error.
    Error(&'static str),
    /// The call begins after this many milliseconds.
    Delay(u32),
}

/// A fault at some occurrences of a call.
#[derive(Clone, Debug)]
pub struct Injection {
    /// The system call.
    pub call: String,
    /// What happens.
    pub fault: Fault,
    /// Which occurrences in a thread: `3`, `3..5`, `3+`, as strace writes them.
    pub when: String,
}

impl Injection {
    /// A fault at these occurrences.
    pub fn new(call: &str, fault: Fault, when: impl ToString) -> Self {
        Self { call: call.into(), fault, when: when.to_string() }
    }

    fn argument(&self) -> String {
        let what = match self.fault {
            Fault::Kill => "signal=KILL".to_owned(),
            Fault::Error(name) => format!("error={name}"),
            Fault::Delay(ms) => format!("delay_enter={}", ms * 1000),
        };
        format!("inject={}:{what}:when={}", self.call, self.when)
    }
}

/// What strace saw.
pub struct Trace {
    file: PathBuf,
    only: Vec<PathBuf>,
}

impl Trace {
    /// Written to this file.
    pub fn at(path: PathBuf) -> Self {
        let _ = fs::remove_file(&path);
        Self { file: path, only: Vec::new() }
    }

    /// Sees only calls with this path, or a handle of it, as an argument; may be said of several.
    #[must_use]
    pub fn only(mut self, path: PathBuf) -> Self {
        self.only.push(path);
        self
    }

    /// The command under strace. It traces `calls` and those of the injections; a killed strace takes it along.
    ///
    /// # Panics
    /// When there is no strace.
    pub fn command(&self, command: &Command, calls: &[&str], injections: &[Injection]) -> Command {
        let mut traced = self.strace(calls, injections);
        // Faster, but a signal is not delivered at the stops that it makes.
        if !injections.iter().any(|injection| matches!(injection.fault, Fault::Kill)) {
            traced.arg("--seccomp-bpf");
        }
        // Alone, a killed strace would leave what it started running.
        traced.args(["--", "setpriv", "--pdeathsig", "KILL", "--"]);
        traced.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => traced.env(name, value),
                None => traced.env_remove(name),
            };
        }
        traced
    }

    /// Attaches to every thread of a running process; dropped or stopped, it lets go, and the faults are over.
    pub fn attach(&self, process: u32, logs: &Path, calls: &[&str], injections: &[Injection]) -> Process {
        let mut command = self.strace(calls, injections);
        command.args(["-p", &process.to_string()]);
        let mut strace = Process::spawn("strace", logs, command);
        let traced =
            |status: &str| status.lines().any(|l| l.starts_with("TracerPid:") && !l.ends_with("\t0"));
        wait_until(SOON, "strace to attach", || {
            assert!(strace.is_running(), "strace ended: {}", strace.log());
            let threads = fs::read_dir(format!("/proc/{process}/task")).expect("the threads of a process");
            threads
                .flatten()
                .all(|thread| fs::read_to_string(thread.path().join("status")).is_ok_and(|s| traced(&s)))
        });
        strace
    }

    fn strace(&self, calls: &[&str], injections: &[Injection]) -> Command {
        let found = Command::new("strace").arg("--version").output();
        assert!(found.is_ok(), "strace is missing: apt-get install strace");
        let injected = injections.iter().map(|injection| injection.call.as_str());
        let all: Vec<&str> = calls.iter().copied().chain(injected).collect();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-y", "-s", "96", "-o"]).arg(&self.file);
        self.only.iter().for_each(|path| _ = strace.arg("-P").arg(path));
        strace.args(["-e", &format!("trace={}", all.join(","))]);
        injections.iter().for_each(|injection| _ = strace.args(["-e", &injection.argument()]));
        strace
    }

    /// All of it. What a killed strace had not written yet is not in it.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.file).unwrap_or_default()).into_owned()
    }

    /// The lines of injected errors and delays.
    pub fn injected(&self) -> Vec<String> {
        let marks = ["(INJECTED)", "(DELAYED)"];
        let hit = |line: &&str| marks.iter().any(|mark| line.contains(mark));
        self.text().lines().filter(hit).map(str::to_owned).collect()
    }

    /// The call that was the last of a killed process.
    pub fn last_call(&self, call: &str) -> String {
        let begins = format!("{call}(");
        let text = self.text();
        text.lines().rfind(|line| line.contains(&begins)).unwrap_or("not written").to_owned()
    }

    /// The highest number of occurrences of each call in one thread.
    pub fn counts(&self) -> BTreeMap<String, u32> {
        let mut by_thread: BTreeMap<(String, String), u32> = BTreeMap::new();
        for line in self.text().lines() {
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
            *by_thread.entry((call.to_owned(), thread.to_owned())).or_default() += 1;
        }
        let mut highest: BTreeMap<String, u32> = BTreeMap::new();
        for ((call, _), count) in by_thread {
            let so_far = highest.entry(call).or_default();
            *so_far = count.max(*so_far);
        }
        highest
    }
}

/// Kills the process that runs under a strace, and waits until it is gone; strace ends by itself then.
pub fn kill_traced(strace: u32) {
    let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        let pid = child.parse().ok().and_then(Pid::from_raw).expect("a process id");
        let _ = kill_process(pid, Signal::KILL);
        let proc = format!("/proc/{child}");
        wait_until(SOON, "the end of a traced process", || !Path::new(&proc).exists());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::run;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn faults_strike_where_they_are_told_to() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let trace = Trace::at(dir.path().join("trace"));
        let mut touch = Command::new("touch");
        touch.arg(dir.path().join("a"));
        let error = Injection::new("utimensat", Fault::Error("EIO"), 1);
        assert_ne!(run(SOON, trace.command(&touch, &["openat"], &[error])).code, Some(0));
        assert_eq!(trace.injected().len(), 1, "{}", trace.text());
        assert!(trace.counts()["openat"] >= 2);
        let kill = Injection::new("utimensat", Fault::Kill, 1);
        let status = trace.command(&touch, &[], &[kill]).status().expect("strace");
        assert_eq!(status.signal(), Some(9));
        assert!(trace.last_call("utimensat").contains("utimensat("));
    }
}
