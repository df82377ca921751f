//! One run of the operator's command: in the root, in a process group of its own, with the lines on its standard input and its output among our log lines.
//!
//! The shell does not outlive us: it is started through a stage of this executable that asks the kernel for a SIGKILL at our death and then becomes it. What it
//! has started in turn may, when we are killed, run on for a while beside the command of our next life.

use common::{
    broker::guard::this_program,
    names::{MirrorName, NodeName},
    settings::HookSettings,
};
use rustix::process::{Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    pin::pin,
    process::{ExitCode, Stdio},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// The hidden subcommand.
const SUBCOMMAND: &str = "run-hook";
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// Whether this process was started to become a hook's shell. `main` asks before there are threads.
pub fn maybe_run() -> Option<ExitCode> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [sub, parent, command] = args.as_slice() else { return None };
    if *sub != SUBCOMMAND {
        return None;
    }
    let error = become_shell(parent, command);
    eprintln!("the command of --on-change could not be started: {error}");
    Some(ExitCode::FAILURE)
}

/// Returns only when there is no shell.
fn become_shell(parent: &OsStr, command: &OsStr) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // Had our parent died before that line, no signal would ever come.
    let now = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if now.as_deref().map(OsStr::new) != Some(parent) {
        return io::Error::other("the replicator is gone");
    }
    std::process::Command::new("/bin/sh").arg("-c").arg(command).exec()
}

/// Where a command runs, and what it is told of that: `MEDIAMIRROR_ROOT`, `MEDIAMIRROR_MIRROR`, `MEDIAMIRROR_NODE`.
pub struct Place {
    pub root: PathBuf,
    pub mirror: MirrorName,
    pub node: NodeName,
}

/// How a run ended.
#[derive(PartialEq, Eq, Debug)]
pub enum Ended {
    /// With exit status 0.
    Done,
    /// It could not be started, or ended otherwise.
    Failed(String),
    /// It was killed.
    TimedOut,
    /// It was ended because we are.
    Stopped,
}

impl Ended {
    /// As a label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed(_) => "failed",
            Self::TimedOut => "timed out",
            Self::Stopped => "stopped",
        }
    }
}

/// Runs it to its end, or until its time is up, or until `stop`; then its whole process group is ended. A command need not read what it is told.
pub async fn run(hook: &HookSettings, place: &Place, lines: Vec<u8>, stop: &CancellationToken) -> Ended {
    let mut child = match spawn(hook, place) {
        Ok(child) => child,
        Err(error) => return Ended::Failed(error.to_string()),
    };
    let stdin = child.stdin.take();
    let ended = {
        let mut feed = pin!(async {
            if let Some(mut stdin) = stdin {
                // It has closed its end: its exit status tells whether it is content with what it has read.
                let _ = stdin.write_all(&lines).await;
            }
        });
        let (mut fed, mut over) = (false, pin!(sleep(hook.timeout)));
        loop {
            tokio::select! {
                status = child.wait() => break match status {
                    Ok(status) if status.success() => Ended::Done,
                    Ok(status) => Ended::Failed(status.to_string()),
                    Err(error) => Ended::Failed(error.to_string()),
                },
                () = &mut feed, if !fed => fed = true,
                () = &mut over => break Ended::TimedOut,
                () = stop.cancelled() => break Ended::Stopped,
            }
        }
    };
    if matches!(ended, Ended::TimedOut | Ended::Stopped) {
        end(&mut child).await;
    }
    ended
}

fn spawn(hook: &HookSettings, place: &Place) -> io::Result<Child> {
    let mut command = this_program("mediamirror-hook");
    command
        .args([OsStr::new(SUBCOMMAND), OsStr::new(&std::process::id().to_string()), &hook.command])
        .current_dir(&place.root)
        .env("MEDIAMIRROR_ROOT", &place.root)
        .env("MEDIAMIRROR_MIRROR", place.mirror.as_str())
        .env("MEDIAMIRROR_NODE", place.node.as_str())
        .stdin(Stdio::piped())
        .stdout(io::stderr())
        .process_group(0);
    Command::from(command).kill_on_drop(true).spawn()
}

/// Asks the group to end, then ends it.
async fn end(child: &mut Child) {
    // Not reaped yet, so that the number is still its own.
    let Some(group) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else { return };
    let _ = kill_process_group(group, Signal::TERM);
    let ended = timeout(GRACE, child.wait()).await;
    // Others of the group may be there still.
    let _ = kill_process_group(group, Signal::KILL);
    if ended.is_err() {
        let _ = child.wait().await;
    }
}
