//! Every call that leaves for a provider, one after the other.

use std::collections::BTreeMap;

use valetkey_core::{Connector, Grant, Secret, TokenKind, TokenSet};
use valetkey_providers::{AuthorizationServer, CodeExchange, HttpAuthorizationServer, RevokeOutcome, TokenOutcome};

use crate::support::{Server, connector, generic, refresh, secrets};

/// What became of a call.
pub(crate) struct Called {
    pub(crate) name: &'static str,
    pub(crate) went_well: bool,
}

pub(crate) async fn exchange(provider: &HttpAuthorizationServer, connector: &Connector) -> TokenOutcome {
    let request = CodeExchange {
        code: &Secret::from("c-1"),
        redirect_uri: "https://vk.example/oauth/callback/ctr_1",
        verifier: &Secret::from("v".repeat(43)),
        nonce: &Secret::from("nonce-1"),
        kept: &BTreeMap::new(),
    };
    provider.exchange(connector, &secrets(&["s-1"]), &request).await
}

pub(crate) fn granted(outcome: TokenOutcome) -> TokenSet {
    match outcome {
        TokenOutcome::Granted(tokens) => *tokens,
        other => panic!("{other:?}"),
    }
}

/// Token, revocation and discovery calls to this server.
pub(crate) async fn every_call(provider: &HttpAuthorizationServer, server: &Server) -> Vec<Called> {
    let generic = generic(server);
    let mut client = generic.clone();
    client.grant = Grant::ClientCredentials;
    let mut by_discovery = connector("oidc");
    by_discovery.issuer = Some(server.url(""));
    let (secrets, token) = (secrets(&["s-1"]), Secret::from("t-1"));
    let is_granted = |outcome: TokenOutcome| outcome.code() == "granted";
    let is_confirmed = |outcome| outcome == RevokeOutcome::Confirmed;
    let called = |name, went_well| Called { name, went_well };
    vec![
        called("refresh", is_granted(refresh(provider, &generic).await)),
        called("exchange", is_granted(exchange(provider, &generic).await)),
        called("client credentials", is_granted(provider.client_credentials(&client, &secrets, &[]).await)),
        called("revoke", is_confirmed(provider.revoke(&generic, &secrets, &token, TokenKind::Refresh).await)),
        called("revoke access", is_confirmed(provider.revoke(&generic, &secrets, &token, TokenKind::Access).await)),
        called("discovery", provider.facts(&by_discovery).await.is_ok()),
    ]
}
