//! The purge: what is over is deleted, by criteria, in batches, with a dry run.
//!
//! Each method deletes at most [`PURGE_BATCH`] rows and says how many: call it again until it says fewer. A dry run
//! deletes nothing and says how many there are in all.

use std::time::Duration;

use valetkey_core::{AuditEvent, ConnectionId, Entropy, EventId, Owner, RevocationId, SpaceId, Subject, Timestamp};

use crate::{
    StoreError, TokenStore,
    audit::write_audits,
    db::{Tx, on_db, on_db_sweep, on_db_write, on_tx},
    rows::{parse, to_json},
    sql,
};

/// The most rows that one call deletes: it holds SQLite's only writer for a few milliseconds.
pub const PURGE_BATCH: i64 = 1_000;

/// A plan stays this much longer than it can be taken, so that a revocation under way can still read its members.
const PLAN_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// All zeros: makes the lowest id of a millisecond.
#[derive(Debug)]
struct Zero;

impl Entropy for Zero {
    fn fill(&self, out: &mut [u8]) {
        out.fill(0);
    }
}

/// Makes the audit event of a purged connection.
pub type PurgeEvent<'a> = dyn Fn(&SpaceId, Subject) -> AuditEvent + Sync + 'a;

/// A connection that was deleted.
#[derive(Debug, sqlx::FromRow)]
struct PurgedRow {
    id: String,
    space_id: String,
    connector_id: String,
    owner: String,
}

impl PurgedRow {
    fn subject(&self) -> Result<Subject, StoreError> {
        Ok(Subject {
            connection_id: Some(parse("connections", "id", &self.id, &self.id)?),
            connector_id: Some(parse("connections", "connector_id", &self.id, &self.connector_id)?),
            owner: Owner::from_key(&self.owner),
            ..Subject::default()
        })
    }
}

impl TokenStore {
    /// Deletes flows that ended before `ended_before`.
    pub async fn purge_flows(&self, ended_before: Timestamp, dry_run: bool) -> Result<u64, StoreError> {
        self.purge(sql::lists::COUNT_OLD_FLOWS, sql::lists::PURGE_FLOWS, ended_before, dry_run).await
    }

    /// Marks open flows whose life is over as expired and erases what they kept sealed. A flow that is being finished
    /// is left to its end.
    pub async fn expire_flows(&self, now: Timestamp, dry_run: bool) -> Result<u64, StoreError> {
        self.purge(sql::lists::COUNT_LAPSED_FLOWS, sql::lists::EXPIRE_FLOWS, now, dry_run).await
    }

    /// Deletes connections that were revoked before `before` and wait for no revocation, with all that hangs on them.
    /// `event` makes the audit event of each.
    pub async fn purge_revoked_connections(
        &self,
        before: Timestamp,
        dry_run: bool,
        event: &PurgeEvent<'_>,
    ) -> Result<u64, StoreError> {
        let bound = ConnectionId::new(before, &Zero).to_string();
        if dry_run {
            return self.count_bounded(sql::lists::COUNT_OLD_REVOKED, before, &bound).await;
        }
        let mut tx = self.db.begin_write().await?;
        let purged: Vec<PurgedRow> = on_tx!(&mut tx, |connection| {
            sqlx::query_as(sql::lists::PURGE_REVOKED)
                .bind(before.as_millis())
                .bind(bound.as_str())
                .bind(PURGE_BATCH)
                .fetch_all(connection)
                .await?
        });
        if purged.is_empty() {
            return Ok(0);
        }
        let ids = to_json(&purged.iter().map(|row| row.id.as_str()).collect::<Vec<_>>());
        match &mut tx {
            Tx::Sqlite(transaction) => {
                for text in
                    [sql::lists::DELETE_DUE_SQLITE, sql::lists::DELETE_USAGE_SQLITE, sql::lists::DELETE_ATTEMPTS_SQLITE]
                {
                    sqlx::query(text).bind(ids.as_str()).execute(&mut **transaction).await?;
                }
            }
            Tx::Postgres(transaction) => {
                for text in [
                    sql::lists::DELETE_DUE_POSTGRES,
                    sql::lists::DELETE_USAGE_POSTGRES,
                    sql::lists::DELETE_ATTEMPTS_POSTGRES,
                ] {
                    sqlx::query(text).bind(ids.as_str()).execute(&mut *transaction).await?;
                }
            }
        }
        let mut events = Vec::with_capacity(purged.len());
        for row in &purged {
            let space = parse("connections", "space_id", &row.id, &row.space_id)?;
            events.push(event(&space, row.subject()?));
        }
        write_audits(&mut tx, &events).await?;
        tx.commit().await?;
        for id in events.iter().filter_map(|event| event.subject.connection_id) {
            self.cache.forget_connection(id);
        }
        Ok(u64::try_from(purged.len()).unwrap_or(u64::MAX))
    }

