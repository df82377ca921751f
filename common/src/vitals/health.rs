//! Whether a process does its work, judged by its progress and not by being up. Pure: facts in, reasons out.
//!
//! No reason names a file: whoever may ask for the health of a node need not know what is on it.

use crate::nodes::Role;
use serde::Serialize;
use std::{fmt, time::Duration};

/// A loop that has not turned for this long will not do so by itself: the process counts as dead.
pub const DEAD: Duration = Duration::from_secs(30);

/// A command that fails for this long does not do so for a passing reason.
const HOOK_FAILS: Duration = Duration::from_secs(60);

/// What stands still.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standstill {
    /// The process's loop does not turn.
    Loop,
    /// The broker is connected, and does not tell where the log ends.
    Broker,
    /// There is work, and nothing of it gets done.
    Work,
}

impl Standstill {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Loop, Self::Broker, Self::Work];

    /// As a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::Broker => "broker",
            Self::Work => "work",
        }
    }
}

/// What is known of a process at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Whose.
    pub role: Role,
    /// It was told to end.
    pub stopping: bool,
    /// Whether the broker is there.
    pub connected: bool,
    /// Whether the log was looked at and is trusted.
    pub session: bool,
    /// Whether something waits for room on a disk.
    pub no_room: bool,
    /// Whether the blob store did not do what was asked last.
    pub store_away: bool,
    /// Whether the broker denied this process a right within the last minute.
    pub denied: bool,
    /// How long each has stood still; the order is that of [`Standstill::ALL`].
    pub still: [Duration; 3],
    /// How old the oldest event is that the log has and this node has not applied (replicator).
    pub lag: Duration,
    /// How long the oldest work that was begun has been under way (replicator).
    pub oldest: Duration,
    /// Events set aside.
    pub parked: u64,
    /// Paths that wait for an operator's answer.
    pub held: u64,
    /// How many nodes are down, and how many there are, when more than half are.
    pub most_down: Option<(u64, u64)>,
    /// The node has applied the same events as others and has not the same files.
    pub diverged: bool,
    /// For how long the command of `--on-change` has failed each time.
    pub hook_fails: Duration,
    /// What is too long.
    pub max_lag: Duration,
}

/// Why a process is not well.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Reason {
    /// It was told to end.
    Stopping,
    /// There is no connection to the broker.
    BrokerAway,
    /// The log has not been looked at since it began, or since the broker came back.
    LogUnread,
    /// Something stands still, for so long.
    Stalled(Standstill, Duration),
    /// The oldest event that is not applied here is so old.
    Behind(Duration),
    /// The oldest event in work has been in it for so long.
    Slow(Duration),
    /// A disk is full.
    NoRoom,
    /// The blob store does not do what is asked.
    StoreAway,
    /// The broker denies this process a right.
    Denied,
    /// So many events cannot be applied.
    Parked(u64),
    /// So many paths wait for an operator.
    Held(u64),
    /// So many of so many nodes are down.
    MostDown(u64, u64),
    /// The node has applied the same events as others and has not the same files.
    Diverged,
    /// The command of `--on-change` has failed each time, for so long.
    HookFails(Duration),
}

