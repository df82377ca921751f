//! Which folders inotify does not watch, so that they are polled instead. Pure.
//!
//! A poll of a folder looks at everything below it, so folders below one that is polled are only counted.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// Folders that are polled one by one at most; beyond it the whole tree is polled.
pub const POLLED: usize = 1024;

/// What one scan could not watch, in the order of its walk: a folder comes before what is below it.
#[derive(Clone, Debug, Default)]
pub struct Unwatched {
    /// The topmost ones, each with how many there are at and below it.
    tops: Vec<(PathBuf, u64)>,
    /// What was said of the first.
    why: Option<String>,
    /// The system's limit of watches is reached.
    limit: bool,
}

impl Unwatched {
    /// One more.
    pub fn add(&mut self, folder: &Path, error: &io::Error) {
        self.limit |= error.kind() == io::ErrorKind::StorageFull;
        self.why.get_or_insert_with(|| error.to_string());
        let full = self.tops.len() == POLLED;
        match self.tops.last_mut() {
            Some((top, _)) if folder == top => {}
            Some((top, count)) if folder.starts_with(&top) => *count += 1,
            _ if full => {
                let all = self.tops.drain(..).map(|(_, count)| count).sum::<u64>() + 1;
                self.tops.push((PathBuf::new(), all));
            }
            _ => self.tops.push((folder.into(), 1)),
        }
    }

    /// What was said of the first, and whether the system's limit of watches is among the reasons.
    pub fn why(&self) -> Option<(&str, bool)> {
        Some((self.why.as_deref()?, self.limit))
    }
}

/// The folders of the tree that are polled.
#[derive(Debug, Default)]
pub struct Coverage {
    polled: BTreeMap<PathBuf, u64>,
}

impl Coverage {
    /// Nothing is watched: there is no inotify.
    pub fn nothing(folders: u64) -> Self {
        Self { polled: BTreeMap::from([(PathBuf::new(), folders)]) }
    }

    /// A scan of a folder has ended: what it could not watch takes the place of what was known there.
    pub fn scanned(&mut self, folder: &Path, unwatched: &Unwatched) {
        self.gone(folder);
        for (top, count) in &unwatched.tops {
            // A folder above it is polled: it is looked at with that.
            match self.polled.iter_mut().find(|(polled, _)| top.starts_with(polled)) {
                Some((_, known)) => *known += count,
                None => {
                    self.polled.insert(top.clone(), *count);
                }
            }
        }
        if self.polled.len() > POLLED {
            let all = self.unwatched();
            self.polled = BTreeMap::from([(PathBuf::new(), all)]);
        }
    }

    /// A folder is gone, with all below it.
    pub fn gone(&mut self, folder: &Path) {
        self.polled.retain(|polled, _| !polled.starts_with(folder));
    }

    /// What is to be polled, none of it below another.
    pub fn to_poll(&self) -> Vec<PathBuf> {
        self.polled.keys().cloned().collect()
    }

    /// How many folders are not watched.
    pub fn unwatched(&self) -> u64 {
        self.polled.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unwatched(folders: &[&str]) -> Unwatched {
        let mut unwatched = Unwatched::default();
        for folder in folders {
            unwatched.add(Path::new(folder), &io::ErrorKind::StorageFull.into());
        }
        unwatched
    }

    fn polled(coverage: &Coverage) -> Vec<String> {
        coverage.to_poll().iter().map(|folder| folder.display().to_string()).collect()
    }

    #[test]
    fn what_is_below_a_polled_folder_is_counted_and_not_polled_twice() {
        let mut coverage = Coverage::default();
        coverage.scanned(Path::new(""), &unwatched(&["a", "a/b", "a/b/c", "ab", "b/c"]));
        assert_eq!(
            (polled(&coverage), coverage.unwatched()),
            (vec!["a".into(), "ab".into(), "b/c".into()], 5)
        );
        // A new folder below one that is polled, and one elsewhere.
        coverage.scanned(Path::new("a/new"), &unwatched(&["a/new"]));
        coverage.scanned(Path::new("d"), &unwatched(&["d/e"]));
        assert_eq!((polled(&coverage).len(), coverage.unwatched()), (4, 7));
    }

    #[test]
    fn a_scan_replaces_what_was_known_below_its_folder() {
        let mut coverage = Coverage::default();
        coverage.scanned(Path::new(""), &unwatched(&["a", "b/c", "b/d"]));
        coverage.scanned(Path::new("b"), &unwatched(&["b/d"]));
        assert_eq!(polled(&coverage), ["a", "b/d"]);
        coverage.gone(Path::new("b"));
        assert_eq!(polled(&coverage), ["a"]);
        coverage.scanned(Path::new(""), &Unwatched::default());
        assert_eq!((polled(&coverage).len(), coverage.unwatched()), (0, 0));
    }

    #[test]
    fn beyond_a_limit_the_whole_tree_is_polled() {
        let names: Vec<String> = (0..=POLLED).map(|n| format!("{n:05}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut coverage = Coverage::default();
        coverage.scanned(Path::new(""), &unwatched(&names));
        assert_eq!((polled(&coverage), coverage.unwatched()), (vec![String::new()], names.len() as u64));
        let mut coverage = Coverage::default();
        for name in &names {
            coverage.scanned(Path::new(name), &unwatched(&[name]));
        }
        assert_eq!((polled(&coverage), coverage.unwatched()), (vec![String::new()], names.len() as u64));
    }

    #[test]
    fn the_reason_is_kept_and_a_limit_is_known_as_one() {
        let mut unwatched = Unwatched::default();
        assert_eq!(unwatched.why(), None);
        unwatched.add(Path::new("a"), &io::Error::from_raw_os_error(13));
        assert!(unwatched.why().is_some_and(|(why, limit)| why.contains("denied") && !limit));
        unwatched.add(Path::new("b"), &io::Error::from_raw_os_error(28));
        assert!(unwatched.why().is_some_and(|(why, limit)| why.contains("denied") && limit));
    }
}
