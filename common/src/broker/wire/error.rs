//! From the server's codes to what a caller can do about them.

use crate::broker::BrokerError;
use serde::Deserialize;
use std::{fmt, time::Duration};

/// Too many requests; 503 that means "in a moment": another write of the subject is under way in the cluster.
const TOO_MANY: u64 = 429;
const NOT_READY: u64 = 10163;
/// Stream, consumer: not found.
const ABSENT: [u64; 3] = [10059, 10014, 10149];
/// Account, server, memory and storage limits, JetStream shut off (as a full disk does), and what the file store says when it cannot write.
const FULL: [u64; 7] = [10002, 10023, 10028, 10047, 10076, 10077, 10122];
/// "wrong last sequence", with the sequence and without.
const WRONG_LAST: [u64; 2] = [10071, 10164];

/// The error of a JetStream API answer.
#[derive(Deserialize, Debug)]
pub(super) struct ApiError {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

impl ApiError {
    /// Nothing was done, and the same request may succeed in a moment.
    pub(super) fn is_busy(&self) -> bool {
        self.code == TOO_MANY || self.err_code == NOT_READY
    }

    /// A compare-and-set that found another sequence; which one, where the server says it.
    pub(super) fn wrong_last(&self) -> Option<Option<u64>> {
        WRONG_LAST
            .contains(&self.err_code)
            .then(|| self.description.rsplit(' ').next().and_then(|seq| seq.parse().ok()))
    }
}

/// What is being done, to what; text only when it fails.
#[derive(Clone, Copy)]
pub(super) struct Doing<'a>(pub(super) &'static str, pub(super) &'a str);

impl fmt::Display for Doing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.1)
    }
}

impl Doing<'_> {
    pub(super) fn timeout(self, waited: Duration) -> BrokerError {
        BrokerError::Timeout { doing: self.to_string(), waited }
    }

    pub(super) fn away(self, reason: String) -> BrokerError {
        BrokerError::Away { doing: self.to_string(), reason }
    }

    pub(super) fn absent(self) -> BrokerError {
        BrokerError::Absent { doing: self.to_string() }
    }

    pub(super) fn answer(self, reason: String) -> BrokerError {
        BrokerError::Answer { doing: self.to_string(), reason }
    }

    /// Refused before it was sent.
    pub(super) fn invalid(self, reason: String) -> BrokerError {
        BrokerError::Refused { doing: self.to_string(), code: 0, reason }
    }

    pub(super) fn refused(self, error: ApiError) -> BrokerError {
        let (doing, code, reason) = (self.to_string(), error.err_code, error.description);
        match (error.code, code) {
            (_, code) if ABSENT.contains(&code) => BrokerError::Absent { doing },
            (_, code) if FULL.contains(&code) => BrokerError::Full { doing, reason },
            (507, _) => BrokerError::Full { doing, reason },
            (503 | TOO_MANY, _) => BrokerError::Away { doing, reason },
            _ => BrokerError::Refused { doing, code, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: u64, err_code: u64, description: &str) -> ApiError {
        ApiError { code, err_code, description: description.into() }
    }

    #[test]
    fn each_code_says_what_can_be_done() {
        let doing = Doing("publishing to", "a.b");
        for (code, err_code, name) in [
            (404, 10059, "Absent"),
            (404, 10014, "Absent"),
            (503, 10077, "Full"),
            (503, 10023, "Full"),
            (507, 1, "Full"),
            (503, 10008, "Away"),
            (429, 10167, "Away"),
            (400, 10026, "Refused"),
        ] {
            let text = format!("{:?}", doing.refused(error(code, err_code, "why")));
            assert!(text.starts_with(name), "{code} {err_code}: {text}");
        }
    }

    #[test]
    fn a_wrong_last_sequence_names_the_right_one() {
        assert_eq!(error(400, 10071, "wrong last sequence: 17").wrong_last(), Some(Some(17)));
        assert_eq!(error(400, 10164, "wrong last sequence").wrong_last(), Some(None));
        assert_eq!(error(400, 10052, "17").wrong_last(), None);
        assert!(error(429, 10210, "").is_busy() && error(503, 10163, "").is_busy());
    }
}
