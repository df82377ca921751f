//! What the kernel allows: its version, open files, inotify.

use super::{
    finding::{Finding, count},
    processes::Process,
    survey::Survey,
};
use common::{index::Coverage, settings::TransferSettings};
use rustix::{
    fs::{
        CWD, Mode, OFlags, ResolveFlags,
        inotify::{self, CreateFlags},
        openat2,
    },
    system::uname,
};
use std::{fs, path::Path};

/// Descriptors besides files in work and HTTP: the root, index, broker, standard streams, and a walk of a hundred levels.
const BASE: u64 = 128;
/// Connections that HTTP takes at once.
const HTTP: u64 = 128;
/// For each file in work.
const FILE: u64 = 3;
/// The kernel's default, with which a burst of some thousand files fits.
const EVENTS: u64 = 16_384;
/// The least that is proposed for watches: each costs about 1 KiB when it is used, and nothing before.
const WATCHES: u64 = 65_536;

/// What the kernel says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kernel {
    pub release: String,
    /// Why `openat2` does not work, if it does not.
    pub no_openat2: Option<String>,
    /// `fs.inotify.max_user_watches`, `max_queued_events`; `None`: not told.
    pub watches: Option<u64>,
    pub events: Option<u64>,
    /// Why no inotify can be had, if none can.
    pub no_inotify: Option<String>,
}

impl Kernel {
    pub fn look() -> Self {
        let number = |name: &str| {
            let text = fs::read_to_string(Path::new("/proc/sys/fs/inotify").join(name)).ok()?;
            text.trim().parse().ok()
        };
        let opened = openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty());
        Self {
            release: uname().release().to_string_lossy().into_owned(),
            no_openat2: opened.err().map(|error| error.to_string()),
            watches: number("max_user_watches"),
            events: number("max_queued_events"),
            // It is gone again at once.
            no_inotify: inotify::init(CreateFlags::CLOEXEC).err().map(|error| error.to_string()),
        }
    }
}

pub fn judge_kernel(kernel: &Kernel) -> Finding {
    let release = &kernel.release;
    match &kernel.no_openat2 {
        None => Finding::ok("kernel", format!("Linux {release}")),
        Some(error) => Finding::wrong("kernel", format!("Linux {release}, without openat2 ({error})"))
            .why("without it nobody can keep below the root; kernels have it from 5.6 on, old container runtimes forbid it")
            .cure("update the kernel, or the container runtime (its seccomp profile)"),
    }
}

/// Descriptors that a process needs at most.
fn needed(transfers: u64) -> u64 {
    BASE + HTTP + FILE * transfers
}

pub fn judge_descriptors(processes: &[Process], transfer: TransferSettings) -> Finding {
    let need = needed(transfer.transfers as u64);
    let allowed = |process: &Process| process.descriptors.unwrap_or(u64::MAX);
    let Some(least) = processes.iter().min_by_key(|process| allowed(process)) else {
        return Finding::ok("descriptors", format!("{need} are needed"));
    };
    let may = match least.descriptors {
        Some(u64::MAX) => format!("{least} may open files without limit"),
        Some(may) => format!("{least} may open {may} files, {need} are needed"),
        None => format!("{need} are needed; what {least} may is not told"),
    };
    if allowed(least) >= need {
        return Finding::ok("descriptors", may);
    }
    let line = need.next_power_of_two().max(4096);
    Finding::wrong("descriptors", may)
        .why("files beyond it fail, and are tried again and again")
        .cure(format!("LimitNOFILE={line}  # in [Service] of the unit; by hand: ulimit -n {line}"))
}

fn sysctl(name: &str, value: u64) -> String {
    format!(
        "echo 'fs.inotify.{name} = {value}' >> /etc/sysctl.d/90-mediamirror.conf\n\
         sysctl -p /etc/sysctl.d/90-mediamirror.conf"
    )
}

/// The limit of watches against the folders of the tree; the watches of all programs of a user count.
pub fn judge_watches(kernel: &Kernel, survey: Option<&Survey>, coverage: Option<Coverage>) -> Finding {
    let known = coverage.map_or(0, |coverage| coverage.folders);
    let folders = survey.map_or(0, |survey| survey.folders).max(known);
    let least = if survey.is_some_and(|survey| !survey.complete) { "at least " } else { "" };
    let Some(limit) = kernel.watches else {
        return Finding::note("watches", "fs.inotify.max_user_watches cannot be read");
    };
    let found = format!("{limit} for a user, the tree has {least}{}", count(folders, "folder"));
    let cure = || sysctl("max_user_watches", (folders * 2).next_power_of_two().max(WATCHES));
    match limit {
        _ if limit < folders => Finding::wrong("watches", found)
            .why("folders beyond it are polled: changes there are seen seconds later, at the cost of a stat a file")
            .cure(cure()),
        _ if limit < folders.saturating_add(folders / 4) => Finding::note("watches", found)
            .why("the watches of all programs of a user count together")
            .cure(cure()),
        _ => Finding::ok("watches", found),
    }
}

