//! Notices between replicas: an attempt has ended, look at its connection.
//!
//! A notice is a hint and may be lost with the connection it travels on; whoever waits for one looks for itself too.

use sqlx::{Executor as _, postgres::PgListener};
use tokio::time::timeout;
use valetkey_core::ConnectionId;

use crate::{Patience, StoreError, TokenStore, bounded::silence, db::Db, sql::notices as sql};

/// What is heard from all replicas, this one included.
pub struct Notices {
    listener: PgListener,
    patience: Patience,
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}

impl TokenStore {
    /// Whether other processes work on the same database, so that notices mean something.
    pub fn is_shared(&self) -> bool {
        matches!(self.db, Db::Postgres(_))
    }

    /// Tells every replica that attempts of these connections have ended. On SQLite nobody is there to be told.
    pub async fn announce(&self, connections: &[ConnectionId]) -> Result<(), StoreError> {
        let Db::Postgres(pool) = &self.db else { return Ok(()) };
        let ids: Vec<String> = connections.iter().map(ToString::to_string).collect();
        sqlx::query(sql::ANNOUNCE_POSTGRES).bind(sql::CHANNEL).bind(ids).execute(pool).await?;
        Ok(())
    }

    /// Listens from now on, over a connection beside the pool's. `None` on SQLite.
    pub async fn listen(&self) -> Result<Option<Notices>, StoreError> {
        let Db::Postgres(pool) = &self.db else { return Ok(None) };
        let mut listener = PgListener::connect_with(&pool.beside()).await?;
        listener.eager_reconnect(false);
        let patience = pool.patience();
        timeout(patience.connection, listener.listen(sql::CHANNEL)).await.unwrap_or_else(|_| Err(silence()))?;
        Ok(Some(Notices { listener, patience }))
    }
}

impl Notices {
    /// The next connection whose attempt has ended. `None`: the database is gone and notices may have been lost.
    pub async fn next(&mut self) -> Option<ConnectionId> {
        loop {
            match timeout(self.patience.statement, self.listener.try_recv()).await {
                Ok(Ok(Some(notice))) => {
                    // A newer replica may say more than this one understands.
                    if let Ok(id) = notice.payload().parse() {
                        return Some(id);
                    }
                }
                Err(_) if self.answers().await => {}
                Ok(Ok(None) | Err(_)) | Err(_) => return None,
            }
        }
    }

    /// A network that swallows everything sounds like replicas that have nothing to say.
    async fn answers(&mut self) -> bool {
        let question = self.listener.execute("SELECT 1");
        timeout(self.patience.connection, question).await.is_ok_and(|answer| answer.is_ok())
    }
}
