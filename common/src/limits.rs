//! Bytes per second, shared by all transfers of one direction.

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A limit on bytes per second, and the count of those that passed; cheap to clone. Bursts of a quarter of a second are let through.
#[derive(Clone, Default)]
pub struct RateLimit {
    limit: Option<(Arc<DefaultDirectRateLimiter>, NonZeroU32)>,
    passed: Arc<AtomicU64>,
}

impl RateLimit {
    /// `None`, or 0: no limit. Over 4 GiB/s counts as 4 GiB/s.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let limit =
            bytes_per_second.and_then(|rate| NonZeroU32::new(u32::try_from(rate).unwrap_or(u32::MAX)));
        let limit = limit.map(|rate| {
            let burst = NonZeroU32::new(rate.get() / 4).unwrap_or(NonZeroU32::MIN);
            (Arc::new(RateLimiter::direct(Quota::per_second(rate).allow_burst(burst))), burst)
        });
        Self { limit, passed: Arc::default() }
    }

    /// Bytes that were let through, by all clones together.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Waits until this many bytes may pass.
    pub async fn take(&self, bytes: usize) {
        if let Some((limiter, burst)) = &self.limit {
            let mut left = u32::try_from(bytes).unwrap_or(u32::MAX);
            while let Some(now) = NonZeroU32::new(left.min(burst.get())) {
                // Fails only for more than a burst, which `now` never is.
                let _ = limiter.until_n_ready(now).await;
                left -= now.get();
            }
        }
        self.passed.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
