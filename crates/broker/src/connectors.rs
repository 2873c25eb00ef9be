//! Connectors: made, edited within what an edit may change, deleted with all their connections.

use std::collections::BTreeMap;

use serde_json::json;
use valetkey_core::{
    Action, AuthMode, Binding, Caller, Connector, ConnectorId, Endpoints, Grant, ObservedRotation, Operation,
    RevocationReason, RotationClass, Secret, Subject,
};

use crate::{
    Broker, BrokerError, Fault, Resource,
    broker::require,
    targets::{check_origin, check_return_url},
};

/// Connections revoked in one transaction when a connector is deleted.
const BATCH: i64 = 2_000;

/// A connector to make.
#[derive(Debug, Clone)]
pub struct NewConnector {
    /// What people call it.
    pub name: String,
    /// The provider's profile.
    pub provider: String,
    /// Whose grants it holds.
    pub auth_mode: AuthMode,
    /// The grant type.
    pub grant: Grant,
    /// The client id at the provider.
    pub client_id: String,
    /// The client secrets, tried in order.
    pub client_secrets: Vec<Secret>,
    /// Scopes asked for in each flow.
    pub scopes: Vec<String>,
    /// Scopes that a flow may ask for in addition.
    pub optional_scopes: Vec<String>,
    /// Values for the profile's placeholders.
    pub settings: BTreeMap<String, String>,
    /// The issuer.
    pub issuer: Option<String>,
    /// Endpoints given by the operator.
    pub endpoints: Endpoints,
    /// The rotation class, where it depends on the provider's settings.
    pub rotation: Option<RotationClass>,
    /// How flows are bound.
    pub binding: Binding,
    /// Where browsers may be sent back to.
    pub return_urls: Vec<String>,
    /// Origins that may open a popup.
    pub origins: Vec<String>,
}

/// An edit. Absent fields stay as they are.
#[derive(Debug, Clone, Default)]
pub struct ConnectorPatch {
    /// The version that the editor saw; a newer one refuses the edit.
    pub version: Option<i64>,
    /// What people call it.
    pub name: Option<String>,
    /// Fixed once a flow or connection exists.
    pub provider: Option<String>,
    /// Fixed once a flow or connection exists.
    pub auth_mode: Option<AuthMode>,
    /// Fixed once a flow or connection exists.
    pub grant: Option<Grant>,
    /// Fixed once a flow or connection exists.
    pub client_id: Option<String>,
    /// The client secrets, tried in order; replaces the whole list.
    pub client_secrets: Option<Vec<Secret>>,
    /// Scopes asked for in each flow.
    pub scopes: Option<Vec<String>>,
    /// Scopes that a flow may ask for in addition.
    pub optional_scopes: Option<Vec<String>>,
    /// Fixed once a flow or connection exists.
    pub settings: Option<BTreeMap<String, String>>,
    /// Fixed once a flow or connection exists.
    pub issuer: Option<String>,
    /// Fixed once a flow or connection exists.
    pub endpoints: Option<Endpoints>,
    /// The rotation class.
    pub rotation: Option<RotationClass>,
    /// How flows are bound.
    pub binding: Option<Binding>,
    /// Where browsers may be sent back to.
    pub return_urls: Option<Vec<String>>,
    /// Origins that may open a popup.
    pub origins: Option<Vec<String>>,
}

impl Broker {
    /// Makes a connector in the caller's space.
    pub async fn create_connector(&self, caller: &Caller, new: NewConnector) -> Result<Connector, BrokerError> {
        require(caller, Operation::ConnectorCreate)?;
        if caller.connectors.is_some() {
            // What a narrowed key makes would not exist for it.
            return Err(BrokerError::Forbidden(Operation::ConnectorCreate));
        }
        let now = self.now();
        let secrets = new.client_secrets;
        let connector = Connector {
            id: ConnectorId::new(now, self.entropy()),
            space: caller.space.clone(),
            name: new.name,
            provider: new.provider,
            auth_mode: new.auth_mode,
            grant: new.grant,
            client_id: new.client_id,
            secret_count: secrets.len(),
            scopes: new.scopes,
            optional_scopes: new.optional_scopes,
            settings: new.settings,
            issuer: new.issuer,
            endpoints: new.endpoints,
            rotation: new.rotation,
            observed_rotation: ObservedRotation::default(),
            binding: new.binding,
            return_urls: new.return_urls,
            origins: new.origins,
            version: 1,
            created_at: now,
            updated_at: now,
            deleted_at: None,
        };
        self.check_connector(&connector, &secrets)?;
        let event = self.connector_event(caller, &connector, Action::ConnectorCreated);
        self.store().insert_connector(&connector, &secrets, &event).await?;
        Ok(connector)
    }

