use reqwest::StatusCode;
use valetkey_sandbox::{Coop, IssParameter, Sandbox, SandboxSettings};

use crate::support::{Bench, location_pairs, value_of};

/// The value of the page's hidden field.
fn page_field(html: &str) -> String {
    let (_, rest) = html.split_once(r#"name="page" value=""#).unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

async fn open(bench: &Bench, further: &[(&str, &str)]) -> String {
    let response = bench.http.get(bench.authorize_url(further)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.text().await.unwrap()
}

async fn decide(bench: &Bench, page: &str, form: &[(&str, &str)]) -> reqwest::Response {
    let mut all = vec![("page", page)];
    all.extend_from_slice(form);
    bench.http.post(bench.url("/authorize/decision")).form(&all).send().await.unwrap()
}

#[tokio::test]
async fn the_page_offers_the_accounts_and_leads_back_with_a_code() {
    let bench = Bench::start(SandboxSettings::default()).await;
    let html = open(&bench, &[("scope", "read"), ("login_hint", "user-b")]).await;
    assert!(html.contains("Sandbox provider"));
    assert!(html.contains("<code>read</code>"));
    assert!(html.contains(r#"value="user-b" required checked"#));
    let page = page_field(&html);
    let response = decide(&bench, &page, &[("decision", "allow"), ("account", "user-a")]).await;
    assert_eq!(response.status(), StatusCode::FOUND);
    let pairs = location_pairs(&response);
    assert!(value_of(&pairs, "code").starts_with("sbx_code_"));
    assert_eq!(value_of(&pairs, "state"), "the-state");
    let events = bench.control.authorizations();
    assert_eq!(events[1].user.as_deref(), Some("user-a"));
    // An answered page cannot be answered again.
    assert_eq!(decide(&bench, &page, &[("decision", "allow"), ("account", "user-a")]).await.status(), 400);
}

#[tokio::test]
async fn denying_leads_back_with_an_error() {
    let bench = Bench::start(SandboxSettings::default()).await;
    let page = page_field(&open(&bench, &[]).await);
    let pairs = location_pairs(&decide(&bench, &page, &[("decision", "deny")]).await);
    assert_eq!(value_of(&pairs, "error"), "access_denied");
    assert_eq!(value_of(&pairs, "state"), "the-state");
    let automatic = Bench::start(SandboxSettings::automatic()).await;
    let pairs = automatic.authorize(&[("login_hint", "deny")]).await;
    assert_eq!(value_of(&pairs, "error"), "access_denied");
}

#[tokio::test]
async fn select_account_chooses_none_beforehand() {
    let bench = Bench::start(SandboxSettings::default()).await;
    assert!(open(&bench, &[]).await.contains("required checked"));
    assert!(!open(&bench, &[("prompt", "select_account")]).await.contains("required checked"));
}

#[tokio::test]
async fn prompt_none_goes_on_only_for_a_known_user_with_consent() {
    let bench = Bench::start(SandboxSettings::default()).await;
    let error = async |further: &[(&str, &str)]| value_of(&bench.authorize(further).await, "error").to_owned();
    assert_eq!(error(&[("prompt", "none")]).await, "login_required");
    let known = [("prompt", "none"), ("login_hint", "user-a"), ("scope", "read")];
    assert_eq!(error(&known).await, "consent_required");
    bench.seed();
    assert_eq!(error(&known).await, "");
}

#[tokio::test]
async fn what_cannot_be_sent_back_safely_is_refused_on_a_page() {
    let bench = Bench::start(SandboxSettings::automatic()).await;
    let elsewhere = bench.authorize_url(&[("redirect_uri", "https://elsewhere.example/cb")]);
    let response = bench.http.get(elsewhere).send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert!(response.headers().get("location").is_none());
    let policy = response.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"));
    bench.control.update_client("sandbox-client", |client| client.any_redirect_uri = true).unwrap();
    assert_eq!(bench.authorize(&[("redirect_uri", "https://elsewhere.example/cb?a=1")]).await[0].0, "a");
}

#[tokio::test]
async fn the_opener_policy_is_sent_as_told() {
    let bench = Bench::start(SandboxSettings::default()).await;
    let header = async || {
        let response = bench.http.get(bench.authorize_url(&[])).send().await.unwrap();
        response.headers().get("cross-origin-opener-policy").map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(header().await, None);
    bench.control.update_settings(|settings| settings.authorize.coop = Coop::SameOrigin);
    assert_eq!(header().await.as_deref(), Some("same-origin"));
    bench.control.update_settings(|settings| settings.authorize.coop = Coop::SameOriginAllowPopups);
    assert_eq!(header().await.as_deref(), Some("same-origin-allow-popups"));
}

#[tokio::test]
async fn the_answer_can_be_wrong_in_each_scripted_way() {
    let bench = Bench::start(SandboxSettings::automatic()).await;
    let control = &bench.control;
    control.update_settings(|settings| {
        settings.authorize.iss = IssParameter::Absent;
        settings.authorize.omit_state = true;
    });
    let pairs = bench.authorize(&[]).await;
    assert_eq!(pairs.len(), 1);
    control.update_settings(|settings| {
        settings.authorize.iss = IssParameter::Other("https://other.example".to_owned());
        settings.authorize.omit_state = false;
        settings.authorize.wrong_state = true;
        settings.authorize.doubled = vec!["code".to_owned()];
        settings.authorize.extra.insert("session".to_owned(), "s".to_owned());
    });
    let pairs = bench.authorize(&[]).await;
    assert_eq!(value_of(&pairs, "iss"), "https://other.example");
    assert_eq!(value_of(&pairs, "state"), "another-state");
    assert_eq!(value_of(&pairs, "session"), "s");
    assert_eq!(pairs.iter().filter(|(name, _)| name == "code").count(), 2);
    control.update_settings(|settings| {
        settings.authorize.error = Some("server_error".to_owned());
        settings.authorize.error_description = Some("<b>told</b>".to_owned());
    });
    let pairs = bench.authorize(&[]).await;
    assert_eq!(value_of(&pairs, "error"), "server_error");
    assert_eq!(value_of(&pairs, "error_description"), "<b>told</b>");
}

#[tokio::test]
async fn accounts_can_be_set_and_invented() {
    let settings = SandboxSettings { any_account: true, ..SandboxSettings::automatic() };
    let bench = Bench::start(settings).await;
    bench.authorize(&[("login_hint", "user-z")]).await;
    bench.control.update_settings(|settings| settings.any_account = false);
    bench.authorize(&[("login_hint", "user-z")]).await;
    let users: Vec<_> = bench.control.authorizations().into_iter().map(|event| event.user.unwrap()).collect();
    assert_eq!(users, ["user-z", "user-a"]);
}

#[tokio::test]
async fn the_page_has_its_style_and_a_stopped_sandbox_frees_its_port() {
    let bench = Bench::start(SandboxSettings::default()).await;
    let css = bench.http.get(bench.url("/sandbox.css")).send().await.unwrap();
    assert_eq!(css.headers()["content-type"], "text/css; charset=utf-8");
    let port = bench.sandbox.address().port();
    bench.sandbox.stop().await;
    let again = Sandbox::start(SandboxSettings { port, ..SandboxSettings::default() }).await.unwrap();
    assert_eq!(again.address().port(), port);
}
