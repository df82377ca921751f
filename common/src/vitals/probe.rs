//! Asks the log itself where it ends, beside the loop and its consumer: a consumer that delivers nothing looks like a log in which nothing happens.
//!
//! One request a second, two while the node is behind. It leaves nothing in the log, so it serves as the probe of the broker, too.

use super::Vitals;
use crate::{
    broker::BrokerError,
    event::Version,
    log::{EventLog, LogState},
    time::Timestamp,
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

/// How often the log is asked.
const EVERY: Duration = Duration::from_secs(1);

/// What the log has told.
#[derive(Clone, Debug, Default)]
pub(super) struct Probed {
    /// Since when an answer has been waited for.
    pub asked: Option<Instant>,
    /// The newest event.
    pub head: Option<Version>,
    /// The broker's clock, and ours at that moment.
    pub clock: Option<(Timestamp, Instant)>,
    /// The broker's stamp of the oldest event that was not applied here then.
    pub oldest: Option<Timestamp>,
}

impl Probed {
    /// How old the oldest event is that is not applied here.
    pub fn lag(&self, version: Version, now: Instant) -> Duration {
        let behind = self.head.is_some_and(|head| version < head);
        match (self.oldest, self.clock) {
            (Some(stamp), Some((clock, at))) if behind => {
                let then = clock.seconds_since(stamp).max(0.0);
                Duration::try_from_secs_f64(then).unwrap_or_default() + now.duration_since(at)
            }
            _ => Duration::ZERO,
        }
    }
}

/// Begins; it ends when the handle is dropped.
pub fn start<L: EventLog>(vitals: &Arc<Vitals>, log: L) -> AbortOnDropHandle<()> {
    let vitals = Arc::clone(vitals);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut timer = interval(EVERY);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            if !vitals.is_connected() {
                // That it does not answer is no news then.
                vitals.probed(|probed| probed.asked = None);
                continue;
            }
            vitals.probed(|probed| probed.asked = probed.asked.or(Some(Instant::now())));
            match ask(&log, vitals.version()).await {
                Ok((state, oldest)) => vitals.probed(|probed| {
                    let now = state.now.unwrap_or_else(Timestamp::now);
                    *probed = Probed {
                        asked: None,
                        head: Some(state.last),
                        clock: Some((now, Instant::now())),
                        oldest,
                    };
                }),
                Err(error) => tracing::debug!(%error, "the log does not tell where it ends"),
            }
        }
    }))
}

async fn ask<L: EventLog>(
    log: &L,
    version: Option<Version>,
) -> Result<(LogState, Option<Timestamp>), BrokerError> {
    let state = log.state().await?;
    let oldest = match version.filter(|version| *version < state.last) {
        Some(version) => log.read(version.next(), 1).await?.first().map(|oldest| oldest.time),
        None => None,
    };
    Ok((state, oldest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_the_age_of_the_oldest_event_by_the_brokers_clock_and_0_when_idle() {
        let now = Instant::now();
        let at = |seconds: i128| Timestamp::from_nanos(seconds * 1_000_000_000);
        let version = Version::new;
        let behind =
            Probed { asked: None, head: Some(version(9)), clock: Some((at(100), now)), oldest: Some(at(70)) };
        let later = now + Duration::from_secs(5);
        assert_eq!(behind.lag(version(8), later), Duration::from_secs(35));
        assert_eq!(behind.lag(version(9), later), Duration::ZERO);
        // Stamped after the clock was read.
        let ahead = Probed { oldest: Some(at(101)), ..behind };
        assert_eq!(ahead.lag(version(8), now), Duration::ZERO);
        assert_eq!(Probed::default().lag(version(8), now), Duration::ZERO);
    }
}
