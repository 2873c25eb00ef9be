//! Due refreshes: a narrow table whose rows move forward when they are claimed.

use valetkey_core::{Connection, ConnectionId, Timestamp};

use crate::{
    StoreError, TokenStore,
    connections::put_due,
    db::{Db, on_db_write, on_tx},
    group_rows::{DueRow, Write},
    rows::parse,
    sql::connections as sql,
};

impl TokenStore {
    /// Takes up to `limit` connections whose refresh is due, oldest first, and moves their due point to `until`: if
    /// this process dies, they are due again then.
    pub async fn claim_due(
        &self,
        now: Timestamp,
        until: Timestamp,
        limit: i64,
    ) -> Result<Vec<ConnectionId>, StoreError> {
        let statement = match &self.db {
            Db::Sqlite(_) => sql::CLAIM_DUE_SQLITE,
            Db::Postgres(_) => sql::CLAIM_DUE_POSTGRES,
        };
        let ids: Vec<String> = on_db_write!(&self.db, |pool| {
            sqlx::query_scalar(statement)
                .bind(now.as_millis())
                .bind(until.as_millis())
                .bind(limit)
                .fetch_all(pool)
                .await?
        });
        ids.iter().map(|id| parse("due", "connection_id", id, id)).collect()
    }

    /// Gives a token set another due point, for as long as it lasts.
    pub async fn put_due_point(&self, connection: &Connection, due_at: Option<Timestamp>) -> Result<(), StoreError> {
        let mut tx = self.db.begin_write().await?;
        let changed = on_tx!(&mut tx, |executor| {
            sqlx::query(sql::SET_DUE_POINT)
                .bind(connection.id.to_string())
                .bind(connection.generation)
                .bind(due_at.map(Timestamp::as_millis))
                .execute(executor)
                .await?
                .rows_affected()
        });
        if changed == 1 {
            put_due(&mut tx, connection.id, due_at).await?;
        }
        tx.commit().await?;
        self.cache.forget_connection(connection.id);
        Ok(())
    }

    /// Takes away what was claimed until `until`, because there is nothing to refresh. A connection that was connected
    /// anew since then keeps its new due point.
    pub async fn drop_due(&self, connection: ConnectionId, until: Timestamp) -> Result<(), StoreError> {
        on_db_write!(&self.db, |pool| {
            sqlx::query(sql::DROP_DUE).bind(connection.to_string()).bind(until.as_millis()).execute(pool).await?;
        });
        Ok(())
    }

    /// Moves the due point of a connection, or takes it away.
    pub async fn move_due(&self, connection: ConnectionId, due_at: Option<Timestamp>) -> Result<(), StoreError> {
        self.commit_shared(connection, Write::MoveDue(DueRow::of(connection, due_at))).await?;
        Ok(())
    }
}