    /// Connections of all spaces that nobody has used since `before` and that cannot be refreshed: the grant is dead,
    /// or there is no refresh token. They are the caller's to revoke.
    pub async fn unused_connections(&self, before: Timestamp, limit: i64) -> Result<Vec<ConnectionId>, StoreError> {
        let rows: Vec<String> = on_db!(&self.db, |pool| {
            sqlx::query_scalar(sql::lists::UNUSED_CONNECTIONS)
                .bind(before.as_millis())
                .bind(ConnectionId::new(before, &Zero).to_string())
                .bind(limit)
                .fetch_all(pool)
                .await?
        });
        rows.iter().map(|id| parse("connections", "id", id, id)).collect()
    }

    /// Deletes attempts that last changed before `before`, but never that of a connection's current generation.
    pub async fn purge_attempts(&self, before: Timestamp, dry_run: bool) -> Result<u64, StoreError> {
        self.purge(sql::lists::COUNT_OLD_ATTEMPTS, sql::lists::PURGE_ATTEMPTS, before, dry_run).await
    }

    /// Deletes audit events from before `before`.
    pub async fn purge_audit(&self, before: Timestamp, dry_run: bool) -> Result<u64, StoreError> {
        let bound = EventId::new(before, &Zero).to_string();
        self.purge_bounded(sql::lists::COUNT_OLD_AUDIT, sql::lists::PURGE_AUDIT, before, &bound, dry_run).await
    }

    /// Deletes revocations that reached their end before `before`.
    pub async fn purge_revocations(&self, before: Timestamp, dry_run: bool) -> Result<u64, StoreError> {
        let bound = RevocationId::new(before, &Zero).to_string();
        let (count, delete) = (sql::lists::COUNT_OLD_REVOCATIONS, sql::lists::PURGE_REVOCATIONS);
        self.purge_bounded(count, delete, before, &bound, dry_run).await
    }

    /// Deletes plans that lapsed a day before `now`, members first; counts rows of both.
    pub async fn purge_plans(&self, now: Timestamp, dry_run: bool) -> Result<u64, StoreError> {
        let before = now.minus(PLAN_GRACE);
        let counted = self.purge(sql::lists::COUNT_OLD_PLANS, sql::lists::PURGE_MEMBERS, before, dry_run).await?;
        if dry_run {
            return Ok(counted);
        }
        let plans = on_db_write!(&self.db, |pool| {
            sqlx::query(sql::lists::PURGE_PLANS).bind(before.as_millis()).execute(pool).await?.rows_affected()
        });
        Ok(plans)
    }

    async fn purge(
        &self,
        count: &'static str,
        delete: &'static str,
        before: Timestamp,
        dry_run: bool,
    ) -> Result<u64, StoreError> {
        if dry_run {
            let count: i64 = on_db_sweep!(&self.db, |pool| sqlx::query_scalar(count)
                .bind(before.as_millis())
                .fetch_one(pool)
                .await?);
            return Ok(u64::try_from(count).unwrap_or(0));
        }
        Ok(on_db_write!(&self.db, |pool| {
            sqlx::query(delete).bind(before.as_millis()).bind(PURGE_BATCH).execute(pool).await?.rows_affected()
        }))
    }

    async fn purge_bounded(
        &self,
        count: &'static str,
        delete: &'static str,
        before: Timestamp,
        bound: &str,
        dry_run: bool,
    ) -> Result<u64, StoreError> {
        if dry_run {
            return self.count_bounded(count, before, bound).await;
        }
        Ok(on_db_write!(&self.db, |pool| {
            sqlx::query(delete)
                .bind(before.as_millis())
                .bind(bound)
                .bind(PURGE_BATCH)
                .execute(pool)
                .await?
                .rows_affected()
        }))
    }

    async fn count_bounded(&self, count: &'static str, before: Timestamp, bound: &str) -> Result<u64, StoreError> {
        let count: i64 = on_db_sweep!(&self.db, |pool| {
            sqlx::query_scalar(count).bind(before.as_millis()).bind(bound).fetch_one(pool).await?
        });
        Ok(u64::try_from(count).unwrap_or(0))
    }
}