    /// Edits a connector. What it *is* cannot change once a flow or connection exists: an edit must never send stored
    /// secrets to another host.
    pub async fn update_connector(
        &self,
        caller: &Caller,
        id: ConnectorId,
        patch: ConnectorPatch,
    ) -> Result<Connector, BrokerError> {
        require(caller, Operation::ConnectorUpdate)?;
        let current = self.visible_connector(caller, id).await?;
        if patch.version.is_some_and(|seen| seen != current.version) {
            return Err(BrokerError::VersionConflict { current: current.version });
        }
        let secrets = patch.client_secrets.clone();
        let mut edited = apply(&current, patch);
        if let Some(secrets) = &secrets {
            edited.secret_count = secrets.len();
        }
        let fixed = changed_fixed(&current, &edited);
        if !fixed.is_empty() {
            if self.store().connector_in_use(id).await? {
                return Err(BrokerError::ConnectorInUse(fixed));
            }
            if secrets.is_none() && current.secret_count > 0 {
                let message = "must be given again: the stored ones were meant for another client or host";
                return Err(BrokerError::Invalid(vec![Fault::new("client_secrets", message)]));
            }
        }
        edited.version = current.version + 1;
        edited.updated_at = self.now();
        self.check_connector(&edited, secrets.as_deref().unwrap_or_default())?;
        let mut event = self.connector_event(caller, &edited, Action::ConnectorUpdated);
        event.detail["secrets_replaced"] = json!(secrets.is_some());
        if !self.store().update_connector(&edited, current.version, secrets.as_deref(), &event).await? {
            let now = self.visible_connector(caller, id).await?;
            return Err(BrokerError::VersionConflict { current: now.version });
        }
        // The operator's mend: what waited for the next probe is tried at once, by whoever asks first.
        if secrets.is_some() && self.store().release_circuit(id, self.now()).await? {
            tracing::info!(connector.id = %id, "the client secrets of {id} were replaced: its circuit is closed");
        }
        Ok(edited)
    }

    /// One connector.
    pub async fn show_connector(&self, caller: &Caller, id: ConnectorId) -> Result<Connector, BrokerError> {
        require(caller, Operation::ConnectorShow)?;
        self.visible_connector(caller, id).await
    }

    /// The connectors that exist for the caller.
    pub async fn list_connectors(
        &self,
        caller: &Caller,
        after: Option<ConnectorId>,
        limit: i64,
    ) -> Result<Vec<Connector>, BrokerError> {
        require(caller, Operation::ConnectorList)?;
        let only = caller.connectors.as_deref();
        Ok(self.store().list_connectors(&caller.space, only, after, limit).await?)
    }

    /// Deletes a connector: absent to everyone at once, its connections revoked, its secrets kept until their
    /// revocations are over. Answers with the number of connections revoked.
    pub async fn delete_connector(&self, caller: &Caller, id: ConnectorId) -> Result<u64, BrokerError> {
        require(caller, Operation::ConnectorDelete)?;
        let connector = self.visible_connector(caller, id).await?;
        let event = self.connector_event(caller, &connector, Action::ConnectorDeleted);
        if !self.store().delete_connector(&caller.space, id, self.now(), &event).await? {
            return Err(BrokerError::NotFound(Resource::Connector));
        }
        let mut revoked = 0;
        loop {
            let live = self.store().live_connections_of(id, BATCH).await?;
            if live.is_empty() {
                return Ok(revoked);
            }
            let reason = RevocationReason::ConnectorDeleted;
            let done = self.revoke_all(&caller.space, &live, reason, caller.actor()).await?;
            revoked += u64::try_from(done.len()).unwrap_or(0);
        }
    }

