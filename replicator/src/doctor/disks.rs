//! The disks under root and state: of which kind their file systems are, whether they can be written, and how full they are.

use super::finding::Finding;
use common::{root::Disk, settings::MinFree};
use indicatif::HumanBytes;
use rustix::fs::{StatVfsMountFlags, statvfs};
use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// An index grows by some 300 bytes a file; its journal, locks and copies need room besides.
const STATE_FREE: u64 = 64 << 20;
/// Files that can still be made, below which an upload of some folders ends it.
const FILES_FREE: u64 = 1_000;

/// Which of a node's folders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    Root,
    State,
}

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    pub at: PathBuf,
    pub kind: String,
    pub read_only: bool,
}

/// What a file system can do for a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// All that is needed.
    Good,
    /// It is gone with the machine's memory.
    Memory,
    /// It lies elsewhere: others change it without this kernel's knowledge, and nothing is exchanged by one rename.
    Network,
    /// A program's: whatever that can do.
    Program,
    /// Layers, as of a container.
    Layers,
    /// It has no modes, or takes `A` for `a`.
    Foreign,
    Unknown,
}

fn kind_of(name: &str) -> Kind {
    match name {
        "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "f2fs" | "bcachefs" | "zfs" => Kind::Good,
        "tmpfs" | "ramfs" => Kind::Memory,
        "nfs" | "nfs4" | "cifs" | "smb3" | "smbfs" | "9p" | "ceph" | "afs" | "gfs2" | "ocfs2" | "lustre"
        | "glusterfs" | "fuse.sshfs" | "fuse.glusterfs" | "fuse.s3fs" | "fuse.rclone" | "fuse.juicefs" => {
            Kind::Network
        }
        "overlay" | "aufs" => Kind::Layers,
        "vfat" | "msdos" | "exfat" | "ntfs" | "ntfs3" | "fuseblk" | "hfs" | "hfsplus" | "iso9660" | "udf" => {
            Kind::Foreign
        }
        name if name.starts_with("fuse") => Kind::Program,
        _ => Kind::Unknown,
    }
}

/// The mount that a path is on: the longest that it begins with, and of several at one place the last, which covers the others.
pub fn mount_of(path: &Path) -> Option<Mount> {
    // The state may not be there yet.
    let there = path.ancestors().find_map(|above| fs::canonicalize(above).ok())?;
    let mount = find(&fs::read_to_string("/proc/self/mountinfo").ok()?, &there)?;
    // The list may change while it is read; this is asked of the file system itself.
    let read_only = statvfs(&there).map(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY));
    Some(Mount { read_only: read_only.unwrap_or(mount.read_only), ..mount })
}

fn find(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(parse).filter(|mount| path.starts_with(&mount.at));
    mounts.max_by_key(|mount| mount.at.components().count())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse(line: &str) -> Option<Mount> {
    let (mount, system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(4);
    let (at, options) = (mount.next()?, mount.next()?);
    let mut system = system.split(' ');
    let (kind, of_all) = (system.next()?, system.nth(1)?);
    let read_only = [options, of_all].iter().any(|options| options.split(',').any(|option| option == "ro"));
    Some(Mount { at: unescaped(at), kind: kind.into(), read_only })
}

/// White space and backslashes stand there as `\040` and the like.
fn unescaped(text: &str) -> PathBuf {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let octal = text.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        match octal.and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => (out.push(byte), at += 4),
            None => (out.push(bytes[at]), at += 1),
        };
    }
    OsString::from_vec(out).into()
}

