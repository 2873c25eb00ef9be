//! Rows in memory, still sealed, where this process is the only writer.
//!
//! A reader takes the epoch before it reads the database and may put a row only if nothing was written since: a write
//! forgets rows after its commit and before it is acknowledged, so no call that begins after the acknowledgement sees
//! what was there before.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use quick_cache::{Equivalent, Weighter, sync::Cache as QuickCache};
use valetkey_core::{ApiKey, ConnectionId, Connector, ConnectorId, KeyId, Label, Owner};

use crate::rows::StoredConnection;

const KEYS: usize = 10_000;
const CONNECTORS: usize = 10_000;
/// Roughly what one connection weighs, to size the tables.
const TYPICAL_WEIGHT: u64 = 2_000;

/// Where a connection is found: connector, owner, label.
#[derive(Clone, PartialEq, Eq)]
struct Place {
    connector: ConnectorId,
    owner: Owner,
    label: Label,
}

/// The same, borrowed.
struct PlaceRef<'a> {
    connector: ConnectorId,
    owner: &'a Owner,
    label: &'a Label,
}

fn hash_place<H: Hasher>(connector: ConnectorId, owner: &Owner, label: &Label, state: &mut H) {
    connector.hash(state);
    owner.hash(state);
    label.hash(state);
}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_place(self.connector, &self.owner, &self.label, state);
    }
}

impl Hash for PlaceRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_place(self.connector, self.owner, self.label, state);
    }
}

impl Equivalent<Place> for PlaceRef<'_> {
    fn equivalent(&self, key: &Place) -> bool {
        self.connector == key.connector && *self.owner == key.owner && *self.label == key.label
    }
}

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
    places: QuickCache<Place, ConnectionId>,
    connections: QuickCache<ConnectionId, Arc<StoredConnection>, ByWeight>,
    epoch: Mutex<u64>,
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
        let id = tables.places.get(&PlaceRef { connector, owner, label })?;
        tables.connections.get(&id)
    }

    pub(crate) fn connection(&self, id: ConnectionId) -> Option<Arc<StoredConnection>> {
        self.tables.as_ref()?.connections.get(&id)
    }

    pub(crate) fn put_connection(&self, epoch: Epoch, stored: &Arc<StoredConnection>) {
        self.put(epoch, |tables| {
            let connection = &stored.connection;
            let place = Place {
                connector: connection.connector_id,
                owner: connection.owner.clone(),
                label: connection.label.clone(),
            };
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
