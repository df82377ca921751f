//! What can go wrong between us and the broker, in one type, so that every caller decides alike.

use std::time::Duration;

/// A request to the broker that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// No answer in time: slow, disconnected, full, or the right to publish there is missing (NATS answers nothing then).
    #[error("{doing}: no answer from the broker within {} s", .waited.as_secs_f32())]
    Timeout {
        /// What was being done, to what.
        doing: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The connection is down, or nobody serves the subject (JetStream off, stream without a leader).
    #[error("{doing}: the broker is away ({reason})")]
    Away {
        /// What was being done, to what.
        doing: String,
        /// What the client said.
        reason: String,
    },
    /// The stream, bucket or consumer does not exist (any more).
    #[error("{doing}: there is no such stream or consumer on the broker")]
    Absent {
        /// What was being done, to what.
        doing: String,
    },
    /// The broker has no room: its disk, or a limit of its account or stream. Cleared by a person.
    #[error("{doing}: the broker has no room ({reason})")]
    Full {
        /// What was being done, to what.
        doing: String,
        /// The server's words.
        reason: String,
    },
    /// The broker refused for another reason.
    #[error("{doing}: refused by the broker: {reason} (code {code})")]
    Refused {
        /// What was being done, to what.
        doing: String,
        /// The `err_code` of the JetStream API, or the status of a direct get.
        code: u64,
        /// The server's words.
        reason: String,
    },
    /// The answer was not what the protocol promises.
    #[error("{doing}: an answer that makes no sense: {reason}")]
    Answer {
        /// What was being done, to what.
        doing: String,
        /// What was wrong with it.
        reason: String,
    },
}

impl BrokerError {
    /// In one word, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "timeout",
            Self::Away { .. } => "away",
            Self::Absent { .. } => "absent",
            Self::Full { .. } => "no_room",
            Self::Refused { .. } => "refused",
            Self::Answer { .. } => "answer",
        }
    }

    /// True when the broker says that it has no room. Servers that say nothing then are taken to be away.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// True when waiting for the broker is the cure: it, or the way to it, is away.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Away { .. })
    }

    /// Something that a start waits for: the broker comes back, is given room, or has just lost what was made in it a moment ago.
    pub fn passes(&self) -> bool {
        self.is_away() || self.is_full() || matches!(self, Self::Absent { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_waits_for_what_passes_and_for_nothing_else() {
        let (doing, reason) = (|| "asking".to_owned(), || "because".to_owned());
        for (error, passes) in [
            (BrokerError::Timeout { doing: doing(), waited: std::time::Duration::ZERO }, true),
            (BrokerError::Away { doing: doing(), reason: reason() }, true),
            // The log was deleted right after it was made.
            (BrokerError::Absent { doing: doing() }, true),
            (BrokerError::Full { doing: doing(), reason: reason() }, true),
            (BrokerError::Refused { doing: doing(), code: 403, reason: reason() }, false),
            (BrokerError::Answer { doing: doing(), reason: reason() }, false),
        ] {
            assert_eq!(error.passes(), passes, "{error}");
        }
    }
}