/// Whether a node can work on this file system.
pub fn judge_kind(which: Which, mount: Option<&Mount>) -> Finding {
    let check = match which {
        Which::Root => "root_system",
        Which::State => "state_system",
    };
    let Some(mount) = mount else { return Finding::note(check, "/proc does not tell what it is on") };
    let (kind, at) = (&mount.kind, mount.at.display());
    let found = format!("{kind} at {at}");
    if mount.read_only {
        return Finding::wrong(check, format!("{found}, mounted read-only"))
            .why(
                "nothing can be written; a disk with errors is often made read-only by the kernel: see dmesg",
            )
            .cure(format!("mount -o remount,rw {at}"));
    }
    const LOCAL: &str = "put it on a local ext4, XFS or Btrfs";
    match (kind_of(kind), which) {
        (Kind::Good, _) => Finding::ok(check, found),
        (Kind::Memory, Which::Root) => Finding::note(check, found)
            .why("a restart of the machine empties it; the marker goes with it, and the node halts then"),
        (Kind::Memory, Which::State) => Finding::note(check, found)
            .why("a restart of the machine empties it: the tree is hashed anew, and files that were removed meanwhile come back")
            .cure(LOCAL),
        (Kind::Network, Which::Root) => Finding::wrong(check, found)
            .why("inotify sees no changes that other machines make, and no two names can be exchanged by one rename")
            .cure(LOCAL),
        (Kind::Network, Which::State) => Finding::wrong(check, found)
            .why("the index needs memory shared between processes, and locks, which are no good over a network")
            .cure(LOCAL),
        (Kind::Program, Which::Root) => Finding::note(check, found)
            .why("inotify sees what is changed here only; what the program changes behind it is found by the hourly scan"),
        (Kind::Layers, Which::Root) => Finding::note(check, found)
            .why("inotify sees no changes of the layers below, and what is written is gone with the container")
            .cure("mount a volume at the root"),
        (Kind::Program | Kind::Layers, Which::State) => Finding::note(check, found)
            .why("the index has to outlive its process, and in a container the container")
            .cure(LOCAL),
        (Kind::Foreign, _) => Finding::wrong(check, found)
            .why("it has no modes, or takes upper and lower case for the same: names that differ elsewhere collide")
            .cure(LOCAL),
        (Kind::Unknown, _) => Finding::note(check, found)
            .why("nobody has tried this one; it must exchange two names by one rename, as ext4, XFS, Btrfs and tmpfs do"),
    }
}

/// How full the disk of a folder is, or of the nearest folder above it that is there.
pub fn disk_of(path: &Path) -> Option<Disk> {
    let stat = path.ancestors().find_map(|above| statvfs(above).ok())?;
    Some(Disk {
        size: stat.f_blocks.saturating_mul(stat.f_frsize),
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        files_free: if stat.f_files == 0 { u64::MAX } else { stat.f_favail },
        block: stat.f_frsize.max(1),
    })
}

/// The root's disk against the floor of `--min-free`.
pub fn judge_root_disk(root: &Path, disk: Option<&Disk>, min_free: MinFree) -> Finding {
    let Some(disk) = disk else { return Finding::note("root_disk", "how full it is cannot be asked") };
    let floor = min_free.of(disk.size);
    let (free, size) = (HumanBytes(disk.free), HumanBytes(disk.size));
    let found = format!("{free} of {size} free, {} are kept free", HumanBytes(floor));
    let look = format!("du -xh -d 1 {} | sort -h | tail  # or a lower --min-free", root.display());
    if let Some(finding) = no_files("root_disk", disk, root) {
        return finding;
    }
    if disk.free <= floor {
        return Finding::wrong("root_disk", found)
            .why("files of other nodes wait until there is room above that floor")
            .cure(look);
    }
    if disk.free < floor.saturating_add(disk.size / 20) {
        return Finding::note("root_disk", found).why("files wait when it comes to that").cure(look);
    }
    Finding::ok("root_disk", found)
}

pub fn judge_state_disk(state: &Path, disk: Option<&Disk>) -> Finding {
    let Some(disk) = disk else { return Finding::note("state_disk", "how full it is cannot be asked") };
    let found = format!("{} of {} free", HumanBytes(disk.free), HumanBytes(disk.size));
    if let Some(finding) = no_files("state_disk", disk, state) {
        return finding;
    }
    if disk.free < STATE_FREE {
        return Finding::wrong("state_disk", format!("{found}, {} are needed", HumanBytes(STATE_FREE)))
            .why("without room for the index both processes stand still")
            .cure(format!("make room, or move {} and say where by --state", state.display()));
    }
    Finding::ok("state_disk", found)
}

