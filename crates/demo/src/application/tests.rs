use super::*;
use axum::{
    body::{Body, to_bytes},
    http::{Request, Response, StatusCode, header},
};
use serde_json::{Value, json};
use tower::ServiceExt;

const APP: &str = "http://127.0.0.1:4001";

/// An application whose broker is at an address where nobody listens.
fn application() -> Router {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = crate::broker_api::client().unwrap();
    let nowhere = "http://127.0.0.1:9";
    let broker = BrokerApi::new(http.clone(), nowhere, "vk_none".into());
    let addresses = Addresses { app: APP.to_owned(), broker: nowhere.to_owned(), sandbox: nowhere.to_owned() };
    let connectors = [(ConnectorKey::Finish, "ctr_1".to_owned())].into();
    router(Arc::new(Backend::new(addresses, broker.clone(), broker, http, connectors)))
}

async fn send(application: &Router, request: Request<Body>) -> Response<Body> {
    application.clone().oneshot(request).await.unwrap()
}

async fn post(application: &Router, path: &str, headers: &[(&str, &str)], body: &Value) -> (StatusCode, Value) {
    let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = send(application, request.body(Body::from(body.to_string())).unwrap()).await;
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 10_000).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// Opens the page and answers with the session's cookie.
async fn visit(application: &Router) -> String {
    let page = send(application, Request::get("/").body(Body::empty()).unwrap()).await;
    let cookie = page.headers()[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() {
    let application = application();
    let cookie = visit(&application).await;
    let body = json!({ "user": "user-b" });
    for origin in [None, Some("http://127.0.0.1:4002"), Some("null"), Some("http://127.0.0.1:40010")] {
        let mut headers = vec![("cookie", cookie.as_str())];
        headers.extend(origin.map(|origin| ("origin", origin)));
        let (status, answer) = post(&application, "/api/user", &headers, &body).await;
        assert_eq!((status, answer["code"].as_str()), (StatusCode::FORBIDDEN, Some("foreign-origin")), "{origin:?}");
    }
    let (status, _) = post(&application, "/api/user", &[("cookie", &cookie), ("origin", APP)], &body).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_cookie_that_was_not_given_out_is_nobody() {
    let application = application();
    let own = visit(&application).await;
    let name = own.split('=').next().unwrap();
    for cookie in [String::new(), format!("{name}="), format!("{name}=user-a"), own.replace(name, "other")] {
        let headers = [("cookie", cookie.as_str()), ("origin", APP)];
        let (status, answer) = post(&application, "/api/user", &headers, &json!({ "user": "user-b" })).await;
        assert_eq!((status, answer["code"].as_str()), (StatusCode::UNAUTHORIZED, Some("session-missing")), "{cookie}");
    }
}

#[tokio::test]
async fn a_flow_of_another_session_does_not_exist() {
    let application = application();
    let cookie = visit(&application).await;
    let headers = [("cookie", cookie.as_str()), ("origin", APP)];
    for path in ["/api/flows/flw_1/finish", "/api/flows/flw_1/cancel"] {
        let (status, answer) = post(&application, path, &headers, &json!({ "handle": "h" })).await;
        assert_eq!((status, answer["code"].as_str()), (StatusCode::NOT_FOUND, Some("not-found")), "{path}");
    }
    // Of a flow of its own the broker would be asked, which does not answer here.
    let (status, answer) = post(&application, "/api/connectors/finish/token", &headers, &json!({})).await;
    assert_eq!((status, answer["code"].as_str()), (StatusCode::BAD_GATEWAY, Some("broker-unreachable")));
}

#[tokio::test]
async fn a_browser_that_has_a_session_keeps_it() {
    let application = application();
    let cookie = visit(&application).await;
    let again = Request::get("/return?flow_id=flw_1").header(header::COOKIE, cookie).body(Body::empty()).unwrap();
    let page = send(&application, again).await;
    assert_eq!(page.status(), StatusCode::OK);
    assert!(page.headers().get(header::SET_COOKIE).is_none());
}

#[tokio::test]
async fn every_file_is_filled_in_and_under_the_policy() {
    let application = application();
    let files = [
        "/",
        "/return",
        "/relay",
        "/app.js",
        "/log.js",
        "/texts.js",
        "/token.js",
        "/relay.js",
        "/app.css",
        "/mark.svg",
    ];
    for path in files {
        let response = send(&application, Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self' http://127.0.0.1:9;"), "{policy}");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let text = to_bytes(response.into_body(), 100_000).await.unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("{{"), "{path} has a gap that nothing fills");
    }
    let other = send(&application, Request::get("/sandbox.toml").body(Body::empty()).unwrap()).await;
    assert_eq!(other.status(), StatusCode::NOT_FOUND);
}
