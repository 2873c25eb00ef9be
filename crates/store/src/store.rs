//! The facade.

use std::sync::{Arc, atomic::AtomicU64};

use valetkey_core::{ApiKey, Connector, ConnectorId, KeyId, KeyWrapper, SpaceId, UserId};
use valetkey_sealing::Sealer;

use crate::{
    Engine, cache::Cache, connections::OwnerTokens, data_keys::DataKeys, db::Db, group::Committer, prepare::Client,
    quotas::LocalQuotas,
};

/// The encrypted token store. Cheap to clone.
#[derive(Clone)]
pub struct TokenStore {
    pub(crate) db: Db,
    pub(crate) sealer: Sealer,
    pub(crate) data_keys: Arc<DataKeys>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) quotas: Arc<LocalQuotas>,
    /// Keys and connectors of PostgreSQL, with the revision under which they were read.
    pub(crate) shared_keys: Arc<Shared<KeyId, ApiKey>>,
    pub(crate) shared_connectors: Arc<Shared<ConnectorId, Connector>>,
    /// The same for refreshes, with the sealed client secrets, on both engines.
    pub(crate) clients: Arc<Shared<ConnectorId, Client>>,
    /// Counts what this process changes about circuits.
    pub(crate) circuit_changes: Arc<AtomicU64>,
    pub(crate) committer: Arc<Committer>,
}

/// What replicas keep in memory of rows that change rarely: valid only at the revision of the same call.
pub(crate) type Shared<K, V> = quick_cache::sync::Cache<K, (i64, Arc<V>)>;

/// How many keys, and how many connectors, are kept so.
const SHARED: usize = 10_000;

impl TokenStore {
    /// Puts an unlocked store together. Rows are cached only where this process is the only writer.
    pub(crate) fn assemble(db: Db, sealer: Sealer, wrappers: Vec<Arc<dyn KeyWrapper>>, cache_bytes: u64) -> Self {
        let cache = match db.engine() {
            Engine::Sqlite => Cache::new(cache_bytes),
            Engine::Postgres => Cache::off(),
        };
        Self {
            db,
            sealer,
            data_keys: Arc::new(DataKeys::new(wrappers)),
            cache: Arc::new(cache),
            quotas: Arc::default(),
            shared_keys: Arc::new(Shared::new(SHARED)),
            shared_connectors: Arc::new(Shared::new(SHARED)),
            clients: Arc::new(Shared::new(SHARED)),
            circuit_changes: Arc::default(),
            committer: Arc::default(),
        }
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
