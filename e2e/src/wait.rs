//! Waiting for a condition, never for a time. A wait that fails says what it waited for and what it saw last.

use std::{
    thread,
    time::{Duration, Instant},
};

/// The deadline of what takes milliseconds on an idle machine; tests run side by side on few cores.
pub const SOON: Duration = Duration::from_secs(30);
/// The deadline of what moves thousands of files.
pub const LONG: Duration = Duration::from_secs(120);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `look` gives a value, and returns it. `Err` says why it is not there yet.
///
/// # Panics
/// When `limit` is over, with `what` and the last reason.
pub fn wait_for<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        let reason = match look() {
            Ok(value) => return value,
            Err(reason) => reason,
        };
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}; seen last: {reason}");
        thread::sleep(POLL);
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// When `limit` is over, with `what`.
pub fn wait_until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(limit, what, || if condition() { Ok(()) } else { Err("not yet".into()) });
}

/// Does something once for each item, at this pace: a writer that is slow because slowness is what is tested.
pub fn paced<T>(pace: Duration, items: impl IntoIterator<Item = T>, mut action: impl FnMut(T)) {
    let start = Instant::now();
    for (done, item) in (0u32..).zip(items) {
        thread::sleep((pace * done).saturating_sub(start.elapsed()));
        action(item);
    }
}
