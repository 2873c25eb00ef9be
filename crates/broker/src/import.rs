//! Import: grants that were made elsewhere move in, one line and one transaction each.

use serde_json::json;
use valetkey_core::{
    Action, AuthMode, Caller, ConnectionId, Connector, ConnectorId, Grant, Label, Operation, Owner, Secret, Subject,
    Timestamp, TokenSet, UserId,
};
use valetkey_store::{Connect, Connected};

use crate::{Broker, BrokerError, Fault, broker::require, schedule, start::EDITS};

/// One grant.
#[derive(Debug, Clone)]
pub struct ImportLine {
    /// The connector that it belongs to.
    pub connector_id: ConnectorId,
    /// Whose grant, on a `per_user` connector.
    pub user_id: Option<UserId>,
    /// Which of the owner's accounts.
    pub label: Label,
    /// The access token.
    pub access_token: Option<Secret>,
    /// The refresh token.
    pub refresh_token: Option<Secret>,
    /// When the access token ends.
    pub expires_at: Option<Timestamp>,
    /// When the refresh token ends.
    pub refresh_expires_at: Option<Timestamp>,
    /// The scopes granted; the connector's own if absent.
    pub scopes: Option<Vec<String>>,
    /// An active connection may be replaced.
    pub replace: bool,
}

/// Where a grant went.
#[derive(Debug, Clone, Copy)]
pub struct ImportReport {
    /// The connection.
    pub connection_id: ConnectionId,
    /// Its generation now.
    pub generation: i64,
}

/// What a provider's own answer has to be like, too, to be believed (RFC 6749, appendix A.12).
fn is_token(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=16 * 1024).contains(&bytes.len())
        && bytes.iter().all(|byte| (0x20..=0x7e).contains(byte))
        && text.trim() == text
}

impl Broker {
    /// Imports one grant. Without an access token its first refresh is due at once.
    pub async fn import(&self, caller: &Caller, line: &ImportLine) -> Result<ImportReport, BrokerError> {
        require(caller, Operation::Import)?;
        for _ in 0..EDITS {
            let connector = self.visible_connector(caller, line.connector_id).await?;
            match self.import_to(caller, &connector, line).await {
                Err(BrokerError::VersionConflict { .. }) => {}
                other => return other,
            }
        }
        let now = self.visible_connector(caller, line.connector_id).await?;
        Err(BrokerError::VersionConflict { current: now.version })
    }

    /// Imports one grant of the connector as it was read; a version conflict if it was edited meanwhile.
    async fn import_to(
        &self,
        caller: &Caller,
        connector: &Connector,
        line: &ImportLine,
    ) -> Result<ImportReport, BrokerError> {
        let mut faults = Vec::new();
        if connector.grant == Grant::ClientCredentials {
            faults.push(Fault::new("connector_id", "uses client credentials: there is nothing to import"));
        }
        match (connector.auth_mode, &line.user_id) {
            (AuthMode::PerUser, None) => faults.push(Fault::new("user_id", "is required on a per_user connector")),
            (AuthMode::Shared, Some(_)) => faults.push(Fault::new("user_id", "is refused on a shared connector")),
            _ => {}
        }
        if line.access_token.is_none() && line.refresh_token.is_none() {
            faults.push(Fault::new("refresh_token", "or access_token is required"));
        }
        for (field, token) in [("access_token", &line.access_token), ("refresh_token", &line.refresh_token)] {
            if token.as_ref().is_some_and(|token| !is_token(token.expose())) {
                faults.push(Fault::new(field, "has 1 to 16384 printable ASCII characters, and no space at its ends"));
            }
        }
        if !faults.is_empty() {
            return Err(BrokerError::Invalid(faults));
        }
        let facts = self.provider().facts(connector).await?;
        let now = self.now();
        let known = line.access_token.is_some();
        let tokens = TokenSet {
            // Never handed out: it has ended before it is stored, so the first caller waits for the refresh.
            access_token: line.access_token.clone().unwrap_or_else(|| self.entropy().token()),
            token_type: "Bearer".to_owned(),
            refresh_token: line.refresh_token.clone(),
            scopes: line.scopes.clone(),
            issued_at: now,
            expires_at: if known { line.expires_at } else { Some(now) },
            refresh_expires_at: line.refresh_expires_at,
            reconnect_by: None,
            account: None,
        };
        let scopes = line.scopes.clone().unwrap_or_else(|| connector.scopes.clone());
        let owner = line.user_id.clone().map_or(Owner::Shared, Owner::User);
        let drawn = schedule::due_at(&tokens, &facts, self.entropy()).map(|due| due.max(now));
        // A refresh token alone has nothing that could be served meanwhile.
        let due_at = if known { drawn } else { drawn.map(|_| now) };
        let connect = Connect {
            flow: None,
            new_id: ConnectionId::new(now, self.entropy()),
            connector,
            owner: &owner,
            label: &line.label,
            tokens: &tokens,
            requested_scopes: &scopes,
            granted_scopes: &scopes,
            due_at,
            weakly_bound: false,
            allow_account_change: true,
            replace_active: line.replace,
            revoke_replaced: None,
            now,
        };
        let subject = Subject { connector_id: Some(connector.id), owner: Some(owner.clone()), ..Subject::default() };
        let mut event = self.event(&caller.space, caller.actor(), Action::ConnectionImported, subject);
        event.detail = json!({ "replace": line.replace, "refresh_token": line.refresh_token.is_some() });
        match self.store().connect(&connect, event).await? {
            Connected::Stored(connection) => {
                Ok(ImportReport { connection_id: connection.id, generation: connection.generation })
            }
            Connected::ConnectorChanged => Err(BrokerError::VersionConflict { current: connector.version }),
            Connected::Occupied | Connected::AccountChanged | Connected::FlowOver => Err(BrokerError::ConnectionExists),
        }
    }
}
