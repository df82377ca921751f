//! This machine's clock against the broker's. Nothing is stored to find out: a stream's info bears the server's clock from 2.10 on, and every server tells
//! whoever listens of each request that it answered, with the time.

use super::finding::Finding;
use common::{broker::wire::Wire, time::Timestamp};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// Where a server tells of the requests that it answered.
const AUDIT: &str = "$JS.EVENT.ADVISORY.API";
/// How long such a notice may take: it is sent together with the answer.
const NOTICE: Duration = Duration::from_secs(2);
/// Asked this often, the quickest answer counts: it bounds the difference best.
const TIMES: usize = 3;
/// A difference that is more than the network's and the scheduler's: clocks that are kept differ by milliseconds.
const MOST: f64 = 2.0;

/// How far this machine's clock is ahead of the broker's, in seconds; negative: behind.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Difference {
    pub ahead: f64,
    /// It may be more or less by this much.
    pub within: f64,
}

impl Difference {
    /// The broker's clock was read between two looks at this one.
    fn between(sent: Timestamp, broker: Timestamp, got: Timestamp) -> Self {
        let within = got.seconds_since(sent) / 2.0;
        Self { ahead: got.seconds_since(broker) - within, within }
    }
}

/// `None`: nobody told, because there is no stream yet, or no right to listen.
pub async fn measure(wire: &Wire, stream: &str) -> Option<Difference> {
    let mut best: Option<Difference> = None;
    for _ in 0..TIMES {
        let told = match by_stream(wire, stream).await {
            Some(told) => Some(told),
            None => by_notice(wire).await,
        };
        let closer = |told: &Difference| best.is_none_or(|best| told.within < best.within);
        best = Some(told.filter(closer).or(best)?);
    }
    best
}

async fn by_stream(wire: &Wire, stream: &str) -> Option<Difference> {
    let sent = Timestamp::now();
    let info = wire.stream_info(stream).await.ok()?;
    Some(Difference::between(sent, info.ts?, Timestamp::now()))
}

async fn by_notice(wire: &Wire) -> Option<Difference> {
    let sent = Timestamp::now();
    let mut notices = wire.client().subscribe(AUDIT).await.ok()?;
    let _: Value = wire.api(("asking for", "this account's JetStream"), "INFO", &json!({})).await.ok()?;
    let notice = timeout(NOTICE, notices.next()).await.ok()??;
    let got = Timestamp::now();
    // Another client's request may have been first; it is as good.
    let notice: Value = serde_json::from_slice(&notice.payload).ok()?;
    Some(Difference::between(sent, notice["timestamp"].as_str()?.parse().ok()?, got))
}

pub fn judge(difference: Option<Difference>) -> Finding {
    let Some(Difference { ahead, within }) = difference else {
        return Finding::note("clock", "the broker does not tell its time")
            .why("no stream is there to ask, and this user may not listen to $JS.EVENT.ADVISORY.API");
    };
    let (seconds, way) = (ahead.abs(), if ahead < 0.0 { "behind" } else { "ahead of" });
    let found = format!("{} {way} the broker's, give or take {}", text(seconds), text(within));
    // Only what is sure: a slow link is no wrong clock.
    if seconds - within <= MOST {
        return Finding::ok("clock", found);
    }
    Finding::wrong("clock", found)
        .why("latencies and ages are shown wrong by that much, and so are the times of files; order is never decided by a clock")
        .cure("timedatectl set-ntp true  # on the machine whose clock is wrong, of these two")
}

fn text(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.1} s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Verdict::{Note, Ok, Wrong};

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_nanos((seconds * 1e9) as i128)
    }

    #[test]
    fn the_difference_lies_between_the_two_looks() {
        for (sent, broker, got, ahead, within) in [
            (100.0, 100.5, 101.0, 0.0, 0.5),
            (100.0, 110.1, 100.2, -10.0, 0.1),
            (100.0, 90.1, 100.2, 10.0, 0.1),
        ] {
            let found = Difference::between(at(sent), at(broker), at(got));
            assert!((found.ahead - ahead).abs() < 1e-6, "{found:?}");
            assert!((found.within - within).abs() < 1e-6, "{found:?}");
        }
    }

    #[test]
    fn only_a_difference_that_is_sure_is_wrong() {
        for (ahead, within, verdict) in [
            (0.0, 0.001, Ok),
            (2.0, 0.0, Ok),
            (2.1, 0.01, Wrong),
            (-2.1, 0.01, Wrong),
            // A link over which nothing can be told.
            (4.0, 3.0, Ok),
            (31_536_000.0, 0.01, Wrong),
        ] {
            let finding = judge(Some(Difference { ahead, within }));
            assert_eq!(finding.verdict, verdict, "{finding}");
        }
        assert!(judge(Some(Difference { ahead: -3.0, within: 0.0 })).found.starts_with("3.0 s behind the"));
        assert_eq!(judge(None).verdict, Note);
    }
}
