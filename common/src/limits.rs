//! Bytes per second, shared by all transfers of one direction; and what goes first.

use crate::hash::ContentHash;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{Mutex, MutexGuard, watch};

/// Contents that somebody waits for at this moment: what is fetched of them goes before all else. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Hurried(watch::Sender<BTreeMap<ContentHash, usize>>);

/// A content is hurried until this is dropped.
#[derive(Debug)]
pub struct Hurry {
    all: Hurried,
    content: ContentHash,
}

impl Hurried {
    /// From now on.
    pub fn hurry(&self, content: ContentHash) -> Hurry {
        self.0.send_modify(|all| *all.entry(content).or_default() += 1);
        Hurry { all: self.clone(), content }
    }

    /// Waits until this content is hurried; returns at once when it is.
    pub async fn until(&self, content: ContentHash) {
        // Fails only without a sender, and we hold one.
        let _ = self.0.subscribe().wait_for(|all| all.contains_key(&content)).await;
    }

    async fn until_none(&self) {
        let _ = self.0.subscribe().wait_for(BTreeMap::is_empty).await;
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        self.all.0.send_modify(|all| {
            let left = all.remove(&self.content).unwrap_or_default().saturating_sub(1);
            if left > 0 {
                all.insert(self.content, left);
            }
        });
    }
}

/// A limit on bytes per second, and the count of those that passed; cheap to clone. Bursts of a quarter of a second are let through.
#[derive(Clone, Default)]
pub struct RateLimit {
    limit: Option<Arc<Limited>>,
    passed: Arc<AtomicU64>,
    of: Option<(Hurried, ContentHash)>,
}

struct Limited {
    limiter: DefaultDirectRateLimiter,
    burst: NonZeroU32,
    /// Those that are not hurried pass one after the other, in the order in which they came.
    turn: Mutex<()>,
}

impl RateLimit {
    /// `None`, or 0: no limit. Over 4 GiB/s counts as 4 GiB/s.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let limit =
            bytes_per_second.and_then(|rate| NonZeroU32::new(u32::try_from(rate).unwrap_or(u32::MAX)));
        let limit = limit.map(|rate| {
            let burst = NonZeroU32::new(rate.get() / 4).unwrap_or(NonZeroU32::MIN);
            let limiter = RateLimiter::direct(Quota::per_second(rate).allow_burst(burst));
            Arc::new(Limited { limiter, burst, turn: Mutex::default() })
        });
        Self { limit, ..Self::default() }
    }

    /// The same limit for what is fetched of one content: it passes all others from the moment on at which it is hurried.
    pub fn of(&self, hurried: &Hurried, content: ContentHash) -> Self {
        Self { of: Some((hurried.clone(), content)), ..self.clone() }
    }

    /// So many bytes may pass in so many seconds; all that there are, where there is no limit.
    pub fn in_seconds(&self, seconds: usize) -> usize {
        let second = |limited: &Arc<Limited>| (limited.burst.get() as usize).saturating_mul(4);
        self.limit.as_ref().map_or(usize::MAX, |limited| second(limited).saturating_mul(seconds))
    }

    /// Bytes that were let through, by all clones together.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Waits until this many bytes may pass.
    pub async fn take(&self, bytes: usize) {
        if let Some(limited) = &self.limit {
            let mut left = u32::try_from(bytes).unwrap_or(u32::MAX);
            while let Some(now) = NonZeroU32::new(left.min(limited.burst.get())) {
                let _turn = self.turn(&limited.turn).await;
                // Fails only for more than a burst, which `now` never is.
                let _ = limited.limiter.until_n_ready(now).await;
                left -= now.get();
            }
        }
        self.passed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// `None`: it is hurried, and needs no turn.
    async fn turn<'a>(&self, turn: &'a Mutex<()>) -> Option<MutexGuard<'a, ()>> {
        let Some((hurried, content)) = &self.of else { return Some(turn.lock().await) };
        let in_turn = async {
            let turn = turn.lock().await;
            hurried.until_none().await;
            turn
        };
        tokio::select! {
            biased;
            () = hurried.until(*content) => None,
            turn = in_turn => Some(turn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::{task::yield_now, time::timeout};

    const RATE: u64 = 64 << 10;

    fn of(limit: &RateLimit, hurried: &Hurried, name: &str) -> (RateLimit, ContentHash) {
        let content = ContentHash::of(name.as_bytes());
        (limit.of(hurried, content), content)
    }

    #[tokio::test]
    async fn what_is_hurried_passes_those_that_wait_already() {
        let (limit, hurried) = (RateLimit::new(Some(RATE)), Hurried::default());
        let backlog: Vec<_> = (0..32)
            .map(|n| {
                let (limit, _) = of(&limit, &hurried, &n.to_string());
                tokio::spawn(async move { limit.take(256 << 10).await })
            })
            .collect();
        let (late, content) = of(&limit, &hurried, "late");
        let waiting = tokio::spawn(async move { late.take(8 << 10).await });
        // All of them wait now. It would be its turn in two minutes.
        yield_now().await;
        let _hurry = hurried.hurry(content);
        timeout(Duration::from_secs(5), waiting).await.expect("in time").expect("no panic");
        assert!(backlog.iter().all(|task| !task.is_finished()));
        backlog.iter().for_each(|task| task.abort());
    }

    #[tokio::test]
    async fn what_is_asked_for_twice_is_hurried_until_both_have_it() {
        let (hurried, content) = (Hurried::default(), ContentHash::of_nothing());
        let (first, second) = (hurried.hurry(content), hurried.hurry(content));
        drop(first);
        timeout(Duration::from_secs(5), hurried.until(content)).await.expect("it is hurried still");
        drop(second);
        timeout(Duration::from_secs(5), hurried.until_none()).await.expect("it is no more");
    }
}
