//! Spaces: made by an explicit verb, never by use.

use valetkey_core::{AuditEvent, SpaceId, Timestamp};

use crate::{
    StoreError, TokenStore,
    audit::write_audit,
    db::{on_db, on_tx},
    rows::parse,
    sql,
};

#[derive(sqlx::FromRow)]
struct SpaceRow {
    id: String,
    created_at: i64,
}

impl TokenStore {
    /// Makes a space; `false` if it exists.
    pub async fn create_space(&self, space: &SpaceId, now: Timestamp, event: &AuditEvent) -> Result<bool, StoreError> {
        let mut tx = self.db.begin_write().await?;
        let made = on_tx!(&mut tx, |connection| {
            sqlx::query(sql::admin::INSERT_SPACE)
                .bind(space.as_str())
                .bind(now.as_millis())
                .execute(connection)
                .await?
                .rows_affected()
        });
        if made == 0 {
            return Ok(false);
        }
        write_audit(&mut tx, event).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// All spaces by name, each with the time it was made.
    pub async fn list_spaces(&self) -> Result<Vec<(SpaceId, Timestamp)>, StoreError> {
        let rows: Vec<SpaceRow> =
            on_db!(&self.db, |pool| sqlx::query_as(sql::admin::LIST_SPACES).fetch_all(pool).await?);
        rows.into_iter()
            .map(|row| Ok((parse("spaces", "id", &row.id, &row.id)?, Timestamp::from_millis(row.created_at))))
            .collect()
    }

    /// Whether there is such a space.
    pub async fn space_exists(&self, space: &SpaceId) -> Result<bool, StoreError> {
        let found: Option<String> = on_db!(&self.db, |pool| {
            sqlx::query_scalar(sql::admin::FIND_SPACE).bind(space.as_str()).fetch_optional(pool).await?
        });
        Ok(found.is_some())
    }
}
