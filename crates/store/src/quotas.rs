//! Quotas that replicas share: the generic cell rate algorithm, one row per quota.
//!
//! A row holds the time at which the quota is whole again. These columns count **micro**seconds, unlike all others: a
//! provider's budget may be more than a thousand a second. A pause is a row of its own, because a burst would reach
//! through the first one.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
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

fn pause_name(name: &str) -> String {
    format!("paused:{name}")
}

/// The same on SQLite, where this process is the only one: in memory, so that a quota costs no synced write.
#[derive(Debug, Default)]
pub(crate) struct LocalQuotas {
    ready_at: Mutex<HashMap<String, i64>>,
}

impl LocalQuotas {
    fn rows(&self) -> MutexGuard<'_, HashMap<String, i64>> {
        self.ready_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `Ok` if one was taken; else when the quota is whole again, and until when it is paused.
    fn take(&self, name: &str, pause: &str, at: i64, interval: i64, tolerance: i64) -> Result<(), (i64, i64)> {
        let mut rows = self.rows();
        let paused_until = rows.get(pause).copied().unwrap_or(0);
        let whole_at = rows.get(name).copied();
        let refused = paused_until > at || whole_at.is_some_and(|whole_at| whole_at > at.saturating_add(tolerance));
        if refused {
            return Err((whole_at.unwrap_or(0), paused_until));
        }
        rows.insert(name.to_owned(), whole_at.unwrap_or(at).max(at).saturating_add(interval));
        Ok(())
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
        let pause = pause_name(name);
        let taken = match &self.db {
            Db::Sqlite(_) => self.quotas.take(name, &pause, at, interval, tolerance),
            Db::Postgres(pool) => {
                let taken: Option<i64> = sqlx::query_scalar(sql::admin::TAKE_QUOTA)
                    .bind(name)
                    .bind(at)
                    .bind(interval)
                    .bind(tolerance)
                    .bind(pause.as_str())
                    .fetch_optional(pool)
                    .await?;
                if taken.is_some() { Ok(()) } else { Err(self.refused_quota(name, &pause).await?) }
            }
        };
        Ok(taken.map_err(|(whole_at, paused_until)| {
            let free_at = if whole_at == 0 { 0 } else { whole_at.saturating_sub(tolerance) };
            let wait = free_at.max(paused_until).saturating_sub(at).max(1);
            Duration::from_micros(u64::try_from(wait).unwrap_or(1))
        }))
    }

    /// When a quota is whole again and until when it is paused.
    async fn refused_quota(&self, name: &str, pause: &str) -> Result<(i64, i64), StoreError> {
        let (whole_at, paused_until): (Option<i64>, Option<i64>) = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::admin::FIND_QUOTA).bind(name).bind(pause).fetch_one(pool).await?
        });
        Ok((whole_at.unwrap_or(0), paused_until.unwrap_or(0)))
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
