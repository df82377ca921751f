//! Limits of inotify for one process: those of a user namespace of its own, so that nothing beside it is disturbed.

use crate::{
    process::{not_run, run},
    wait::SOON,
};
use std::process::Command;

/// Folders that may be watched.
pub const WATCHES: &str = "max_inotify_watches";
/// Processes that may watch.
pub const INSTANCES: &str = "max_inotify_instances";

/// A command inside a user namespace of its own, where this limit of inotify holds.
pub fn limited(command: &Command, limit: &str, value: u32) -> Command {
    let mut limited = Command::new("unshare");
    limited.args(["--user", "--map-root-user", "sh", "-c"]);
    limited.arg(format!("echo {value} > /proc/sys/user/{limit} && exec \"$@\"")).arg("sh");
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

/// Lifts it for a process that runs there.
pub fn lift(process: u32, limit: &str, value: u32) {
    let mut command = Command::new("nsenter");
    command.args(["--user", "--preserve-credentials", "--target", &process.to_string(), "sh", "-c"]);
    command.arg(format!("echo {value} > /proc/sys/user/{limit}"));
    run(SOON, command).succeeded();
}

/// Whether this machine lets its users make namespaces; where it does not, the test has not run.
pub fn may_limit(test: &str) -> bool {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", &format!("echo 9 > /proc/sys/user/{WATCHES}")]);
    let may = run(SOON, command).code == Some(0);
    if !may {
        not_run(test, "no user namespaces here");
    }
    may
}
