//! The log's end and the nodes' records, asked once for all who want to know at about the same time: a hundred who wait cost the broker no more than one.

use crate::{
    broker::BrokerError,
    log::{EventLog, JetStreamLog, LogState},
    nodes::{NodeBucket, SeenRecord},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Mutex, time::Instant};

/// What was seen is believed for this long; records change at most five times a second.
pub const FRESH: Duration = Duration::from_millis(200);

/// What was answered last, an error too: who asks while the broker is away does not queue for it.
struct Last<T>(Mutex<Option<(Instant, Result<T, BrokerError>)>>);

impl<T: Clone> Last<T> {
    fn nothing() -> Self {
        Self(Mutex::new(None))
    }

    async fn or(&self, ask: impl Future<Output = Result<T, BrokerError>>) -> Result<T, BrokerError> {
        let mut last = self.0.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < FRESH
        {
            return answer.clone();
        }
        let answer = ask.await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

/// A view of the mirror for those who only look.
pub struct Sightings {
    /// The log itself.
    pub log: JetStreamLog,
    nodes: NodeBucket,
    state: Last<LogState>,
    records: Last<Arc<[SeenRecord]>>,
}

impl Sightings {
    /// Asks nothing yet.
    pub fn new(log: JetStreamLog, nodes: NodeBucket) -> Self {
        Self { log, nodes, state: Last::nothing(), records: Last::nothing() }
    }

    /// The log's state within the last 200 ms.
    pub async fn state(&self) -> Result<LogState, BrokerError> {
        self.state.or(self.log.state()).await
    }

    /// All records, as they were within the last 200 ms.
    pub async fn records(&self) -> Result<Arc<[SeenRecord]>, BrokerError> {
        self.records.or(async { Ok(self.nodes.all().await?.into()) }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn who_asks_within_200_ms_is_told_the_same_and_of_a_failure_too() {
        let (last, asked) = (Last::nothing(), Cell::new(0));
        let ask = || async {
            asked.set(asked.get() + 1);
            Err(BrokerError::Absent { doing: format!("attempt {}", asked.get()) })
        };
        let said = |answer: Result<(), BrokerError>| answer.expect_err("an error").to_string();
        let first = said(last.or(ask()).await);
        tokio::time::advance(FRESH / 2).await;
        assert_eq!(said(last.or(ask()).await), first);
        tokio::time::advance(FRESH).await;
        assert_ne!(said(last.or(ask()).await), first);
        assert_eq!(asked.get(), 2);
    }
}
