//! Rows in memory, still sealed, where this process is the only writer.
//!
//! A reader takes the epoch before it reads the database and may put a row only if nothing was written since: a write
//! forgets rows after its commit and before it is acknowledged, so no call that begins after the acknowledgement sees
//! what was there before.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use quick_cache::{Weighter, sync::Cache as QuickCache};
use valetkey_core::{ApiKey, ConnectionId, Connector, ConnectorId, KeyId, Label, Owner};

use crate::rows::StoredConnection;

const KEYS: usize = 10_000;
const CONNECTORS: usize = 10_000;
/// Roughly what one connection weighs, to size the tables.
const TYPICAL_WEIGHT: u64 = 2_000;

#[derive(Clone)]
struct ByWeight;

impl Weighter<ConnectionId, Arc<StoredConnection>> for ByWeight {
    fn weight(&self, _: &ConnectionId, connection: &Arc<StoredConnection>) -> u64 {
        connection.weight()
    }
}

struct Tables {
    keys: QuickCache<KeyId, Arc<ApiKey>>,
    connectors: QuickCache<ConnectorId, Arc<Connector>>,
    /// By a hash of connector, owner and label: what is found is compared with what was asked for.
    places: QuickCache<u64, ConnectionId>,
    connections: QuickCache<ConnectionId, Arc<StoredConnection>, ByWeight>,
    place_hasher: RandomState,
    epoch: Mutex<u64>,
}

impl Tables {
    /// Two places of one hash only push each other out.
    fn place(&self, connector: ConnectorId, owner: &Owner, label: &Label) -> u64 {
        self.place_hasher.hash_one((connector, owner, label))
    }
}

/// Sealed rows in memory, or nothing.
pub(crate) struct Cache {
    tables: Option<Tables>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.tables.as_ref().map(|tables| tables.connections.len());
        f.debug_struct("Cache").field("connections", &kept).finish()
    }
}

/// When a reader began: what it read may be put only while this still holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epoch(u64);

impl Cache {
    /// A cache of about `bytes` of connections.
    pub(crate) fn new(bytes: u64) -> Self {
        let expected = usize::try_from(bytes / TYPICAL_WEIGHT).unwrap_or(usize::MAX).max(16);
        Self {
            tables: Some(Tables {
                keys: QuickCache::new(KEYS),
                connectors: QuickCache::new(CONNECTORS),
                places: QuickCache::new(expected),
                connections: QuickCache::with_weighter(expected, bytes, ByWeight),
                place_hasher: RandomState::new(),
                epoch: Mutex::new(0),
            }),
        }
    }

    /// Keeps nothing: other replicas write too.
    pub(crate) fn off() -> Self {
        Self { tables: None }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.tables.as_ref().map_or(0, |tables| *tables.epoch.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Puts with `put` unless something was written since `epoch`.
    fn put(&self, epoch: Epoch, put: impl FnOnce(&Tables)) {
        if let Some(tables) = &self.tables {
            let current = tables.epoch.lock().unwrap_or_else(PoisonError::into_inner);
            if *current == epoch.0 {
                put(tables);
            }
        }
    }

    /// Forgets with `forget`, so that no reader that began before can put it back.
    fn forget(&self, forget: impl FnOnce(&Tables)) {
        if let Some(tables) = &self.tables {
            let mut current = tables.epoch.lock().unwrap_or_else(PoisonError::into_inner);
            *current += 1;
            forget(tables);
        }
    }

    pub(crate) fn key(&self, id: KeyId) -> Option<Arc<ApiKey>> {
        self.tables.as_ref()?.keys.get(&id)
    }

    pub(crate) fn put_key(&self, epoch: Epoch, key: &Arc<ApiKey>) {
        self.put(epoch, |tables| tables.keys.insert(key.id, Arc::clone(key)));
    }

    pub(crate) fn forget_key(&self, id: KeyId) {
        self.forget(|tables| drop(tables.keys.remove(&id)));
    }

    pub(crate) fn connector(&self, id: ConnectorId) -> Option<Arc<Connector>> {
        self.tables.as_ref()?.connectors.get(&id)
    }

    pub(crate) fn put_connector(&self, epoch: Epoch, connector: &Arc<Connector>) {
        self.put(epoch, |tables| tables.connectors.insert(connector.id, Arc::clone(connector)));
    }

    pub(crate) fn forget_connector(&self, id: ConnectorId) {
        self.forget(|tables| drop(tables.connectors.remove(&id)));
    }

    pub(crate) fn connection_at(
        &self,
        connector: ConnectorId,
        owner: &Owner,
        label: &Label,
    ) -> Option<Arc<StoredConnection>> {
        let tables = self.tables.as_ref()?;
        let id = tables.places.get(&tables.place(connector, owner, label))?;
        tables.connections.get(&id).filter(|stored| {
            let found = &stored.connection;
            found.connector_id == connector && found.owner == *owner && found.label == *label
        })
    }

    pub(crate) fn connection(&self, id: ConnectionId) -> Option<Arc<StoredConnection>> {
        self.tables.as_ref()?.connections.get(&id)
    }

    pub(crate) fn put_connection(&self, epoch: Epoch, stored: &Arc<StoredConnection>) {
        self.put(epoch, |tables| {
            let connection = &stored.connection;
            let place = tables.place(connection.connector_id, &connection.owner, &connection.label);
            tables.places.insert(place, connection.id);
            tables.connections.insert(connection.id, Arc::clone(stored));
        });
    }

    pub(crate) fn forget_connection(&self, id: ConnectionId) {
        self.forget(|tables| drop(tables.connections.remove(&id)));
    }

    /// Forgets everything, for writes that touch many rows.
    pub(crate) fn clear(&self) {
        self.forget(|tables| {
            tables.keys.clear();
            tables.connectors.clear();
            tables.places.clear();
            tables.connections.clear();
        });
    }
}
