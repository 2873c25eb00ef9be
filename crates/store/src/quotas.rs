//! Quotas that replicas share: the generic cell rate algorithm, one row per quota.
//!
//! A row holds the time at which the quota is whole again. These columns count **micro**seconds, unlike all others: a
//! provider's budget may be more than a thousand a second. A pause is a row of its own, because a burst would reach
//! through the first one.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use valetkey_core::Timestamp;

use crate::{
    StoreError, TokenStore,
    db::{Db, on_db},
    sql,
};

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn instant_micros(at: Timestamp) -> i64 {
    at.as_millis().saturating_mul(1_000)
}

fn wait(until: i64, at: i64) -> Duration {
    Duration::from_micros(u64::try_from(until.saturating_sub(at)).unwrap_or(0))
}

/// What was taken from a quota for many at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// How many were taken: the first of the waits belong to them.
    pub taken: usize,
    /// How long each has to wait before it may go, or, if nothing was taken for it, before it is worth asking again.
    pub waits: Vec<Duration>,
}

fn pause_name(name: &str) -> String {
    format!("paused:{name}")
}

/// The same on SQLite, where this process is the only one: in memory, so that a quota costs no synced write.
#[derive(Debug, Default)]
pub(crate) struct LocalQuotas {
    ready_at: Mutex<HashMap<String, i64>>,
    /// When starts that came to a full table last swept it.
    swept_at: AtomicI64,
}

/// Quotas of starts are named after users, and whoever starts flows names users as it likes: a full table gives no further
/// ones until others are whole again. Quotas of other names, of which there are few, are always given.
const MOST: usize = 200_000;

/// What the names of quotas of starts begin with.
const OF_STARTS: &str = "start:";

impl LocalQuotas {
    fn rows(&self) -> MutexGuard<'_, HashMap<String, i64>> {
        self.ready_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `Ok` with when the quota is whole again, if it was taken from; else that, and until when it is paused.
    fn take(&self, name: &str, pause: &str, at: i64, interval: i64, tolerance: i64) -> Result<i64, (i64, i64)> {
        let mut rows = self.rows();
        let paused_until = rows.get(pause).copied().unwrap_or(0);
        let whole_at = rows.get(name).copied();
        let refused = paused_until > at || whole_at.is_some_and(|whole_at| whole_at > at.saturating_add(tolerance));
        if refused {
            return Err((whole_at.unwrap_or(0), paused_until));
        }
        if whole_at.is_none() && name.starts_with(OF_STARTS) && rows.len() >= MOST {
            // Once a second, so that a flood is not answered with work.
            if at.saturating_sub(self.swept_at.load(Ordering::Relaxed)) >= 1_000_000 {
                self.swept_at.store(at, Ordering::Relaxed);
                rows.retain(|_, ready_at| *ready_at > at);
            }
            if rows.len() >= MOST {
                return Err((at.saturating_add(tolerance).saturating_add(interval), 0));
            }
        }
        let whole_at = whole_at.unwrap_or(at).max(at).saturating_add(interval);
        rows.insert(name.to_owned(), whole_at);
        Ok(whole_at)
    }

    fn give_back(&self, name: &str, at: i64, interval: i64) {
        let mut rows = self.rows();
        let Some(whole_at) = rows.get_mut(name) else { return };
        *whole_at = whole_at.saturating_sub(interval);
        if *whole_at <= at {
            rows.remove(name);
        }
    }

    fn pause(&self, pause: String, until: i64) {
        let mut rows = self.rows();
        let paused = rows.entry(pause).or_insert(until);
        *paused = (*paused).max(until);
    }

    fn sweep(&self, at: i64) -> u64 {
        let mut rows = self.rows();
        let before = rows.len();
        rows.retain(|_, ready_at| *ready_at > at);
        rows.shrink_to_fit();
        u64::try_from(before - rows.len()).unwrap_or(0)
    }
}

impl TokenStore {
    /// Takes one from a quota that gives one in every `per` and holds at most `burst`; else says how long to wait.
    ///
    /// What is refused costs nothing.
    pub async fn take_quota(
        &self,
        name: &str,
        per: Duration,
        burst: u32,
        now: Timestamp,
    ) -> Result<Result<(), Duration>, StoreError> {
        let interval = micros(per).max(1);
        let tolerance = interval.saturating_mul(i64::from(burst.max(1)) - 1);
        let at = instant_micros(now);
        Ok(self.take_from(name, at, interval, tolerance).await?.map(drop).map_err(|(whole_at, paused_until)| {
            let free_at = if whole_at == 0 { 0 } else { whole_at.saturating_sub(tolerance) };
            wait(free_at.max(paused_until), at).max(Duration::from_micros(1))
        }))
    }

