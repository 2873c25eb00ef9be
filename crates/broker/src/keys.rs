//! Keys: made once, shown once, revoked for good.

use serde_json::json;
use valetkey_core::{
    Action, ApiKey, Caller, ConnectorId, KeyId, Operation, PresentedKey, Role, Secret, Subject, Timestamp,
};

use crate::{Broker, BrokerError, Fault, Resource, broker::require};

/// A key to make.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub roles: Vec<Role>,
    /// The only connectors that will exist for it; all of the space if absent.
    pub connectors: Option<Vec<ConnectorId>>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// A key that was made. Its text is shown once.
#[derive(Debug)]
pub struct CreatedKey {
    /// What is stored.
    pub key: ApiKey,
    /// `vk_…`
    pub text: Secret,
}

impl Broker {
    /// Makes a key in the caller's space.
    pub async fn create_key(&self, caller: &Caller, new: NewKey) -> Result<CreatedKey, BrokerError> {
        require(caller, Operation::KeyCreate)?;
        let now = self.now();
        self.check_key(caller, &new, now).await?;
        let id = KeyId::new(now, self.entropy());
        let (text, secret_hash) = PresentedKey::generate(id, self.entropy());
        let key = ApiKey {
            id,
            space: caller.space.clone(),
            name: new.name,
            roles: new.roles,
            connectors: new.connectors,
            secret_hash,
            created_at: now,
            expires_at: new.expires_at,
            revoked_at: None,
            last_used_at: None,
        };
        let subject = Subject { key_id: Some(id), ..Subject::default() };
        let mut event = self.event(&caller.space, caller.actor(), Action::KeyCreated, subject);
        event.detail = json!({
            "name": key.name, "roles": key.roles, "connectors": key.connectors, "expires_at": key.expires_at,
        });
        self.store().insert_key(&key, &event).await?;
        Ok(CreatedKey { key, text })
    }

    async fn check_key(&self, caller: &Caller, new: &NewKey, now: Timestamp) -> Result<(), BrokerError> {
        let mut faults = Vec::new();
        if new.name.trim().is_empty() || new.name.len() > 200 || new.name.chars().any(char::is_control) {
            faults.push(Fault::new("name", "has 1 to 200 bytes and no control characters"));
        }
        if new.roles.is_empty() {
            faults.push(Fault::new("roles", "names at least one role"));
        }
        if new.roles.contains(&Role::Shared) && !new.roles.contains(&Role::App) {
            faults.push(Fault::new("roles", "shared goes with app"));
        }
        let named = new.connectors.as_deref().unwrap_or_default();
        if new.roles.contains(&Role::Connector) && named.is_empty() {
            faults.push(Fault::new("connectors", "names at least one connector for the role connector"));
        }
        if new.connectors.as_ref().is_some_and(Vec::is_empty) {
            faults.push(Fault::new("connectors", "is left out, or names at least one"));
        }
        for id in named {
            let found = self.store().find_connector(&caller.space, *id).await?;
            if !found.is_some_and(|connector| caller.sees(connector.id)) {
                faults.push(Fault::new("connectors", format!("{id} is not a connector of this space")));
            }
        }
        // A narrowed caller cannot make a key that sees more than itself.
        if caller.connectors.is_some() && new.connectors.is_none() {
            faults.push(Fault::new("connectors", "must be named: your own key is narrowed to some"));
        }
        if new.expires_at.is_some_and(|at| at <= now) {
            faults.push(Fault::new("expires_at", "lies in the past"));
        }
        if faults.is_empty() { Ok(()) } else { Err(BrokerError::Invalid(faults)) }
    }

    /// Lists the keys of the caller's space, without their secrets.
    pub async fn list_keys(
        &self,
        caller: &Caller,
        after: Option<KeyId>,
        limit: i64,
    ) -> Result<Vec<ApiKey>, BrokerError> {
        require(caller, Operation::KeyList)?;
        let (mut listed, mut after) = (Vec::new(), after);
        loop {
            let page = self.store().list_keys(&caller.space, after, limit).await?;
            let is_last = i64::try_from(page.len()).unwrap_or(i64::MAX) < limit;
            after = page.last().map(|key| key.id);
            listed.extend(page.into_iter().filter(|key| exists_for(caller, key)));
            let wanted = usize::try_from(limit).unwrap_or_default();
            if is_last || listed.len() >= wanted {
                listed.truncate(wanted);
                return Ok(listed);
            }
        }
    }

    /// Revokes a key: the next call with it is refused, in every replica.
    pub async fn revoke_key(&self, caller: &Caller, id: KeyId) -> Result<ApiKey, BrokerError> {
        require(caller, Operation::KeyRevoke)?;
        let found = self.store().find_key(id).await?;
        if !found.is_some_and(|key| key.space == caller.space && exists_for(caller, &key)) {
            return Err(BrokerError::NotFound(Resource::Key));
        }
        let subject = Subject { key_id: Some(id), ..Subject::default() };
        let event = self.event(&caller.space, caller.actor(), Action::KeyRevoked, subject);
        let revoked = self.store().revoke_key(&caller.space, id, self.now(), &event).await?;
        revoked.ok_or(BrokerError::NotFound(Resource::Key))
    }
}

/// For a caller whose own key is narrowed, keys that see more than it does not exist.
fn exists_for(caller: &Caller, key: &ApiKey) -> bool {
    caller.connectors.is_none() || key.connectors.as_ref().is_some_and(|named| named.iter().all(|id| caller.sees(*id)))
}
