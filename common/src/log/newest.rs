//! The tree that a part of the log describes, for commands.

use super::EventLog;
use crate::{
    broker::BrokerError,
    event::{Event, Version},
    path::MediaPath,
    time::Timestamp,
};
use std::collections::BTreeMap;

/// Events read at once.
const PAGE: usize = 500;

/// A part of the log.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its first version.
    pub from: Version,
    /// Its last; `None`: the newest.
    pub to: Option<Version>,
    /// Nothing that came later.
    pub at: Option<Timestamp>,
}

impl Window {
    /// All of the log.
    pub const ALL: Self = Self { from: Version::ZERO, to: None, at: None };
}

/// The newest event of each path in a window, and how many messages there are no events: they are named in the log. Memory grows with the number of paths, some 300 bytes each.
pub async fn newest_of(
    log: &impl EventLog,
    window: Window,
) -> Result<(BTreeMap<MediaPath, Event>, u64), BrokerError> {
    let head = log.state().await?.last;
    let to = window.to.map_or(head, |to| to.min(head));
    let mut from = window.from.max(Version::ZERO.next());
    let (mut newest, mut invalid) = (BTreeMap::new(), 0);
    while from <= to {
        let page = log.read(from, PAGE).await?;
        let Some(last) = page.last() else { break };
        from = last.version.next();
        for logged in page.into_iter().filter(|logged| logged.version <= to) {
            if window.at.is_some_and(|at| logged.time > at) {
                return Ok((newest, invalid));
            }
            match logged.event {
                Ok(event) => {
                    newest.insert(event.path.clone(), event);
                }
                Err(error) => {
                    invalid += 1;
                    tracing::error!(version = %logged.version, %error, "not an event");
                }
            }
        }
    }
    Ok((newest, invalid))
}
