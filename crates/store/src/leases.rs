//! Leases: which replica does a piece of scheduled work.

use valetkey_core::Timestamp;

use crate::{StoreError, TokenStore, db::on_db_write, sql};

impl TokenStore {
    /// Takes a lease that is free or over, or renews the holder's own; `false` while another holds it.
    pub async fn take_lease(
        &self,
        name: &str,
        holder: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let taken: Option<String> = on_db_write!(&self.db, |pool| {
            sqlx::query_scalar(sql::admin::TAKE_LEASE)
                .bind(name)
                .bind(holder)
                .bind(until.as_millis())
                .bind(now.as_millis())
                .fetch_optional(pool)
                .await?
        });
        Ok(taken.is_some())
    }

    /// Gives a lease back early; does nothing if another took it meanwhile.
    pub async fn drop_lease(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        on_db_write!(&self.db, |pool| {
            sqlx::query(sql::admin::DROP_LEASE).bind(name).bind(holder).execute(pool).await?;
        });
        Ok(())
    }
}
