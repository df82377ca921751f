//! A disk of a test's own: an ext4 in a file, mounted, whose power can be cut.

use crate::{
    process::{not_run, run},
    wait::SOON,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// What is done with what the journal holds when the power goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// It is written first: all metadata is there, data that was not synced is not.
    Flushed = 1,
    /// It is lost, as in a real power cut.
    Lost = 2,
}

/// `FS_IOC_SHUTDOWN`, in a language whose ioctl is safe.
const SHUTDOWN: &str = "
import fcntl, os, struct, sys
folder = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(folder, 0x8004587D, struct.pack('I', int(sys.argv[2])))
";

/// Mounted until it is dropped. What runs on it has to end before: declare it before the mirror.
pub struct Disk {
    dir: TempDir,
}

impl Disk {
    /// A new one of so many MiB. `None` where mounting is not permitted; that is said on standard error, where `deploy/test.sh` counts it.
    pub fn mounted(test: &str, mib: u64) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("mirror-disk-").tempdir().expect("a temporary folder");
        let disk = Self { dir };
        fs::create_dir(disk.path()).expect("make a mount point");
        let image = fs::File::create(disk.image()).expect("make an image");
        image.set_len(mib << 20).expect("size an image");
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-e", "remount-ro", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(disk.image());
        let made = mkfs.output().is_ok_and(|output| output.status.success());
        if made && disk.try_mount() {
            return Some(disk);
        }
        not_run(test, "no ext4 can be mounted here");
        None
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn try_mount(&self) -> bool {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(self.image()).arg(self.path());
        run(SOON, mount).code == Some(0)
    }

    /// Cuts its power: from now on everything on it fails.
    pub fn cut(&self, cut: Cut) {
        let mut python = Command::new("python3");
        python.args(["-c", SHUTDOWN]).arg(self.path()).arg((cut as u32).to_string());
        run(SOON, python).succeeded();
        assert!(
            fs::write(self.path().join("written after the cut"), b"x").is_err(),
            "the disk is still there"
        );
    }

    /// The power is back. Nothing may have a file open on it.
    pub fn power_on(&self) {
        self.unmount().succeeded();
        assert!(self.try_mount(), "mount {:?} again", self.image());
    }

    /// An error of the disk makes its file system refuse every write.
    pub fn turn_read_only(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let mount =
            mounts.lines().find(|line| line.split(' ').nth(1) == self.path().to_str()).expect("a mount");
        let device = mount.split(' ').next().and_then(|device| device.rsplit('/').next()).expect("a device");
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").expect("trigger an error");
    }

    /// It is checked, and mounted again. Nothing may have a file open on it.
    pub fn check(&self) {
        self.unmount().succeeded();
        let mut fsck = Command::new("e2fsck");
        fsck.args(["-f", "-y"]).arg(self.image());
        // 1: errors were corrected.
        assert!(matches!(run(SOON, fsck).code, Some(0 | 1)));
        assert!(self.try_mount(), "mount {:?} again", self.image());
    }

    fn unmount(&self) -> crate::process::Finished {
        let mut umount = Command::new("umount");
        umount.arg(self.path());
        run(SOON, umount)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if is_mounted(&self.path()) && self.unmount().code != Some(0) {
            // A failing test may leave something open; the mount goes when that does.
            let _ = Command::new("umount").arg("-l").arg(self.path()).output();
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1).map(Path::new) == Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_synced_is_gone_after_a_cut() {
        let Some(disk) = Disk::mounted("what_was_not_synced_is_gone_after_a_cut", 16) else { return };
        let (synced, other) = (disk.path().join("synced"), disk.path().join("other"));
        fs::write(&synced, b"synced").expect("write");
        fs::File::open(&synced).expect("open").sync_all().expect("sync");
        fs::File::open(disk.path()).expect("open").sync_all().expect("sync");
        fs::write(&other, b"other").expect("write");
        disk.cut(Cut::Lost);
        disk.power_on();
        assert_eq!(fs::read(&synced).expect("a synced file"), b"synced");
        assert!(!other.exists());
    }
}