fn no_files(check: &'static str, disk: &Disk, path: &Path) -> Option<Finding> {
    (disk.files_free < FILES_FREE).then(|| {
        Finding::wrong(check, format!("only {} more files can be made (inodes)", disk.files_free))
            .why("files wait until there are inodes, however many bytes are free")
            .cure(format!("df -i {}  # remove files, or make the file system with more", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Verdict::{self, Note, Ok, Wrong};

    const INFO: &str = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        40 22 0:35 / /srv rw shared:9 - xfs /dev/vdb rw,noquota\n\
        41 40 0:36 / /srv/a\\040b rw,nosuid - nfs4 host:/export ro,vers=4.2\n\
        42 40 0:37 / /srv/x ro - tmpfs tmpfs rw\n\
        43 40 0:38 / /srv/x rw - vfat /dev/vdc rw\n";

    #[test]
    fn a_path_is_on_the_nearest_mount_above_it() {
        for (path, at, kind, read_only) in [
            ("/home/me", "/", "ext4", false),
            ("/srv", "/srv", "xfs", false),
            ("/srv/media/x", "/srv", "xfs", false),
            ("/srvx", "/", "ext4", false),
            ("/srv/a b/c", "/srv/a b", "nfs4", true),
            // The second covers the first.
            ("/srv/x/y", "/srv/x", "vfat", false),
        ] {
            let mount = find(INFO, Path::new(path));
            assert_eq!(mount, Some(Mount { at: at.into(), kind: kind.into(), read_only }), "{path}");
        }
        assert!(mount_of(Path::new("/nowhere/at/all")).is_some());
    }

    #[test]
    fn each_kind_of_file_system_has_its_verdict() {
        let cases: [(&str, Verdict, Verdict); 10] = [
            ("ext4", Ok, Ok),
            ("xfs", Ok, Ok),
            ("tmpfs", Note, Note),
            ("nfs4", Wrong, Wrong),
            ("fuse.sshfs", Wrong, Wrong),
            ("fuse.mergerfs", Note, Note),
            ("overlay", Note, Note),
            ("vfat", Wrong, Wrong),
            ("fuseblk", Wrong, Wrong),
            ("brandnewfs", Note, Note),
        ];
        for (kind, root, state) in cases {
            let mount = |read_only| Mount { at: "/srv".into(), kind: kind.into(), read_only };
            for (which, verdict) in [(Which::Root, root), (Which::State, state)] {
                assert_eq!(judge_kind(which, Some(&mount(false))).verdict, verdict, "{kind} {which:?}");
                let finding = judge_kind(which, Some(&mount(true)));
                assert_eq!(finding.verdict, Wrong, "{kind} {which:?}");
                assert_eq!(finding.cure.as_deref(), Some("mount -o remount,rw /srv"));
            }
        }
    }

    #[test]
    fn the_floor_the_index_and_inodes_need_room() {
        const GIB: u64 = 1 << 30;
        let (path, disk) =
            (Path::new("/srv"), |free, files_free| Disk { size: 100 * GIB, free, files_free, block: 4096 });
        for (free, files_free, root, state) in [
            (50 * GIB, u64::MAX, Ok, Ok),
            (5 * GIB, 100_000, Note, Ok),
            (GIB, 100_000, Wrong, Ok),
            (GIB / 100, 100_000, Wrong, Wrong),
            (50 * GIB, 10, Wrong, Wrong),
        ] {
            let disk = disk(free, files_free);
            assert_eq!(judge_root_disk(path, Some(&disk), MinFree::default()).verdict, root, "{disk:?}");
            assert_eq!(judge_state_disk(path, Some(&disk)).verdict, state, "{disk:?}");
        }
        let none: MinFree = "0".parse().expect("a floor");
        assert_eq!(judge_root_disk(path, Some(&disk(GIB, u64::MAX)), none).verdict, Note);
        assert!(disk_of(Path::new("/nowhere/at/all")).is_some_and(|disk| disk.size > 0));
    }
}
