//! Which names the watcher leaves alone. Replicators apply every event, whatever these say.

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::{os::unix::ffi::OsStrExt, path::Path};

/// The file in the root with more rules, in the syntax of `.gitignore`.
pub const MIRRORIGNORE: &str = ".mirrorignore";

const SUFFIXES: [&[u8]; 6] = [b".tmp", b".part", b".partial", b".crdownload", b".swp", b"~"];
const PREFIXES: [&[u8]; 3] = [b".~", b".#", b".nfs"];

/// A rule that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("bad ignore rule: {0}")]
pub struct IgnoreError(#[from] ignore::Error);

/// The rules in force: names of unfinished files, `--ignore`, and `.mirrorignore`.
pub struct IgnoreRules {
    rules: Gitignore,
    /// Names of unfinished files are covered.
    unfinished: bool,
}

impl IgnoreRules {
    /// Reads them. `mirrorignore` is the text of that file, if there is one.
    pub fn new(patterns: &[String], mirrorignore: Option<&str>) -> Result<Self, IgnoreError> {
        let mut builder = GitignoreBuilder::new("");
        for line in patterns.iter().map(String::as_str).chain(mirrorignore.into_iter().flat_map(str::lines)) {
            builder.add_line(None, line)?;
        }
        Ok(Self { rules: builder.build()?, unfinished: true })
    }

    /// Covers nothing: for those who look at everything.
    pub fn none() -> Self {
        Self { rules: Gitignore::empty(), unfinished: false }
    }

    /// The rules from the flags and from `.mirrorignore` in the root.
    pub fn read(root: &Path, patterns: &[String]) -> Result<Self, IgnoreError> {
        // Not there, or not readable as text: no rules from there.
        let text = std::fs::read_to_string(root.join(MIRRORIGNORE)).ok();
        Self::new(patterns, text.as_deref())
    }

    /// Whether this entry is ignored for its own sake. A walk asks for each folder before it goes in.
    pub fn covers(&self, path: &Path, is_folder: bool) -> bool {
        let name = path.file_name().map_or(&[][..], OsStrExt::as_bytes);
        let unfinished = SUFFIXES.iter().any(|end| name.ends_with(end))
            || PREFIXES.iter().any(|start| name.starts_with(start));
        self.unfinished && unfinished || self.rules.matched(path, is_folder).is_ignore()
    }

    /// Whether a file is ignored, for its own sake or a folder's above it.
    pub fn covers_file(&self, path: &Path) -> bool {
        self.covers(path, false)
            || path
                .ancestors()
                .skip(1)
                .any(|folder| !folder.as_os_str().is_empty() && self.covers(folder, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_files_are_ignored_and_finished_ones_are_not() {
        let rules = IgnoreRules::new(&[], None).expect("no rules are good rules");
        for name in [
            "a.tmp",
            "x/a.part",
            "a.partial",
            "a.crdownload",
            ".a.swp",
            "a~",
            ".~lock",
            ".#a",
            ".nfs01",
            "d.tmp/a",
        ] {
            assert!(rules.covers_file(Path::new(name)), "{name}");
        }
        for name in ["a.jpg", "tmp", "part", ".htaccess", "a.tmp.jpg", ".rsync.XyZ"] {
            assert!(!rules.covers_file(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn rules_are_those_of_gitignore() {
        let rules =
            IgnoreRules::new(&["*.log".into()], Some("# cache\n/cache/\n!keep.log\n")).expect("good rules");
        for name in ["a.log", "x/y.log", "cache/x"] {
            assert!(rules.covers_file(Path::new(name)), "{name}");
        }
        for name in ["keep.log", "x/cache/y", "cache2"] {
            assert!(!rules.covers_file(Path::new(name)), "{name}");
        }
        assert!(IgnoreRules::new(&["[z-a]".into()], None).is_err());
    }
}
