//! What was acknowledged before the cut, and therefore has to be there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use valetkey_core::{ConnectorId, Fingerprint, KeyId};

/// What the writer says in the journal, at the moment when it holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "mark", rename_all = "snake_case")]
pub(crate) enum Mark {
    /// A connector was made.
    ConnectorCreated { id: ConnectorId },
    /// A key was made and shown.
    KeyCreated { id: KeyId, text: String },
    /// A key is about to be revoked: from here on it may be gone.
    KeyRevoking { id: KeyId },
    /// A key was revoked.
    KeyRevoked { id: KeyId },
    /// A token may be stored from here on.
    Offered { user: String, fingerprint: Fingerprint },
    /// A caller was told of a connection at this generation: an import, or a refresh that was handed out.
    Stored { user: String, generation: i64, fingerprint: Fingerprint },
    /// A refresh token reached the provider.
    Presented { fingerprint: Fingerprint },
    /// A connection is about to be revoked: from here on it may be gone.
    Revoking { user: String },
    /// A connection was revoked.
    Revoked { user: String },
}

impl Mark {
    /// Whether somebody was told something that has to hold.
    pub(crate) fn is_promise(&self) -> bool {
        !matches!(self, Self::KeyRevoking { .. } | Self::Offered { .. } | Self::Revoking { .. })
    }
}

/// How far the end of something got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// Nobody has asked for it.
    #[default]
    NotBegun,
    /// It was asked for: both ways are right.
    Begun,
    /// It was acknowledged.
    Acknowledged,
}

#[derive(Debug, Clone)]
pub(crate) struct KeyPromise {
    pub(crate) text: String,
    pub(crate) end: End,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionPromise {
    /// The highest generation that somebody was told of, with its token.
    pub(crate) told: Option<(i64, Fingerprint)>,
    /// Every token that may be stored.
    pub(crate) offered: BTreeSet<String>,
    pub(crate) end: End,
}

/// Everything that was promised so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Promises {
    pub(crate) connector: Option<ConnectorId>,
    pub(crate) keys: BTreeMap<KeyId, KeyPromise>,
    pub(crate) connections: BTreeMap<String, ConnectionPromise>,
    /// Refresh tokens that reached the provider: their attempts are on record.
    pub(crate) presented: Vec<Fingerprint>,
}

impl Promises {
    /// Takes one more mark into account.
    pub(crate) fn note(&mut self, mark: &Mark) {
        match mark {
            Mark::ConnectorCreated { id } => self.connector = Some(*id),
            Mark::KeyCreated { id, text } => {
                self.keys.insert(*id, KeyPromise { text: text.clone(), end: End::NotBegun });
            }
            Mark::KeyRevoking { id } => self.end_key(*id, End::Begun),
            Mark::KeyRevoked { id } => self.end_key(*id, End::Acknowledged),
            Mark::Offered { user, fingerprint } => {
                self.connection(user).offered.insert(fingerprint.to_string());
            }
            Mark::Stored { user, generation, fingerprint } => {
                let told = &mut self.connection(user).told;
                if told.as_ref().is_none_or(|(before, _)| before < generation) {
                    *told = Some((*generation, fingerprint.clone()));
                }
            }
            Mark::Presented { fingerprint } => self.presented.push(fingerprint.clone()),
            Mark::Revoking { user } => self.connection(user).end = End::Begun,
            Mark::Revoked { user } => self.connection(user).end = End::Acknowledged,
        }
    }

    fn end_key(&mut self, id: KeyId, end: End) {
        if let Some(key) = self.keys.get_mut(&id) {
            key.end = end;
        }
    }

    fn connection(&mut self, user: &str) -> &mut ConnectionPromise {
        self.connections.entry(user.to_owned()).or_default()
    }

    /// How many things have to hold.
    pub(crate) fn count(&self) -> usize {
        let told = self.connections.values().filter(|connection| connection.told.is_some()).count();
        usize::from(self.connector.is_some()) + self.keys.len() + told + self.presented.len()
    }
}
