//! Small disks that a test can fill: tmpfs of its own.

use crate::process::not_run;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A tmpfs, unmounted when dropped.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of this size at a folder, which is made. `None` where mounting is not permitted: the test has not run then.
    pub fn mounted(test: &str, path: &Path, bytes: u64, files: u64) -> Option<Self> {
        fs::create_dir_all(path).expect("make a folder");
        let options = format!("size={bytes},nr_inodes={files},mode=0755");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path);
        let done = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !done.is_ok_and(|status| status.success()) {
            not_run(test, "mounting a tmpfs is not permitted here");
            return None;
        }
        Some(Self { path: path.into() })
    }

    /// A path on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Free bytes on it.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.path).expect("ask a file system");
        stat.f_bavail * stat.f_frsize
    }

    /// Fills it with one file, to the last byte; deleting that makes room again.
    pub fn fill(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let mut file = fs::File::create(&path).expect("make a file");
        for length in [1 << 20, 4096] {
            let block = vec![b'x'; length];
            while file.write_all(&block).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: processes of a test that failed may still stand on it.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
