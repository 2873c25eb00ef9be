//! A caller: an authenticated API client with permissions in one space.

use crate::{Actor, ConnectorId, KeyId, Operation, Role, SpaceId, allowed_roles};

/// How a caller proved itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallerKind {
    /// With an API key.
    Key(KeyId),
    /// Over the socket in the data directory, or by opening the database itself.
    CommandLine,
}

/// An authenticated API client with permissions in one space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// How it proved itself.
    pub kind: CallerKind,
    /// The only space that exists for it.
    pub space: SpaceId,
    /// What it may do.
    pub roles: Vec<Role>,
    /// The only connectors that exist for it; `None` for all of the space.
    pub connectors: Option<Vec<ConnectorId>>,
}

impl Caller {
    /// Whether one of its roles allows the operation.
    pub fn may(&self, operation: Operation) -> bool {
        allowed_roles(operation).iter().any(|role| self.roles.contains(role))
    }

    /// Whether it has the role.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whether the connector exists for it.
    pub fn sees(&self, connector: ConnectorId) -> bool {
        self.connectors.as_ref().is_none_or(|named| named.contains(&connector))
    }

    /// Who acted, for the audit.
    pub fn actor(&self) -> Actor {
        match self.kind {
            CallerKind::Key(key_id) => Actor::Key { key_id },
            CallerKind::CommandLine => Actor::CommandLine,
        }
    }

    /// The key, if it came with one.
    pub fn key_id(&self) -> Option<KeyId> {
        match self.kind {
            CallerKind::Key(key_id) => Some(key_id),
            CallerKind::CommandLine => None,
        }
    }
}
