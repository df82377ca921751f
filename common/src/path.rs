//! Paths below the root. Names are bytes: never renamed, never normalised.

use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt, path::Path, sync::Arc};

/// The longest path, in bytes: `PATH_MAX` without its NUL.
pub const MAX_PATH: usize = 4095;
/// The longest component, in bytes: `NAME_MAX`.
pub const MAX_COMPONENT: usize = 255;
/// The folder in the root that is ours, and never mirrored.
pub const OWN_FOLDER: &str = ".mirror";

/// The path of a mirrored file, relative to the root.
///
/// 1 to 4,095 bytes, components of 1 to 255 bytes separated by one `/`, none of them `.` or `..`, no NUL; the first
/// is not `.mirror`. Ordered byte by byte, which is the order of the index and of a walk.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MediaPath(Arc<[u8]>);

/// Why bytes are not a [`MediaPath`].
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum InvalidPath {
    /// No bytes, or an empty component: a leading, trailing or doubled `/`.
    #[error("the path is empty, absolute, or has an empty component")]
    Empty,
    /// A `.` or `..` component.
    #[error("the path has a `.` or `..` component")]
    Dots,
    /// A NUL byte.
    #[error("the path has a NUL byte")]
    Nul,
    /// Over 4,095 bytes, or a component over 255.
    #[error("the path is over 4095 bytes, or a component over 255")]
    TooLong,
    /// Below `.mirror`.
    #[error("the path is below .mirror, which is never mirrored")]
    Own,
}

impl MediaPath {
    /// Checks bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, InvalidPath> {
        if bytes.len() > MAX_PATH {
            return Err(InvalidPath::TooLong);
        }
        if bytes.contains(&0) {
            return Err(InvalidPath::Nul);
        }
        for component in bytes.split(|&b| b == b'/') {
            match component {
                b"" => return Err(InvalidPath::Empty),
                b"." | b".." => return Err(InvalidPath::Dots),
                long if long.len() > MAX_COMPONENT => return Err(InvalidPath::TooLong),
                _ => {}
            }
        }
        if bytes.split(|&b| b == b'/').next() == Some(OWN_FOLDER.as_bytes()) {
            return Err(InvalidPath::Own);
        }
        Ok(Self(bytes.into()))
    }

    /// The exact bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As the system's path type, relative.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The last component.
    pub fn name(&self) -> &OsStr {
        let start = self.0.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
        OsStr::from_bytes(&self.0[start..])
    }

    /// The folder it stands in; empty for the root itself.
    pub fn parent(&self) -> &Path {
        let end = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Path::new(OsStr::from_bytes(&self.0[..end]))
    }

    /// The components, first to last.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/')
    }

    /// The path as text, when its bytes are UTF-8.
    pub fn as_utf8(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Display for MediaPath {
    /// For people: invalid UTF-8 and control characters are shown escaped, so that a name cannot forge a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for MediaPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl TryFrom<&Path> for MediaPath {
    type Error = InvalidPath;
    fn try_from(path: &Path) -> Result<Self, InvalidPath> {
        Self::new(path.as_os_str().as_bytes())
    }
}

impl std::str::FromStr for MediaPath {
    type Err = InvalidPath;
    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        Self::new(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_leave_the_root_is_refused() {
        for (bad, why) in [
            ("", InvalidPath::Empty),
            ("/etc/passwd", InvalidPath::Empty),
            ("a//b", InvalidPath::Empty),
            ("a/", InvalidPath::Empty),
            ("../a", InvalidPath::Dots),
            ("a/./b", InvalidPath::Dots),
            ("a/..", InvalidPath::Dots),
            ("a\0b", InvalidPath::Nul),
            (".mirror/id", InvalidPath::Own),
            (".mirror", InvalidPath::Own),
        ] {
            assert_eq!(bad.parse::<MediaPath>(), Err(why), "{bad:?}");
        }
        assert_eq!(MediaPath::new(&[b'a'; 256]), Err(InvalidPath::TooLong));
        assert_eq!(MediaPath::new("a/".repeat(2048).as_bytes()), Err(InvalidPath::TooLong));
        for good in ["a", "...", "a/.mirror", ".mirrorx", " ", "a/b c/é", &"a".repeat(255)] {
            assert!(good.parse::<MediaPath>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn parent_and_name_split_at_the_last_slash() {
        let path: MediaPath = "a/b/c.jpg".parse().expect("a good path");
        assert_eq!((path.parent(), path.name()), (Path::new("a/b"), OsStr::new("c.jpg")));
        let top: MediaPath = "c.jpg".parse().expect("a good path");
        assert_eq!((top.parent(), top.name()), (Path::new(""), OsStr::new("c.jpg")));
    }

    #[test]
    fn control_bytes_and_broken_utf8_are_shown_escaped() {
        let path = MediaPath::new(b"a\nb\xff\xc3\xa9").expect("a good path");
        assert_eq!(path.to_string(), "a\\nb\\xff\u{e9}");
    }
}
