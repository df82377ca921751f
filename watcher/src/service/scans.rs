//! Scans: when one begins, and what it came to.

use super::{ScanDone, Service, ServiceError};
use crate::scan::Scan;
use common::{blobs::BlobStore, log::EventLog};
use std::{path::PathBuf, sync::Arc};
use tokio::time::Instant;

impl<L: EventLog, B: BlobStore> Service<L, B> {
    pub(super) fn start_scans(&mut self) -> Result<(), ServiceError> {
        if self.rescan && self.full_scan.is_none() && self.session.is_some() {
            let now = Instant::now();
            self.rescan = false;
            self.full_scan = Some(now);
            self.scan(PathBuf::new(), true, now)?;
        }
        if !self.folder_scan
            && let Some((folder, asked)) = self.folders.pop_front()
        {
            self.folders.retain(|(other, _)| !other.starts_with(&folder));
            self.folder_scan = true;
            self.scan(folder, false, asked)?;
        }
        Ok(())
    }

    pub(super) fn scan(&mut self, folder: PathBuf, full: bool, asked: Instant) -> Result<(), ServiceError> {
        let (node, state) = (Arc::clone(&self.node), self.node.index.node()?);
        let (generation, log_read) = (state.generation, state.log_read);
        let (found, watches) = (self.found.0.clone(), self.watches.clone());
        self.scans.spawn_blocking(move || {
            let began = Instant::now();
            let rules = node.rules();
            let (root, index, watches) = (&node.root, &node.index, watches.as_deref());
            let scan = Scan { root, index, rules: &rules, generation, watches, folder: &folder };
            let report = scan.run(|item| found.blocking_send((item, !full, asked)).is_ok(), |_| {});
            ScanDone { full, began, generation, log_read, report }
        });
        Ok(())
    }

    pub(super) fn end_scan(&mut self, done: ScanDone) -> Result<(), ServiceError> {
        let report = done.report?;
        for folder in &report.unwatched {
            tracing::warn!(
                path = %folder.display(),
                "cannot be watched: raise fs.inotify.max_user_watches (sysctl); changes there are found by the hourly scan"
            );
        }
        if !done.full {
            self.folder_scan = false;
            return Ok(());
        }
        self.full_scan = None;
        self.last_full = Some((done.began, done.generation, done.log_read));
        self.summary.files = report.files;
        for (why, (count, example)) in &report.skipped {
            tracing::warn!(count, why, example = %example.display(), "not mirrored");
        }
        let folders = self.watches.as_ref().map(|watches| watches.count());
        let elapsed_ms = done.began.elapsed().as_millis();
        tracing::info!(
            files = report.files,
            bytes = report.bytes,
            changed = report.told,
            folders,
            elapsed_ms,
            "scanned"
        );
        if done.log_read {
            self.checking = Some((done.generation, Instant::now()));
        }
        Ok(())
    }
}
