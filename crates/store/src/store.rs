//! The facade.

use std::sync::Arc;

use valetkey_core::{Connector, ConnectorId, SpaceId, UserId};
use valetkey_sealing::Sealer;

use crate::{Engine, cache::Cache, connections::OwnerTokens, db::Db, quotas::LocalQuotas};

/// The encrypted token store. Cheap to clone.
#[derive(Clone)]
pub struct TokenStore {
    pub(crate) db: Db,
    pub(crate) sealer: Sealer,
    pub(crate) cache: Arc<Cache>,
    pub(crate) quotas: Arc<LocalQuotas>,
    pub(crate) parsed: Arc<quick_cache::sync::Cache<ConnectorId, Arc<Connector>>>,
}

/// Connectors kept parsed, by version, where every token call reads the database.
const PARSED_CONNECTORS: usize = 10_000;

impl TokenStore {
    /// Puts an unlocked store together. Rows are cached only where this process is the only writer.
    pub(crate) fn assemble(db: Db, sealer: Sealer, cache_bytes: u64) -> Self {
        let cache = match db.engine() {
            Engine::Sqlite => Cache::new(cache_bytes),
            Engine::Postgres => Cache::off(),
        };
        let parsed = Arc::new(quick_cache::sync::Cache::new(PARSED_CONNECTORS));
        Self { db, sealer, cache: Arc::new(cache), quotas: Arc::default(), parsed }
    }

    /// The engine.
    pub fn engine(&self) -> Engine {
        self.db.engine()
    }

    /// The tokens of a connector that everybody shares.
    pub fn shared(&self, space: &SpaceId, connector: ConnectorId) -> OwnerTokens<'_> {
        OwnerTokens::new(self, space, connector, valetkey_core::Owner::Shared)
    }

    /// The tokens of one user at a connector.
    pub fn user(&self, space: &SpaceId, connector: ConnectorId, user: &UserId) -> OwnerTokens<'_> {
        OwnerTokens::new(self, space, connector, valetkey_core::Owner::User(user.clone()))
    }

    /// Closes all connections to the database.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

impl std::fmt::Debug for TokenStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenStore").field("engine", &self.engine()).field("cache", &self.cache).finish_non_exhaustive()
    }
}
