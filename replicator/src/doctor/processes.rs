//! The processes of this node that run now, as the kernel tells of them: as whom they work, and what they may.

use super::finding::Finding;
use common::{local_lock::LocalLock, nodes::Role, settings::Folders};
use std::{fmt, fs, path::Path};

/// `CAP_CHOWN` in the sets of `/proc/<pid>/status`.
const CAP_CHOWN: u64 = 1;

/// One process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// `None`: this command.
    pub role: Option<Role>,
    pub pid: u32,
    /// The effective user.
    pub uid: u32,
    /// It may give files to other users.
    pub gives_away: bool,
    /// Descriptors it may have open; `None`: not told.
    pub descriptors: Option<u64>,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            Some(role) => write!(f, "{role} {}", self.pid),
            None => f.write_str("this command"),
        }
    }
}

/// Those of a node, and this command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Processes {
    pub running: Vec<Process>,
    /// This user may not see which run.
    pub hidden: bool,
    pub me: Process,
}

impl Processes {
    /// Who runs is told by the locks of the state directory, which hold process ids.
    pub fn look(folders: &Folders) -> Self {
        let lock = |role: Role| folders.state.join(format!("{role}.lock"));
        let roles = [Role::Watcher, Role::Replicator];
        let of = |role: Role| {
            let held = !LocalLock::is_free(&lock(role)).ok()?;
            let pid = held.then(|| fs::read_to_string(lock(role)).ok()).flatten()?;
            Process::read(Some(role), pid.trim().parse().ok()?)
        };
        let own = std::process::id();
        // Without /proc nothing is known, and nothing is promised.
        let unknown = Process { role: None, pid: own, uid: own_uid(), gives_away: false, descriptors: None };
        Self {
            running: roles.into_iter().filter_map(of).collect(),
            hidden: roles.into_iter().any(|role| LocalLock::is_free(&lock(role)).is_err()),
            me: Process::read(None, own).unwrap_or(unknown),
        }
    }

    /// Those whose rights count: what runs, and if nothing does, this command in its place.
    pub fn that_count(&self) -> &[Process] {
        if self.running.is_empty() { std::slice::from_ref(&self.me) } else { &self.running }
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

impl Process {
    fn read(role: Option<Role>, pid: u32) -> Option<Self> {
        let folder = Path::new("/proc").join(pid.to_string());
        let (uid, gives_away) = identity(&fs::read_to_string(folder.join("status")).ok()?)?;
        let limits = fs::read_to_string(folder.join("limits")).ok();
        let descriptors = limits.and_then(|text| descriptors(&text));
        Some(Self { role, pid, uid, gives_away, descriptors })
    }
}

/// Effective user, and whether it may change owners, of `/proc/<pid>/status`.
fn identity(status: &str) -> Option<(u32, bool)> {
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
    let uid = field("Uid:")?.split_whitespace().nth(1)?.parse().ok()?;
    let effective = u64::from_str_radix(field("CapEff:")?.trim(), 16).ok()?;
    Some((uid, effective & CAP_CHOWN != 0))
}

/// The soft limit of open files, of `/proc/<pid>/limits`.
fn descriptors(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Whether this command sees what the processes see.
pub fn judge(processes: &Processes) -> Finding {
    let Processes { running, hidden, me } = processes;
    let names: Vec<String> = running.iter().map(ToString::to_string).collect();
    let who = match names.len() {
        0 => "nothing of this node runs".into(),
        1 => format!("{} runs", names[0]),
        _ => format!("{} run", names.join(" and ")),
    };
    match running.iter().find(|process| process.uid != me.uid) {
        Some(other) => {
            let found = format!("{who} as user {}, this command as user {}", other.uid, me.uid);
            Finding::note("user", found)
                .why("what may be read and written was looked at as the user of this command")
                .cure(format!("sudo -u '#{}' replicator doctor …", other.uid))
        }
        None if running.is_empty() && me.uid == 0 => {
            Finding::note("user", format!("{who}, and this command is root"))
                .why("root may read and write everything; the user of the processes may not")
                .cure("sudo -u USER replicator doctor …  # unless they will be root too")
        }
        None if *hidden => {
            Finding::note("user", format!("user {} may not see whether processes of this node run", me.uid))
                .why("what may be read and written was looked at as the user of this command")
        }
        None if running.is_empty() => Finding::ok("user", format!("{who}; this command is user {}", me.uid)),
        None => Finding::ok("user", format!("{who} as user {}", me.uid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Verdict;

    #[test]
    fn what_the_kernel_says_is_read() {
        let status = "Name:\twatcher\nUid:\t33\t34\t35\t36\nCapEff:\t00000000000000c1\n";
        assert_eq!(identity(status), Some((34, true)));
        assert_eq!(identity(&status.replace("c1", "c0")), Some((34, false)));
        assert_eq!(identity("Name:\tx\n"), None);
        let limits =
            "Limit          Soft Limit  Hard Limit  Units\nMax open files     1024     524288     files\n";
        assert_eq!(descriptors(limits), Some(1024));
        assert_eq!(descriptors(&limits.replace("1024", "unlimited")), Some(u64::MAX));
        let me = Process::read(None, std::process::id()).expect("this process");
        assert_eq!(me.uid, own_uid());
        assert!(me.descriptors.is_some());
    }

    #[test]
    fn another_user_sees_other_things() {
        let process = |role, uid| Process { role, pid: 7, uid, gives_away: false, descriptors: None };
        for (running, me, verdict, says) in [
            (vec![], 33, Verdict::Ok, "nothing of this node runs; this command is user 33"),
            (vec![], 0, Verdict::Note, "this command is root"),
            (vec![process(Some(Role::Watcher), 33)], 33, Verdict::Ok, "watcher 7 runs as user 33"),
            (
                vec![process(Some(Role::Watcher), 33)],
                0,
                Verdict::Note,
                "watcher 7 runs as user 33, this command as user 0",
            ),
            (vec![process(Some(Role::Watcher), 0)], 0, Verdict::Ok, "runs as user 0"),
        ] {
            let finding = judge(&Processes { running, hidden: false, me: process(None, me) });
            assert_eq!(finding.verdict, verdict, "{finding}");
            assert!(finding.found.contains(says), "{finding}");
        }
        let hidden = Processes { running: vec![], hidden: true, me: process(None, 33) };
        assert_eq!(judge(&hidden).verdict, Verdict::Note);
    }
}
