//! One quota for each key.

use std::{
    fmt,
    hash::Hash,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock as GovernorClock, Reference},
    middleware::NoOpMiddleware,
    state::keyed::DashMapStateStore,
};
use valetkey_core::Clock;

/// How many keys a limiter may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// As many as come: for keys that are authenticated ids.
    Unbounded,
    /// At most about this many: for keys that anybody can make up, such as addresses. A full limiter refuses every key
    /// until quotas are whole again, so that a flood of them cannot grow the memory.
    AtMost(usize),
}

/// The injected clock in governor's terms.
#[derive(Debug, Clone)]
struct Monotonic(Arc<dyn Clock>);

impl GovernorClock for Monotonic {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.monotonic()
    }
}

/// One quota for each key: a burst of `per_window`, refilled evenly over the window.
pub struct KeyedLimiter<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, DashMapStateStore<K>, Monotonic, NoOpMiddleware<Duration>>,
    clock: Monotonic,
    bound: Bound,
    window: Duration,
    /// When a full limiter last swept itself, in milliseconds of the monotonic clock.
    swept_at: AtomicU64,
}

impl<K: Hash + Eq + Clone> fmt::Debug for KeyedLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedLimiter").field("len", &self.len()).field("bound", &self.bound).finish_non_exhaustive()
    }
}

impl<K: Hash + Eq + Clone> KeyedLimiter<K> {
    /// A limiter that lets `per_window` through in each window and key; zero counts as one.
    pub fn new(per_window: u32, window: Duration, bound: Bound, clock: Arc<dyn Clock>) -> Self {
        let burst = NonZeroU32::new(per_window).unwrap_or(NonZeroU32::MIN);
        let each = (window / burst.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(each).unwrap_or(Quota::per_second(burst)).allow_burst(burst);
        let clock = Monotonic(clock);
        Self {
            limiter: RateLimiter::new(quota, DashMapStateStore::default(), clock.clone()),
            clock,
            bound,
            window,
            swept_at: AtomicU64::new(0),
        }
    }

    /// Counts one for the key, or says how long to wait. A full limiter sweeps itself, at most once a second.
    pub fn check(&self, key: &K) -> Result<(), Duration> {
        if let Bound::AtMost(most) = self.bound
            && self.limiter.len() >= most
        {
            self.sweep_when_full();
            if self.limiter.len() >= most {
                return Err(self.window);
            }
        }
        self.limiter.check_key(key).map_err(|until| self.wait(&until))
    }

    fn sweep_when_full(&self) {
        let now = u64::try_from(self.clock.now().as_millis()).unwrap_or(u64::MAX);
        let last = self.swept_at.load(Ordering::Relaxed);
        let is_due = last == 0 || now.saturating_sub(last) >= 1_000;
        let swap = || self.swept_at.compare_exchange(last, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
        if is_due && swap().is_ok() {
            self.sweep();
        }
    }

    fn wait(&self, until: &NotUntil<Duration>) -> Duration {
        let now = self.clock.now();
        until.earliest_possible().duration_since(now).into()
    }

    /// How many keys are held, about.
    pub fn len(&self) -> usize {
        self.limiter.len()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.limiter.is_empty()
    }

    /// Forgets the keys whose quota is whole again, and gives the memory back.
    pub fn sweep(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valetkey_core::ManualClock;

    const MINUTE: Duration = Duration::from_secs(60);

    fn limiter(per_window: u32, bound: Bound) -> (Arc<ManualClock>, KeyedLimiter<u32>) {
        let clock = Arc::new(ManualClock::new());
        let limiter = KeyedLimiter::new(per_window, MINUTE, bound, clock.clone());
        (clock, limiter)
    }

    #[test]
    fn a_burst_passes_and_the_next_is_told_how_long_to_wait() {
        let (clock, limiter) = limiter(3, Bound::Unbounded);
        for _ in 0..3 {
            assert_eq!(limiter.check(&1), Ok(()));
        }
        let wait = limiter.check(&1).expect_err("the fourth");
        assert!(wait > Duration::from_secs(19) && wait <= Duration::from_secs(20), "{wait:?}");
        assert_eq!(limiter.check(&2), Ok(()), "another key has a quota of its own");
        clock.advance(wait + Duration::from_millis(1));
        assert_eq!(limiter.check(&1), Ok(()));
    }

    #[test]
    fn a_sweep_forgets_keys_whose_quota_is_whole_again() {
        let (clock, limiter) = limiter(3, Bound::Unbounded);
        for key in 0..100 {
            assert_eq!(limiter.check(&key), Ok(()));
        }
        limiter.sweep();
        assert_eq!(limiter.len(), 100);
        clock.advance(2 * MINUTE);
        limiter.sweep();
        assert!(limiter.is_empty());
    }

    #[test]
    fn a_flood_of_keys_does_not_grow_a_bounded_limiter() {
        let (clock, limiter) = limiter(3, Bound::AtMost(50));
        let refused = (0..1_000).filter(|key| limiter.check(key).is_err()).count();
        assert_eq!(refused, 950);
        assert_eq!(limiter.len(), 50);
        clock.advance(2 * MINUTE);
        assert_eq!(limiter.check(&7_777), Ok(()), "room is made once the quotas are whole");
        assert_eq!(limiter.len(), 1);
    }

    #[test]
    fn a_quota_of_thousands_is_refilled_evenly() {
        let clock = Arc::new(ManualClock::new());
        let limiter = KeyedLimiter::new(1_000, Duration::from_secs(1), Bound::Unbounded, clock.clone());
        let passed = (0..5_000).filter(|_| limiter.check(&1_u32).is_ok()).count();
        assert!((1_000..2_000).contains(&passed), "{passed}");
        clock.advance(Duration::from_millis(500));
        let passed = (0..5_000).filter(|_| limiter.check(&1_u32).is_ok()).count();
        assert!((500..1_500).contains(&passed), "{passed}");
    }
}
