//! One pass over the tree, compared with the index in one merge: both are in the byte order of paths. An unchanged file costs one stat; neither
//! list is ever in memory.

use crate::{coverage::Unwatched, publish::needs_look, watches::Watches};
use common::{
    index::{Generation, Index, IndexError, Row, RowState},
    path::MediaPath,
    root::{Entry, FileStat, IgnoreRules, Root, walk},
};
use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// What a scan tells.
#[derive(Clone, Debug)]
pub enum Found {
    /// A file that the index does not know like this.
    File(MediaPath, FileStat),
    /// A path that the index knows as present, and the walk did not meet.
    Missing(MediaPath),
}

/// What a scan came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Folders met.
    pub folders: u64,
    /// Files met.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files and paths told.
    pub told: u64,
    /// What is never mirrored, by reason, with one example.
    pub skipped: BTreeMap<&'static str, (u64, PathBuf)>,
    /// Folders and files that could not be read.
    pub failed: u64,
    /// Folders that are not watched.
    pub unwatched: Unwatched,
}

/// What is scanned, and how.
pub struct Scan<'a> {
    pub root: &'a Root,
    pub index: &'a Index,
    pub rules: &'a IgnoreRules,
    pub generation: Generation,
    /// A watch is put on each folder before it is read. `None`: there is no inotify.
    pub watches: Option<&'a Watches>,
    /// Only this folder; empty: the whole root.
    pub folder: &'a Path,
    /// Counts the files that it meets.
    pub met: &'a AtomicU64,
    /// It is done again every few seconds: what cannot be read has been said before.
    pub poll: bool,
}

impl Scan<'_> {
    /// Walks; blocks. It ends early when `tell` returns false, and soon after `wanted` does.
    pub fn run(
        &self,
        mut tell: impl FnMut(Found) -> bool,
        wanted: impl Fn() -> bool,
    ) -> Result<Report, IndexError> {
        let mut report = Report::default();
        let mut rows = Merge::open(self)?;
        let mut failure = None;
        let walked = walk(self.root, self.folder, self.rules, &mut |entry| {
            let step = match entry {
                Entry::Folder(folder) => {
                    self.watch(folder, &mut report);
                    Ok(wanted())
                }
                Entry::File(path, stat) => {
                    report.files += 1;
                    self.met.fetch_add(1, Ordering::Relaxed);
                    report.bytes += stat.stat.size;
                    rows.reach(&path, &mut |missing| told(&mut report, &mut tell, Found::Missing(missing)))
                        .map(|row| {
                            !needs_look(row.as_ref(), self.generation, stat.stat)
                                || told(&mut report, &mut tell, Found::File(path, stat))
                        })
                }
                Entry::Skipped(path, why) => {
                    report.skipped.entry(why).or_insert_with(|| (0, path.into())).0 += 1;
                    Ok(true)
                }
                Entry::Failed(path, error) => {
                    if !is_gone(&error) {
                        if !self.poll {
                            tracing::warn!(path = %path.display(), %error, "cannot be read; what is below is not known");
                        }
                        report.failed += 1;
                        report.unwatched.add(path, &error);
                    }
                    Ok(true)
                }
            };
            match step {
                Ok(true) => ControlFlow::Continue(()),
                Ok(false) => ControlFlow::Break(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(error) = failure {
            return Err(error);
        }
        if walked.is_continue() {
            rows.rest(&mut |missing| told(&mut report, &mut tell, Found::Missing(missing)))?;
        }
        Ok(report)
    }

    fn watch(&self, folder: &Path, report: &mut Report) {
        report.folders += 1;
        let Some(watches) = self.watches else { return };
        match watches.add(self.root, folder) {
            Ok(()) => {}
            Err(error) if is_gone(&error) => {} // Its own event tells.
            Err(error) => report.unwatched.add(folder, &error),
        }
    }
}

/// It went away, or is no folder any more.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn told(report: &mut Report, tell: &mut impl FnMut(Found) -> bool, found: Found) -> bool {
    report.told += 1;
    tell(found)
}

/// The rows that a walk is compared with.
struct Merge {
    rows: common::index::PathCursor,
    next: Option<(MediaPath, Row)>,
    generation: Generation,
}

impl Merge {
    fn open(scan: &Scan<'_>) -> Result<Self, IndexError> {
        let mut rows = scan.index.rows_in_order()?.below(scan.folder.as_os_str().as_bytes());
        let next = rows.next_row()?;
        Ok(Self { rows, next, generation: scan.generation })
    }

    /// Goes up to a path that was met; what lies before it was not. Returns its row.
    fn reach(
        &mut self,
        path: &MediaPath,
        missing: &mut dyn FnMut(MediaPath) -> bool,
    ) -> Result<Option<Row>, IndexError> {
        while self.next.as_ref().is_some_and(|(next, _)| next < path) {
            if !self.step(missing)? {
                return Ok(None);
            }
        }
        match self.next.take_if(|(next, _)| next == path) {
            Some((_, row)) => {
                self.next = self.rows.next_row()?;
                Ok(Some(row))
            }
            None => Ok(None),
        }
    }

    fn rest(&mut self, missing: &mut dyn FnMut(MediaPath) -> bool) -> Result<(), IndexError> {
        while self.next.is_some() {
            if !self.step(missing)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn step(&mut self, missing: &mut dyn FnMut(MediaPath) -> bool) -> Result<bool, IndexError> {
        let Some((path, row)) = self.next.take() else { return Ok(true) };
        self.next = self.rows.next_row()?;
        // A removed path of an older life of the log may have to be published as such (rule 10).
        let matters = row.state == RowState::Present
            || row.generation != self.generation && row.state == RowState::Removed;
        Ok(!matters || missing(path))
    }
}
