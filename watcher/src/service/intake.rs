//! What comes in: inotify's hints, and what scans find. Everything is kept by path until it is ripe.

use super::{LiveFound, Mode, Service, ServiceError};
use crate::{
    scan::Found,
    settle::{REMOVAL, STILL, Why, YOUNG},
    watches::Noticed,
};
use common::{
    blobs::BlobStore,
    log::EventLog,
    path::MediaPath,
    root::{IgnoreRules, MIRRORIGNORE},
    time::Timestamp,
};
use std::{io, os::unix::ffi::OsStrExt, path::Path, time::Duration};
use tokio::time::Instant;

impl<L: EventLog, B: BlobStore> Service<L, B> {
    pub(super) fn notice(&mut self, noticed: io::Result<Vec<Noticed>>) -> Result<(), ServiceError> {
        let now = Instant::now();
        let noticed = noticed.unwrap_or_else(|error| {
            self.poll_everything(&error);
            Vec::new()
        });
        for noticed in noticed {
            match noticed {
                Noticed::Finished(path) => {
                    if path.as_os_str() == MIRRORIGNORE {
                        self.reload_rules();
                    }
                    self.keep_path(&path, Why::Finished, now, now);
                }
                Noticed::Created(path) => self.keep_path(&path, Why::Created, now, now + STILL),
                Noticed::Gone(path) => {
                    if path.as_os_str() == MIRRORIGNORE {
                        self.reload_rules();
                    }
                    self.keep_path(&path, Why::Gone, now, now + REMOVAL);
                }
                Noticed::FolderNew(path) => {
                    if !self.rules.get().covers(&path, true) {
                        self.folders.push_back((path, now));
                    }
                }
                Noticed::FolderGone(path) => self.folder_gone(&path, now)?,
                Noticed::Overflow => {
                    self.vitals.metrics.overflowed();
                    tracing::warn!("the kernel's queue of changes was full; scanning the whole tree");
                    self.rescan = true;
                }
            }
        }
        Ok(())
    }

    pub(super) fn folder_gone(&mut self, folder: &Path, now: Instant) -> Result<(), ServiceError> {
        if let Some(watches) = &self.watches {
            watches.remove(folder);
        }
        self.coverage.gone(folder);
        let mut rows = self.index.rows_in_order()?.below(folder.as_os_str().as_bytes());
        while let Some((path, row)) = rows.next_row()? {
            if row.content().is_some() {
                self.keep(path, Why::Gone, now, now + REMOVAL);
            }
        }
        Ok(())
    }

    pub(super) fn take_found(&mut self, (found, live, since): LiveFound) {
        let now = Instant::now();
        match found {
            Found::Missing(path) => self.keep(path, Why::Gone, since, now + REMOVAL),
            Found::File(path, stat) => {
                if let Mode::Scan { found, .. } = &self.mode {
                    found.add(stat.stat.size);
                }
                let changed = Timestamp::from_nanos(i128::from(stat.stat.ctime));
                let age = Timestamp::now().seconds_since(changed);
                let wait = match (live, age > YOUNG.as_secs_f64()) {
                    (true, _) => STILL,
                    (false, true) => Duration::ZERO,
                    (false, false) => YOUNG,
                };
                self.keep(path, Why::Found(stat.stat), since, now + wait);
            }
        }
    }

    pub(super) fn keep_path(&mut self, path: &Path, why: Why, since: Instant, due: Instant) {
        match MediaPath::try_from(path) {
            Ok(path) => self.keep(path, why, since, due),
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot be mirrored"),
        }
    }

    pub(super) fn keep(&mut self, path: MediaPath, why: Why, since: Instant, due: Instant) {
        if !self.settle.add(path, why, Timestamp::now(), since, due) && !self.rescan {
            tracing::warn!("more changes than are kept; scanning the whole tree");
            self.rescan = true;
        }
    }

    pub(super) fn reload_rules(&mut self) {
        match IgnoreRules::read(self.root.path(), &self.patterns) {
            Ok(rules) => {
                tracing::info!("the ignore rules were read again");
                self.rules.set(rules);
                self.rescan = true;
            }
            Err(error) => tracing::error!(%error, "the ignore rules stay as they were"),
        }
    }
}