    fn connector_event(&self, caller: &Caller, connector: &Connector, action: Action) -> valetkey_core::AuditEvent {
        let subject = Subject { connector_id: Some(connector.id), ..Subject::default() };
        let mut event = self.event(&caller.space, caller.actor(), action, subject);
        event.detail = json!({
            "name": connector.name, "provider": connector.provider, "version": connector.version,
            "auth_mode": connector.auth_mode, "scopes": connector.scopes, "binding": connector.binding,
            "return_urls": connector.return_urls, "origins": connector.origins,
        });
        event
    }

    fn check_connector(&self, connector: &Connector, secrets: &[Secret]) -> Result<(), BrokerError> {
        let mut faults = Vec::new();
        let clean = |text: &str, most: usize| {
            !text.trim().is_empty() && text.len() <= most && !text.chars().any(char::is_control)
        };
        if !clean(&connector.name, 200) {
            faults.push(Fault::new("name", "has 1 to 200 bytes and no control characters"));
        }
        if !clean(&connector.client_id, 512) {
            faults.push(Fault::new("client_id", "has 1 to 512 bytes and no control characters"));
        }
        if secrets.len() > 5 || secrets.iter().any(|secret| !clean(secret.expose(), 4_096)) {
            faults.push(Fault::new("client_secrets", "are at most 5, of 1 to 4096 bytes each"));
        }
        if connector.grant == Grant::ClientCredentials && connector.auth_mode == AuthMode::PerUser {
            faults.push(Fault::new("grant", "client_credentials goes with auth_mode shared: there is no user"));
        }
        check_scopes(connector, &mut faults);
        for (field, list, check) in [
            ("return_urls", &connector.return_urls, check_return_url as fn(&str) -> Result<url::Url, &'static str>),
            ("origins", &connector.origins, check_origin),
        ] {
            if list.len() > 50 {
                faults.push(Fault::new(field, "are at most 50"));
            }
            for text in list {
                if let Err(why) = check(text) {
                    faults.push(Fault::new(field, format!("`{text}`: {why}")));
                }
            }
        }
        if let Err(errors) = self.inner.parts.authorization_server.validate(connector) {
            faults.extend(errors.iter().map(|error| Fault::new(error.field(), error.to_string())));
        }
        if faults.is_empty() { Ok(()) } else { Err(BrokerError::Invalid(faults)) }
    }
}

fn check_scopes(connector: &Connector, faults: &mut Vec<Fault>) {
    // RFC 6749, section 3.3: printable ASCII without space, quote and backslash.
    let valid = |scope: &String| {
        (1..=300).contains(&scope.len()) && scope.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b'"' && b != b'\\')
    };
    for (field, scopes) in [("scopes", &connector.scopes), ("optional_scopes", &connector.optional_scopes)] {
        if scopes.len() > 200 || !scopes.iter().all(valid) {
            faults.push(Fault::new(field, "are at most 200, each of 1 to 300 printable characters without spaces"));
        }
    }
}

fn apply(current: &Connector, patch: ConnectorPatch) -> Connector {
    let mut edited = current.clone();
    macro_rules! set {
        ($($field:ident),+) => { $(if let Some(value) = patch.$field { edited.$field = value; })+ };
    }
    set!(name, provider, auth_mode, grant, client_id, scopes, optional_scopes, settings, endpoints, binding);
    set!(return_urls, origins);
    edited.issuer = patch.issuer.or(edited.issuer);
    edited.rotation = patch.rotation.or(edited.rotation);
    edited
}

/// The fields that say what a connector is, and differ.
fn changed_fixed(current: &Connector, edited: &Connector) -> Vec<&'static str> {
    let mut changed = Vec::new();
    macro_rules! compare {
        ($($field:ident),+) => { $(if current.$field != edited.$field { changed.push(stringify!($field)); })+ };
    }
    compare!(provider, issuer, endpoints, settings, client_id, auth_mode, grant);
    changed
}
