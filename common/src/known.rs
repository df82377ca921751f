//! Whether content is old news: known to the log for its path (rules 5 and 7).

use crate::{
    broker::BrokerError, event::Version, hash::ContentHash, log::EventLog, path::MediaPath, time::Timestamp,
};

/// What the log's history of a path says about content found there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// The path had this content once: it is an old version, nobody's news.
    Yes,
    /// It never had.
    No,
    /// The history is not complete any more, and the file is older than the path's last event: it may be an old version, or a user's.
    /// It is never published, and goes to the trash, listed.
    Unknowable,
}

impl Known {
    /// Not to be published, and not to be overwritten as if it were ours either.
    pub fn is_old(self) -> bool {
        self != Self::No
    }
}

/// Walks the history of a path by Direct Get, up to (not including) `before`; one round trip for each event kept of the path.
/// `changed` is the ctime of the file that holds the content.
pub async fn known_to_log<L: EventLog>(
    log: &L,
    path: &MediaPath,
    content: ContentHash,
    before: Option<Version>,
    changed: Timestamp,
) -> Result<Known, BrokerError> {
    let mut from = Version::ZERO.next();
    let (mut complete, mut newest) = (true, None);
    while let Some(logged) = log.next_of(path, from).await? {
        if before.is_some_and(|before| logged.version >= before) {
            break;
        }
        if let Ok(event) = &logged.event {
            if event.added.is_some() && event.sha256 == content {
                return Ok(Known::Yes);
            }
            if newest.is_none() {
                complete = event.replaces == Version::ZERO;
            }
        }
        newest = Some(logged.time);
        from = logged.version.next();
    }
    let older = newest.is_some_and(|newest| changed < newest);
    Ok(if complete || !older { Known::No } else { Known::Unknowable })
}