    /// Takes up to `want` from a quota at once, those included that are free within `horizon`: taken now, each to be
    /// used when its own wait is over. Says how many were taken, and of all that were wanted how long each has to wait.
    pub async fn take_slots(
        &self,
        name: &str,
        (per, burst): (Duration, u32),
        horizon: Duration,
        want: usize,
        now: Timestamp,
    ) -> Result<Slots, StoreError> {
        let interval = micros(per).max(1);
        let at = instant_micros(now);
        let burst = interval.saturating_mul(i64::from(burst.max(1)) - 1);
        let tolerance = burst.saturating_add(micros(horizon));
        let mut asked = i64::try_from(want).unwrap_or(i64::MAX).min(tolerance / interval + 1);
        let mut first = at;
        let mut taken = 0;
        // The second time asks for what the first has seen to be left.
        for _ in 0..2 {
            if asked <= 0 {
                break;
            }
            let cost = interval.saturating_mul(asked);
            match self.take_from(name, at, cost, tolerance - interval * (asked - 1)).await? {
                Ok(whole_at) => {
                    (first, taken) = (whole_at.saturating_sub(cost), asked);
                    break;
                }
                Err((_, paused_until)) if paused_until > at => {
                    first = paused_until.saturating_add(burst);
                    break;
                }
                Err((whole_at, _)) => {
                    first = whole_at.max(at);
                    asked = asked.min((at.saturating_add(tolerance).saturating_sub(whole_at)).div_euclid(interval) + 1);
                }
            }
        }
        let waits = (0..want)
            .map(|number| {
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                wait(first.saturating_add(interval.saturating_mul(number)).saturating_sub(burst), at)
            })
            .collect();
        Ok(Slots { taken: usize::try_from(taken).unwrap_or(0), waits })
    }

    /// Takes what costs `interval`, if the quota is whole again within `tolerance`; else says when it is whole again, and
    /// until when it is paused.
    async fn take_from(
        &self,
        name: &str,
        at: i64,
        interval: i64,
        tolerance: i64,
    ) -> Result<Result<i64, (i64, i64)>, StoreError> {
        let pause = pause_name(name);
        match &self.db {
            Db::Sqlite(_) => Ok(self.quotas.take(name, &pause, at, interval, tolerance)),
            Db::Postgres(pool) => {
                let taken: Option<i64> = sqlx::query_scalar(sql::admin::TAKE_QUOTA)
                    .bind(name)
                    .bind(at)
                    .bind(interval)
                    .bind(tolerance)
                    .bind(pause.as_str())
                    .fetch_optional(pool)
                    .await?;
                match taken {
                    Some(whole_at) => Ok(Ok(whole_at)),
                    None => Ok(Err(self.refused_quota(name, &pause).await?)),
                }
            }
        }
    }

    /// When a quota is whole again and until when it is paused.
    async fn refused_quota(&self, name: &str, pause: &str) -> Result<(i64, i64), StoreError> {
        let (whole_at, paused_until): (Option<i64>, Option<i64>) = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::admin::FIND_QUOTA).bind(name).bind(pause).fetch_one(pool).await?
        });
        Ok((whole_at.unwrap_or(0), paused_until.unwrap_or(0)))
    }

    /// Gives back what was taken for something that was refused then, so that refusals do not fill the memory. Rows of a
    /// database are left to the sweep.
    pub fn give_back_quota(&self, name: &str, per: Duration, now: Timestamp) {
        if matches!(self.db, Db::Sqlite(_)) {
            self.quotas.give_back(name, instant_micros(now), micros(per).max(1));
        }
    }

    /// How many quotas this process has in memory; none where replicas share them.
    pub fn quotas_in_memory(&self) -> usize {
        self.quotas.rows().len()
    }

    /// Lets nobody take from a quota before `until`; a shorter pause never cuts a longer one.
    pub async fn pause_quota(&self, name: &str, until: Timestamp) -> Result<(), StoreError> {
        match &self.db {
            Db::Sqlite(_) => self.quotas.pause(pause_name(name), instant_micros(until)),
            Db::Postgres(pool) => {
                sqlx::query(sql::admin::PAUSE_QUOTA)
                    .bind(pause_name(name))
                    .bind(instant_micros(until))
                    .execute(pool)
                    .await?;
            }
        }
        Ok(())
    }

    /// Deletes the rows of quotas that are whole again and of pauses that are over; says how many.
    pub async fn sweep_quotas(&self, now: Timestamp) -> Result<u64, StoreError> {
        let at = instant_micros(now);
        match &self.db {
            Db::Sqlite(_) => Ok(self.quotas.sweep(at)),
            Db::Postgres(pool) => {
                Ok(sqlx::query(sql::admin::SWEEP_QUOTAS).bind(at).execute(pool).await?.rows_affected())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn what_is_given_back_leaves_nothing_behind() {
        let quotas = LocalQuotas::default();
        let take = || quotas.take("start:h:default:u-1", "paused", 0, SECOND, SECOND).is_ok();
        assert!(take() && take() && !take());
        quotas.give_back("start:h:default:u-1", 0, SECOND);
        assert!(take() && !take());
        quotas.give_back("start:h:default:u-1", 0, SECOND);
        quotas.give_back("start:h:default:u-1", 0, SECOND);
        quotas.give_back("start:h:default:u-1", 0, SECOND);
        assert!(quotas.rows().is_empty());
    }

    #[test]
    fn a_flood_of_starts_does_not_grow_the_table_and_costs_other_quotas_nothing() {
        let quotas = LocalQuotas::default();
        let take = |name: &str, at| quotas.take(name, "paused", at, 36 * SECOND, 99 * 36 * SECOND).is_ok();
        let start = 100 * SECOND;
        let given = (0..1_000_000).filter(|user| take(&format!("start:h:default:u-{user}"), start)).count();
        assert_eq!((given, quotas.rows().len()), (MOST, MOST));
        // Who has a quota keeps it, and a provider's budget is another matter.
        assert!(take("start:h:default:u-1", start));
        assert!(take("provider:ctr_1", start));
        assert!(!take("start:h:default:u-new", start + SECOND));
        // Once those are whole again there is room.
        assert!(take("start:h:default:u-new", start + 40 * SECOND));
        assert!(quotas.rows().len() < 10, "{}", quotas.rows().len());
    }
}
