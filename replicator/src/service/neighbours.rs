//! What the loop does about what the other nodes say: when most of them were away, or when this one has not the same files.

use super::{Service, ServiceError, panics};
use crate::{check::Check, check::PageError, compare::compare};
use common::{blobs::BlobStore, error_chain, log::EventLog, path::MediaPath};
use std::sync::Arc;
use tokio::task::JoinSet;

/// How much of it is done.
#[derive(Default)]
pub(super) struct Heeded {
    returned: u64,
    compared: u64,
    comparing: JoinSet<Result<Vec<MediaPath>, PageError>>,
}

impl<L: EventLog, B: BlobStore> Service<L, B> {
    /// Once a second, while the log is trusted.
    pub(super) fn heed_neighbours(&mut self) -> Result<(), ServiceError> {
        let Some(session) = self.session.clone() else { return Ok(()) };
        let known = self.node.vitals.neighbours();
        if std::mem::replace(&mut self.heeded.returned, known.returned) != known.returned {
            self.check = Some(Check::new(session.generation, self.tracker.version().0.max(session.log.last)));
        }
        while let Some(done) = self.heeded.comparing.try_join_next() {
            match panics(done) {
                Ok(differing) => {
                    self.heeded.compared = known.to_compare;
                    let first = differing.first().map(ToString::to_string);
                    let differ = differing.len();
                    tracing::warn!(differ, first, "the index was compared with the log");
                    self.node.vitals.compared(&differing);
                }
                Err(PageError::Index(error)) => self.unless_full(Err(error.into()))?,
                Err(error) => self.trouble(error_chain(&error)),
            }
        }
        if self.heeded.compared != known.to_compare && self.heeded.comparing.is_empty() {
            let node = Arc::clone(&self.node);
            self.heeded.comparing.spawn(async move { compare(&node, &session).await });
        }
        Ok(())
    }
}
