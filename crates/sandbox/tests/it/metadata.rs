use serde_json::{Value, json};
use valetkey_sandbox::{Rotation, SandboxSettings};

use crate::support::{Bench, CLIENT, SECRET, reply};

async fn document(bench: &Bench, path: &str) -> (u16, Value) {
    reply(bench.http.get(bench.url(path)).send().await.unwrap()).await
}

#[tokio::test]
async fn both_documents_name_the_issuer_and_its_endpoints() {
    let bench = Bench::start(SandboxSettings::default()).await;
    for path in ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"] {
        let (status, body) = document(&bench, path).await;
        assert_eq!(status, 200);
        assert_eq!(body["issuer"], bench.sandbox.base_url());
        assert_eq!(body["token_endpoint"], bench.url("/token"));
        assert_eq!(body["authorization_response_iss_parameter_supported"], true);
    }
    assert_eq!(document(&bench, "/jwks").await.1, json!({"keys": []}));
}

#[tokio::test]
async fn the_documents_can_be_wrong_in_each_scripted_way() {
    let bench = Bench::start(SandboxSettings::default()).await;
    bench.control.update_settings(|settings| {
        settings.discovery.advertise_iss = false;
        settings.discovery.issuer = Some("https://other.example".to_owned());
        settings.discovery.omit = vec!["revocation_endpoint".to_owned()];
        settings.discovery.extra.insert("token_endpoint".to_owned(), json!("http://127.0.0.1:9/t"));
        settings.discovery.oauth = false;
    });
    let (_, body) = document(&bench, "/.well-known/openid-configuration").await;
    assert_eq!(body["issuer"], "https://other.example");
    assert_eq!(body["token_endpoint"], "http://127.0.0.1:9/t");
    assert!(body.get("revocation_endpoint").is_none());
    assert!(body.get("authorization_response_iss_parameter_supported").is_none());
    assert_eq!(document(&bench, "/.well-known/oauth-authorization-server").await.0, 404);
}

#[tokio::test]
async fn introspection_and_userinfo_agree_with_the_books() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let grant = bench.seed();
    let introspect = async |token: &str| {
        let call = bench.http.post(bench.url("/introspect")).basic_auth(CLIENT, Some(SECRET));
        reply(call.form(&[("token", token)]).send().await.unwrap()).await.1
    };
    assert_eq!(introspect(&grant.access_token).await["sub"], "user-a");
    assert_eq!(introspect("unknown").await, json!({"active": false}));
    assert!(bench.control.end_access_token(&grant.access_token));
    assert_eq!(introspect(&grant.access_token).await, json!({"active": false}));
    let userinfo = bench.http.get(bench.url("/userinfo")).bearer_auth(&grant.access_token);
    let response = userinfo.send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
    bench.refreshed(&grant.refresh_token.unwrap()).await;
}
