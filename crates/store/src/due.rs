//! Due refreshes: a narrow table whose rows move forward when they are claimed.

use valetkey_core::{ConnectionId, Timestamp};

use crate::{
    StoreError, TokenStore,
    db::{Db, on_db_write},
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

    /// Moves the due point of a connection, or takes it away.
    pub async fn move_due(&self, connection: ConnectionId, due_at: Option<Timestamp>) -> Result<(), StoreError> {
        let mut tx = self.db.begin_write().await?;
        crate::connections::put_due(&mut tx, connection, due_at).await?;
        tx.commit().await
    }
}
