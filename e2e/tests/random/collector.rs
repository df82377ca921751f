//! Somebody who has blobs collected all the time. With every other seed the store keeps only what is on its way.

use e2e::{LONG, Role};
use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// What no event names is left alone for so long: far longer than it takes from a blob to its event, and far shorter than a day.
const GRACE: &str = "10s";
const REST: Duration = Duration::from_secs(1);

/// Collects, over and over.
pub struct Collector {
    over: Arc<AtomicBool>,
    gone: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Starts.
    pub fn start(url: String, in_transit: bool) -> Self {
        let (over, gone) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (ended, count) = (Arc::clone(&over), Arc::clone(&gone));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                let mut command = Command::new(Role::Replicator.program());
                command.args(["gc", "--json", "--grace", GRACE, "--mirror", "media", "--nats-url", &url]);
                command.args(["--blob-retention", if in_transit { "applied" } else { "all" }]);
                let finished = e2e::run(LONG, command);
                // It may be refused, or the broker be away.
                assert!(matches!(finished.code, Some(0 | 1 | 3 | 5)), "{finished:?}");
                let told = finished.json_lines().pop().unwrap_or_default();
                count.fetch_add(told["taken_away"].as_u64().unwrap_or(0), Ordering::SeqCst);
                std::thread::sleep(REST);
            }
        });
        Self { over, gone, thread: Some(thread) }
    }

    /// Blobs taken away so far.
    pub fn gone(&self) -> u64 {
        self.gone.load(Ordering::SeqCst)
    }

    /// Ends it, and tells what went wrong.
    pub fn end(mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