/// `has_one`: a watcher of this node runs, and watches all.
pub fn judge_inotify(kernel: &Kernel, has_one: bool) -> Finding {
    if let Some(error) = &kernel.no_inotify {
        let found = format!("this user cannot have one more ({error})");
        let finding =
            if has_one { Finding::note("inotify", found) } else { Finding::wrong("inotify", found) };
        return finding
            .why("a watcher that starts without one polls the whole tree")
            .cure(sysctl("max_user_instances", 512));
    }
    match kernel.events {
        Some(events) if events < EVENTS => {
            Finding::note("inotify", format!("its queue holds {events} events only"))
                .why("a burst of changes beyond it costs a scan of the whole tree")
                .cure(sysctl("max_queued_events", EVENTS))
        }
        Some(events) => Finding::ok("inotify", format!("can be had; its queue holds {events} events")),
        None => Finding::ok("inotify", "can be had"),
    }
}

/// What the watcher says of itself.
pub fn judge_coverage(coverage: Option<Coverage>) -> Finding {
    match coverage {
        None => Finding::ok("coverage", "no watcher has looked at the tree yet"),
        Some(Coverage { folders, watched }) if watched < folders => {
            Finding::wrong("coverage", format!("{watched} of {folders} folders are watched"))
                .why("the others are polled: changes there are seen seconds later")
                .cure("see watches, inotify and files here; else the watcher's log says why")
        }
        Some(Coverage { folders, .. }) => {
            Finding::ok("coverage", format!("{} watched, which is all", count(folders, "folder")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Verdict::{self, Note, Ok, Wrong};

    #[test]
    fn files_at_once_need_descriptors() {
        let process = |descriptors| Process { role: None, pid: 1, uid: 1, gives_away: false, descriptors };
        let transfer = |transfers| TransferSettings { limit: None, transfers };
        for (descriptors, transfers, verdict) in [
            (vec![Some(1024)], 64, Ok),
            (vec![Some(256)], 64, Wrong),
            (vec![Some(1024)], 512, Wrong),
            (vec![Some(4096), Some(1024)], 512, Wrong),
            (vec![Some(4096)], 512, Ok),
            (vec![Some(u64::MAX), None], 512, Ok),
        ] {
            let processes: Vec<Process> = descriptors.iter().map(|&limit| process(limit)).collect();
            let finding = judge_descriptors(&processes, transfer(transfers));
            assert_eq!(finding.verdict, verdict, "{descriptors:?} {transfers}: {finding}");
        }
    }

    #[test]
    fn each_folder_needs_a_watch() {
        let survey = |folders| Survey { folders, complete: true, ..Survey::default() };
        let cases: [(u64, u64, u64, Verdict); 6] = [
            (8192, 100, 0, Ok),
            (8192, 8192, 0, Note),
            (8192, 8193, 0, Wrong),
            // The survey was given up early; the watcher had counted them.
            (8192, 10, 9000, Wrong),
            (10_000, 9_000, 0, Note),
            (10_000, 8_000, 0, Ok),
        ];
        for (limit, folders, known, verdict) in cases {
            let kernel = Kernel { watches: Some(limit), ..Kernel::default() };
            let coverage = (known > 0).then_some(Coverage { folders: known, watched: 1 });
            let finding = judge_watches(&kernel, Some(&survey(folders)), coverage);
            assert_eq!(finding.verdict, verdict, "{limit} {folders} {known}: {finding}");
        }
        let kernel = Kernel { watches: Some(1), ..Kernel::default() };
        let cure = judge_watches(&kernel, Some(&survey(200_000)), None).cure.unwrap_or_default();
        assert!(cure.contains("max_user_watches = 524288'"), "{cure}");
    }

    #[test]
    fn inotify_and_its_queue_are_judged() {
        let kernel = |no_inotify: Option<&str>, events| Kernel {
            no_inotify: no_inotify.map(Into::into),
            events,
            ..Kernel::default()
        };
        for (kernel, has_one, verdict) in [
            (kernel(None, Some(16_384)), false, Ok),
            (kernel(None, None), false, Ok),
            (kernel(None, Some(100)), true, Note),
            (kernel(Some("too many open files"), Some(16_384)), false, Wrong),
            (kernel(Some("too many open files"), Some(16_384)), true, Note),
        ] {
            assert_eq!(judge_inotify(&kernel, has_one).verdict, verdict, "{kernel:?}");
        }
        let coverage = |folders, watched| Some(Coverage { folders, watched });
        for (coverage, verdict) in [(None, Ok), (coverage(3, 3), Ok), (coverage(3, 2), Wrong)] {
            assert_eq!(judge_coverage(coverage).verdict, verdict, "{coverage:?}");
        }
        let old = Kernel { no_openat2: Some("not implemented".into()), ..Kernel::default() };
        assert_eq!((judge_kernel(&old).verdict, judge_kernel(&Kernel::look()).verdict), (Wrong, Ok));
    }
}
