//! Trouble that repeats itself is said once, then counted, and summed up once a minute: a thousand blobs that are missing are one line, not a thousand.

use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// Between two lines on the same trouble; what has not happened for this long is news again.
const QUIET: Duration = Duration::from_secs(60);
/// Kinds that are told apart; beyond, the oldest is forgotten, and said anew when it comes again.
const KINDS: usize = 64;

struct Repeated {
    said: Instant,
    last: Instant,
    unsaid: u64,
}

/// What was said lately.
#[derive(Default)]
pub struct Troubles(HashMap<String, Repeated>);

impl Troubles {
    /// Something will be tried again because of this. Logs it, or counts it.
    pub fn say(&mut self, text: &str) {
        if let Some(unsaid) = self.worth(Instant::now(), text) {
            let unsaid = (unsaid > 0).then_some(unsaid);
            tracing::warn!(error = %text, unsaid, "will be tried again");
        }
    }

    /// Whether a line is due, and how often the same has happened since the last one without a word.
    fn worth(&mut self, now: Instant, text: &str) -> Option<u64> {
        let kind = kind(text);
        if let Some(known) = self.0.get_mut(&kind) {
            let unsaid = known.unsaid;
            let forgotten = now.duration_since(known.last) >= QUIET;
            known.last = now;
            if !forgotten && now.duration_since(known.said) < QUIET {
                known.unsaid += 1;
                return None;
            }
            (known.said, known.unsaid) = (now, 0);
            return Some(unsaid);
        }
        if self.0.len() >= KINDS
            && let Some(oldest) =
                self.0.iter().min_by_key(|(_, known)| known.last).map(|(kind, _)| kind.clone())
        {
            self.0.remove(&oldest);
        }
        self.0.insert(kind, Repeated { said: now, last: now, unsaid: 0 });
        Some(0)
    }
}

/// The words without what names a single case: hashes, numbers, paths.
fn kind(text: &str) -> String {
    let plain = |word: &&str| word.chars().all(|c| c.is_alphabetic() || ",:;()'`-".contains(c));
    text.split_whitespace().filter(plain).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_said_once_a_minute_with_what_was_not_said() {
        let (mut troubles, began) = (Troubles::default(), Instant::now());
        let mut at = |seconds, text| troubles.worth(began + Duration::from_secs(seconds), text);
        assert_eq!(at(0, "blob 9f5b7 is not in the store"), Some(0));
        assert_eq!(at(0, "no answer from the broker within 5 s"), Some(0));
        assert_eq!(at(1, "blob fa0de is not in the store"), None);
        assert_eq!(at(59, "blob 9f5b7 is not in the store"), None);
        assert_eq!(at(60, "blob fa0de is not in the store"), Some(2));
        assert_eq!(at(61, "blob fa0de is not in the store"), None);
        // What was over comes as news.
        assert_eq!(at(121, "blob 9f5b7 is not in the store"), Some(1));
        assert_eq!(at(200, "no answer from the broker within 7 s"), Some(0));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut troubles, began) = (Troubles::default(), Instant::now());
        for n in 0..1000_u32 {
            let word: String = n.to_string().chars().map(|c| char::from(b'a' + c as u8 - b'0')).collect();
            troubles.worth(began + Duration::from_secs(n.into()), &word);
        }
        assert_eq!(troubles.0.len(), KINDS);
    }
}
