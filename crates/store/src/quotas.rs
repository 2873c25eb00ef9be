//! Quotas that replicas share: the generic cell rate algorithm, one row per quota.
//!
//! A row holds the time at which the quota is whole again. These columns count **micro**seconds, unlike all others: a
//! provider's budget may be more than a thousand a second. A pause is a row of its own, because a burst would reach
//! through the first one.

use std::time::Duration;

use valetkey_core::Timestamp;

use crate::{
    StoreError, TokenStore,
    db::{on_db, on_db_write},
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
        let taken: Option<i64> = on_db_write!(&self.db, |pool| {
            sqlx::query_scalar(sql::admin::TAKE_QUOTA)
                .bind(name)
                .bind(at)
                .bind(interval)
                .bind(tolerance)
                .bind(pause.as_str())
                .fetch_optional(pool)
                .await?
        });
        if taken.is_some() {
            return Ok(Ok(()));
        }
        let (whole_at, paused_until): (Option<i64>, Option<i64>) = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::admin::FIND_QUOTA).bind(name).bind(pause.as_str()).fetch_one(pool).await?
        });
        let free_at = whole_at.map_or(0, |whole_at| whole_at.saturating_sub(tolerance));
        let wait = free_at.max(paused_until.unwrap_or(0)).saturating_sub(at).max(1);
        Ok(Err(Duration::from_micros(u64::try_from(wait).unwrap_or(1))))
    }

    /// Lets nobody take from a quota before `until`; a shorter pause never cuts a longer one.
    pub async fn pause_quota(&self, name: &str, until: Timestamp) -> Result<(), StoreError> {
        on_db_write!(&self.db, |pool| {
            sqlx::query(sql::admin::PAUSE_QUOTA)
                .bind(pause_name(name))
                .bind(instant_micros(until))
                .execute(pool)
                .await?;
        });
        Ok(())
    }

    /// Deletes the rows of quotas that are whole again and of pauses that are over; says how many.
    pub async fn sweep_quotas(&self, now: Timestamp) -> Result<u64, StoreError> {
        Ok(on_db_write!(&self.db, |pool| {
            sqlx::query(sql::admin::SWEEP_QUOTAS).bind(instant_micros(now)).execute(pool).await?.rows_affected()
        }))
    }
}
