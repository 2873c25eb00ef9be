//! Rows of connections, flows, attempts and revocations as tests want them, in whatever state.

use valetkey_core::{ConnectionId, Connector, FlowId, RevocationId, SystemEntropy, Timestamp};

use super::support::run;
use crate::TokenStore;

/// A connection's row; change what a test is about.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) owner: &'static str,
    pub(crate) label: &'static str,
    pub(crate) provider: &'static str,
    pub(crate) status: &'static str,
    pub(crate) reason: Option<&'static str>,
    pub(crate) refresh_token: bool,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

impl Row {
    pub(crate) fn new(owner: &'static str, now: Timestamp) -> Self {
        Self {
            owner,
            label: "",
            provider: "oauth2",
            status: "active",
            reason: None,
            refresh_token: true,
            created_at: now,
            updated_at: now,
        }
    }

    pub(crate) fn status(self, status: &'static str) -> Self {
        Self { status, ..self }
    }

    pub(crate) async fn put(&self, store: &TokenStore, connector: &Connector) -> ConnectionId {
        let id = ConnectionId::new(self.created_at, &SystemEntropy);
        let (space, connector) = (&connector.space, connector.id);
        let Self { owner, label, provider, status, .. } = self;
        let (created, updated) = (self.created_at.as_millis(), self.updated_at.as_millis());
        let (reason, since) = match self.reason {
            Some(reason) => (format!("'{reason}'"), updated.to_string()),
            None => ("NULL".to_owned(), "NULL".to_owned()),
        };
        let refresh = if self.refresh_token { "'sealed'" } else { "NULL" };
        run(
            store,
            &format!(
                "INSERT INTO connections (id, space_id, connector_id, provider, owner, label, status, reauth_reason,
                    reauth_since, requested_scopes, granted_scopes, generation, token_type, access_token, refresh_token,
                    issued_at, refreshing, weakly_bound, created_at, updated_at)
                 VALUES ('{id}', '{space}', '{connector}', '{provider}', '{owner}', '{label}', '{status}', {reason},
                    {since}, '[]', '[]', 2, 'Bearer', 'sealed', {refresh}, {created}, 'ok', false, {created}, {updated})"
            ),
        )
        .await;
        id
    }
}

pub(crate) async fn put_flow(
    store: &TokenStore,
    connector: &Connector,
    status: &str,
    expires_at: Timestamp,
    ended_at: Option<Timestamp>,
) -> FlowId {
    let id = FlowId::new(expires_at, &SystemEntropy);
    let (space, connector) = (&connector.space, connector.id);
    let (expires, ended) =
        (expires_at.as_millis(), ended_at.map_or("NULL".to_owned(), |at| at.as_millis().to_string()));
    run(
        store,
        &format!(
            "INSERT INTO flows (id, space_id, connector_id, started_by, owner, label, mode, return_url, scopes,
                allow_account_change, status, ticket_hash, state_hash, verifier, nonce, code, created_at, expires_at,
                ended_at)
             VALUES ('{id}', '{space}', '{connector}', 'key', 'u:1', '', 'popup', 'https://app.example/', '[]', false,
                '{status}', '{id}', '{id}', 'sealed', 'sealed', 'sealed', {expires}, {expires}, {ended})"
        ),
    )
    .await;
    id
}

pub(crate) async fn put_attempt(store: &TokenStore, connection: ConnectionId, generation: i64, updated_at: Timestamp) {
    let updated = updated_at.as_millis();
    run(
        store,
        &format!(
            "INSERT INTO attempts (connection_id, generation, id, state, send_no, holder, lease_until, next_try_at,
                fingerprint, created_at, updated_at)
             VALUES ('{connection}', {generation}, 'att', 'settled', 1, 'h', 0, 0, 'f', {updated}, {updated})"
        ),
    )
    .await;
}

pub(crate) async fn put_revocation(
    store: &TokenStore,
    connector: &Connector,
    connection: ConnectionId,
    state: &str,
    updated_at: Timestamp,
) -> RevocationId {
    let id = RevocationId::new(updated_at, &SystemEntropy);
    let (space, connector, updated) = (&connector.space, connector.id, updated_at.as_millis());
    run(
        store,
        &format!(
            "INSERT INTO revocations (id, space_id, connection_id, connector_id, owner, label, generation, token_kind,
                sealed_in, reason, state, tries, created_at, updated_at)
             VALUES ('{id}', '{space}', '{connection}', '{connector}', 'u:1', '', 2, 'refresh', 'connections',
                'operator', '{state}', 0, {updated}, {updated})"
        ),
    )
    .await;
    id
}