impl Reason {
    /// For programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Stopping => "stopping",
            Self::BrokerAway => "broker_away",
            Self::LogUnread => "log_unread",
            Self::Stalled(Standstill::Loop, _) => "loop_stalled",
            Self::Stalled(Standstill::Broker, _) => "broker_stalled",
            Self::Stalled(Standstill::Work, _) => "work_stalled",
            Self::Behind(_) => "behind",
            Self::Slow(_) => "slow",
            Self::NoRoom => "no_room",
            Self::StoreAway => "store_away",
            Self::Denied => "denied",
            Self::Parked(_) => "parked",
            Self::Held(_) => "held",
            Self::MostDown(..) => "most_down",
            Self::Diverged => "diverged",
            Self::HookFails(_) => "hook_fails",
        }
    }

    /// The node's work goes on, though not all of it: it is degraded, and still ready.
    fn is_partial(&self) -> bool {
        !matches!(
            self,
            Self::Stopping
                | Self::BrokerAway
                | Self::LogUnread
                | Self::Stalled(..)
                | Self::Behind(_)
                | Self::Slow(_)
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopping => f.write_str("the process is about to end"),
            Self::BrokerAway => f.write_str("the broker is away"),
            Self::LogUnread => f.write_str("the log has not been looked at yet"),
            Self::Stalled(Standstill::Loop, age) => {
                write!(f, "the loop has not turned for {} s", age.as_secs())
            }
            Self::Stalled(Standstill::Broker, age) => {
                write!(f, "the broker has not told the end of the log for {} s", age.as_secs())
            }
            Self::Stalled(Standstill::Work, age) => {
                write!(f, "there is work, and none of it got done for {} s", age.as_secs())
            }
            Self::Behind(age) => {
                write!(f, "the oldest event that is not applied here is {} s old", age.as_secs())
            }
            Self::Slow(age) => write!(f, "the oldest event in work was taken {} s ago", age.as_secs()),
            Self::NoRoom => f.write_str("something waits for room on a disk"),
            Self::StoreAway => f.write_str("the blob store does not answer, or refuses"),
            Self::Denied => f.write_str(
                "the broker denies this process a right, which its log names; so it waits in vain",
            ),
            Self::Parked(count) => write!(f, "{count} events cannot be applied here"),
            Self::Held(count) => write!(f, "{count} paths wait for an operator's answer"),
            Self::MostDown(down, nodes) => write!(f, "{down} of {nodes} nodes are down"),
            Self::Diverged => {
                f.write_str("this node has applied the same events as others and has not the same files")
            }
            Self::HookFails(age) => {
                write!(f, "the command of --on-change has failed for {} s, and is run again", age.as_secs())
            }
        }
    }
}

/// The verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All is well.
    Ready,
    /// It does its work, and a person should look.
    Degraded,
    /// It does not do its work, or too slowly.
    Unready,
}

/// What a process is to who asks.
#[derive(Clone, PartialEq, Debug)]
pub struct Health {
    /// In one word.
    pub verdict: Verdict,
    /// Why, what is worst first.
    pub reasons: Vec<Reason>,
}

/// Judges.
pub fn judge(facts: &Facts) -> Health {
    let too_long = |age: Duration| age > facts.max_lag;
    let mut reasons = Vec::new();
    let mut because = |is: bool, reason: Reason| {
        if is {
            reasons.push(reason);
        }
    };
    because(facts.stopping, Reason::Stopping);
    because(!facts.connected, Reason::BrokerAway);
    because(facts.connected && !facts.session, Reason::LogUnread);
    for (what, age) in Standstill::ALL.into_iter().zip(facts.still) {
        because(too_long(age), Reason::Stalled(what, age));
    }
    if facts.role == Role::Replicator {
        because(too_long(facts.lag), Reason::Behind(facts.lag));
        because(too_long(facts.oldest), Reason::Slow(facts.oldest));
    }
    because(facts.no_room && !facts.store_away, Reason::NoRoom);
    because(facts.store_away, Reason::StoreAway);
    because(facts.denied, Reason::Denied);
    because(facts.parked > 0, Reason::Parked(facts.parked));
    because(facts.held > 0, Reason::Held(facts.held));
    because(facts.diverged, Reason::Diverged);
    because(facts.hook_fails > HOOK_FAILS, Reason::HookFails(facts.hook_fails));
    if let Some((down, nodes)) = facts.most_down {
        because(true, Reason::MostDown(down, nodes));
    }
    let verdict = match reasons.as_slice() {
        [] => Verdict::Ready,
        some if some.iter().all(Reason::is_partial) => Verdict::Degraded,
        _ => Verdict::Unready,
    };
    Health { verdict, reasons }
}

