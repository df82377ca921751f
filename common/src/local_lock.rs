//! A lock that one process of this machine holds, and that ends with it however it ends: `flock` on a file, with the
//! holder's process id inside for people.

use crate::exit::{Exit, Fault};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// [`LocalLock::is_free`] holds the lock for an instant, so a refusal counts only when it is repeated this often.
const TRIES: u32 = 3;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(2);

/// A lock held until this is dropped, or the process ends. The file stays.
#[derive(Debug)]
pub struct LocalLock {
    _file: File,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is locked by {}", .path.display(), .pid.map_or("another process".into(), |pid| format!("process {pid}")))]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// The holder, when it has written its process id already.
        pid: Option<u32>,
    },
    /// The file could not be opened or locked.
    #[error("locking {}", .path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Fault for LockError {
    fn exit(&self) -> Exit {
        Exit::Failed
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Held { pid: Some(pid), .. } => {
                Some(format!("`ps -fp {pid}` shows it; only one may run at a time"))
            }
            Self::Held { pid: None, .. } => Some("only one may run at a time".into()),
            Self::Io { .. } => None,
        }
    }
}

impl LocalLock {
    /// Takes the lock, or says who holds it. Waits for at most 4 ms.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: path.into(), source };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let mut file = File::from(open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?);
        for left in (0..TRIES).rev() {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    file.set_len(0).map_err(failed)?;
                    writeln!(file, "{}", std::process::id()).map_err(failed)?;
                    return Ok(Self { _file: file });
                }
                Err(rustix::io::Errno::WOULDBLOCK) if left > 0 => thread::sleep(PAUSE),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        let mut text = String::new();
        file.rewind().and_then(|()| file.read_to_string(&mut text)).map_err(failed)?;
        Err(LockError::Held { path: path.into(), pid: text.trim().parse().ok() })
    }

    /// Whether nobody holds the lock now; also when its file was never made.
    pub fn is_free(path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("lock");
        assert!(LocalLock::is_free(&path).expect("readable"));
        let lock = LocalLock::take(&path).expect("free");
        assert!(!LocalLock::is_free(&path).expect("readable"));
        let refused = LocalLock::take(&path).expect_err("held");
        let own = std::process::id();
        assert!(matches!(refused, LockError::Held { pid: Some(pid), .. } if pid == own), "{refused}");
        drop(lock);
        assert!(LocalLock::is_free(&path).expect("readable"));
        LocalLock::take(&path).expect("free again");
    }
}
