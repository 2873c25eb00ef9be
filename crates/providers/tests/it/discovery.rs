//! Discovery by issuer over HTTP.

use std::{sync::Arc, time::Duration};

use valetkey_core::{Connector, ManualClock, RotationClass, Secret};
use valetkey_providers::{AuthorizationRequest, AuthorizationServer, DiscoveryFault, ProviderError, TokenOutcome};

use crate::support::{Act, Server, connector, loopback, provider, provider_at, refresh};

fn document(origin: &str, more: &str) -> Act {
    Act::json(
        200,
        &format!(
            r#"{{"issuer":"{origin}","authorization_endpoint":"{origin}/auth","token_endpoint":"{origin}/token"{more}}}"#
        ),
    )
}

fn at(server: &Server) -> Connector {
    let mut connector = connector("oidc");
    connector.issuer = Some(server.url(""));
    connector
}

#[tokio::test]
async fn endpoints_and_promises_come_from_the_issuer_once_an_hour() {
    let server = Server::with_script(|origin| {
        let more = format!(
            r#","revocation_endpoint":"{origin}/revoke","authorization_response_iss_parameter_supported":true"#
        );
        vec![document(origin, &more)]
    })
    .await;
    let clock = Arc::new(ManualClock::new());
    let provider = provider_at(loopback(server.address), clock.clone());
    let connector = at(&server);
    let facts = provider.facts(&connector).await.unwrap();
    assert_eq!(facts.issuer, Some(server.url("")));
    assert!(facts.iss_required);
    assert!(facts.revocable);
    assert_eq!(facts.rotation, RotationClass::StrictWide);
    assert!(server.seen()[0].head.starts_with("GET /.well-known/openid-configuration "));
    for _ in 0..20 {
        provider.facts(&connector).await.unwrap();
    }
    assert_eq!(server.seen().len(), 1);
    clock.advance(Duration::from_secs(3601));
    provider.facts(&connector).await.unwrap();
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn many_askers_send_one_request() {
    let server = Server::with_script(|origin| vec![document(origin, "")]).await;
    let provider = Arc::new(provider(&server));
    let connector = at(&server);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let (provider, connector) = (provider.clone(), connector.clone());
        tasks.spawn(async move { provider.facts(&connector).await.is_ok() });
    }
    assert!(tasks.join_all().await.into_iter().all(|ok| ok));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn stale_metadata_serves_while_the_issuer_is_down() {
    let server = Server::with_script(|origin| vec![document(origin, ""), Act::json(503, "{}")]).await;
    let clock = Arc::new(ManualClock::new());
    let provider = provider_at(loopback(server.address), clock.clone());
    let connector = at(&server);
    provider.facts(&connector).await.unwrap();
    clock.advance(Duration::from_secs(3601));
    for _ in 0..5 {
        assert!(provider.facts(&connector).await.is_ok());
    }
    assert_eq!(server.seen().len(), 2, "a failure is believed for a while");
    clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(
        provider.facts(&connector).await,
        Err(ProviderError::Discovery { cause: DiscoveryFault::Status { status: 503 } })
    );
}

#[tokio::test]
async fn an_issuer_of_another_name_is_not_believed() {
    let server = Server::with_script(|origin| vec![document(&format!("{origin}/"), "")]).await;
    assert_eq!(
        provider(&server).facts(&at(&server)).await,
        Err(ProviderError::Discovery { cause: DiscoveryFault::OtherIssuer })
    );
}

#[tokio::test]
async fn metadata_cannot_lead_inside() {
    let server = Server::with_script(|origin| {
        let body = format!(r#"{{"issuer":"{origin}","token_endpoint":"http://169.254.169.254/token"}}"#);
        vec![Act::json(200, &body)]
    })
    .await;
    let provider = provider(&server);
    let connector = at(&server);
    assert_eq!(provider.facts(&connector).await, Err(ProviderError::Discovery { cause: DiscoveryFault::BadEndpoint }));
    let outcome = refresh(&provider, &connector).await;
    assert!(matches!(outcome, TokenOutcome::NotSent(_)), "{outcome:?}");
}

#[tokio::test]
async fn where_openid_is_not_found_rfc_8414_is_asked() {
    let server = Server::with_script(|origin| {
        let issuer = format!("{origin}/tenant");
        vec![Act::answer(404, "", ""), document(&issuer, "")]
    })
    .await;
    let mut connector = at(&server);
    connector.issuer = Some(server.url("/tenant"));
    assert!(provider(&server).facts(&connector).await.is_ok());
    assert!(server.seen()[1].head.starts_with("GET /.well-known/oauth-authorization-server/tenant "));
}

#[tokio::test]
async fn redirects_of_an_issuer_are_not_followed() {
    let server = Server::start(vec![Act::answer(302, "location: /other\r\n", "")]).await;
    assert_eq!(
        provider(&server).facts(&at(&server)).await,
        Err(ProviderError::Discovery { cause: DiscoveryFault::Status { status: 302 } })
    );
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn the_issuers_way_to_authenticate_is_used() {
    let server = Server::with_script(|origin| {
        let more = r#","token_endpoint_auth_methods_supported":["client_secret_post"]"#;
        vec![document(origin, more), Act::json(200, r#"{"access_token":"a"}"#)]
    })
    .await;
    assert_eq!(refresh(&provider(&server), &at(&server)).await.code(), "granted");
    let seen = &server.seen()[1];
    assert!(seen.head.starts_with("POST /token "));
    assert_eq!(seen.form("client_secret").as_deref(), Some("s-1"));
    assert_eq!(seen.header("authorization"), None);
}

#[tokio::test]
async fn a_connector_adds_what_discovery_lacks() {
    let server = Server::with_script(|origin| vec![document(origin, "")]).await;
    let provider = provider(&server);
    let mut connector = at(&server);
    assert!(!provider.facts(&connector).await.unwrap().revocable);
    connector.endpoints.revocation = Some(server.url("/revoke"));
    assert!(provider.facts(&connector).await.unwrap().revocable);
}

#[tokio::test]
async fn what_answers_show_moves_an_unknown_class() {
    let server = Server::with_script(|origin| vec![document(origin, "")]).await;
    let provider = provider(&server);
    let mut connector = at(&server);
    for (rotated, unrotated, stated, wanted) in [
        (false, 0, None, RotationClass::StrictWide),
        (false, 1, None, RotationClass::StrictWide),
        (false, 2, None, RotationClass::NonRotating),
        (true, 2, None, RotationClass::StrictWide),
        (true, 0, Some(RotationClass::Grace { seconds: 30 }), RotationClass::Grace { seconds: 30 }),
    ] {
        connector.observed_rotation.rotated = rotated;
        connector.observed_rotation.unrotated_in_a_row = unrotated;
        connector.rotation = stated;
        assert_eq!(provider.facts(&connector).await.unwrap().rotation, wanted);
    }
    // A profile's class moves upwards only.
    let mut salesforce = crate::support::connector("salesforce");
    assert_eq!(provider.facts(&salesforce).await.unwrap().rotation, RotationClass::NonRotating);
    salesforce.observed_rotation.rotated = true;
    assert_eq!(provider.facts(&salesforce).await.unwrap().rotation, RotationClass::Strict);
    let mut google = crate::support::connector("google");
    google.observed_rotation.rotated = true;
    assert_eq!(provider.facts(&google).await.unwrap().rotation, RotationClass::StrictWide);
}

/// OpenID Connect Core, section 11: without `prompt=consent` a request for offline access brings no refresh token.
#[tokio::test]
async fn offline_access_is_asked_for_with_consent() {
    let server = Server::with_script(|origin| vec![document(origin, "")]).await;
    let provider = provider(&server);
    for (scopes, prompt) in [(&["openid"][..], None), (&["openid", "offline_access"][..], Some("consent"))] {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let request = AuthorizationRequest {
            redirect_uri: "https://vk.example/oauth/callback/ctr_1",
            state: &Secret::from("state-1"),
            verifier: &Secret::from("v".repeat(43)),
            nonce: &Secret::from("nonce-1"),
            scopes: &scopes,
            login_hint: None,
        };
        let url = provider.authorization_url(&at(&server), &request).await.unwrap();
        let found = url.query_pairs().find(|(name, _)| name == "prompt").map(|(_, value)| value.into_owned());
        assert_eq!(found.as_deref(), prompt);
    }
}