/// What the loop does not know by itself: it is said in the node's record, too.
pub fn to_record(facts: &Facts) -> Option<Reason> {
    let unknown = |reason: &Reason| {
        matches!(reason, Reason::Stalled(..) | Reason::Diverged | Reason::MostDown(..) | Reason::HookFails(_))
    };
    judge(facts).reasons.into_iter().find(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(15);
    const LONG: Duration = Duration::from_secs(16);

    fn well() -> Facts {
        Facts {
            role: Role::Replicator,
            stopping: false,
            connected: true,
            session: true,
            no_room: false,
            store_away: false,
            denied: false,
            still: [LIMIT; 3],
            lag: LIMIT,
            oldest: LIMIT,
            parked: 0,
            held: 0,
            most_down: None,
            diverged: false,
            hook_fails: Duration::ZERO,
            max_lag: LIMIT,
        }
    }

    #[test]
    fn each_reason_has_its_row() {
        let still = |what: usize| {
            let mut still = [Duration::ZERO; 3];
            still[what] = LONG;
            Facts { still, ..well() }
        };
        for (facts, verdict, reasons) in [
            (well(), Verdict::Ready, &[][..]),
            (Facts { stopping: true, ..well() }, Verdict::Unready, &["stopping"]),
            (Facts { connected: false, session: false, ..well() }, Verdict::Unready, &["broker_away"]),
            (Facts { session: false, ..well() }, Verdict::Unready, &["log_unread"]),
            (still(0), Verdict::Unready, &["loop_stalled"]),
            (still(1), Verdict::Unready, &["broker_stalled"]),
            (still(2), Verdict::Unready, &["work_stalled"]),
            (Facts { lag: LONG, ..well() }, Verdict::Unready, &["behind"]),
            (Facts { oldest: LONG, ..well() }, Verdict::Unready, &["slow"]),
            (Facts { lag: LONG, oldest: LONG, role: Role::Watcher, ..well() }, Verdict::Ready, &[]),
            (Facts { no_room: true, ..well() }, Verdict::Degraded, &["no_room"]),
            (Facts { denied: true, ..well() }, Verdict::Degraded, &["denied"]),
            (Facts { store_away: true, no_room: true, ..well() }, Verdict::Degraded, &["store_away"]),
            (Facts { parked: 1, held: 1, ..well() }, Verdict::Degraded, &["parked", "held"]),
            (Facts { diverged: true, ..well() }, Verdict::Degraded, &["diverged"]),
            (Facts { most_down: Some((2, 3)), ..well() }, Verdict::Degraded, &["most_down"]),
            (Facts { hook_fails: HOOK_FAILS, ..well() }, Verdict::Ready, &[]),
            (Facts { hook_fails: HOOK_FAILS * 2, ..well() }, Verdict::Degraded, &["hook_fails"]),
            (Facts { parked: 1, lag: LONG, ..well() }, Verdict::Unready, &["behind", "parked"]),
        ] {
            let health = judge(&facts);
            let named: Vec<&str> = health.reasons.iter().map(Reason::as_str).collect();
            assert_eq!((health.verdict, &named[..]), (verdict, reasons), "{facts:?}");
        }
    }

    #[test]
    fn the_record_says_what_the_loop_does_not_know() {
        assert_eq!(to_record(&Facts { connected: false, lag: LONG, parked: 1, ..well() }), None);
        let stalled = Facts { still: [LONG; 3], diverged: true, ..well() };
        assert_eq!(to_record(&stalled), Some(Reason::Stalled(Standstill::Loop, LONG)));
        assert_eq!(to_record(&Facts { diverged: true, ..well() }), Some(Reason::Diverged));
        let most_down = Facts { most_down: Some((2, 3)), ..well() };
        assert_eq!(to_record(&most_down), Some(Reason::MostDown(2, 3)));
    }
}
