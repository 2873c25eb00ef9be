//! The whole way with an authorization server made by others: certified, and strict about what it promises.

use std::{io::Write as _, path::PathBuf, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use url::Url;
use valetkey_suite::{Browser, Page, RETURN_URL, TestApp, Work, engine_tests, extra::text_of, plant};

/// The server; it ends when its standard input closes, and so with this value.
struct Peer {
    issuer: String,
    client_id: String,
    client_secret: String,
    http: reqwest::Client,
    _process: Child,
}

#[expect(clippy::disallowed_methods, reason = "a test run says so in its environment alone")]
fn nothing_may_be_left_out() -> bool {
    std::env::var_os("VALETKEY_TEST_FULL").is_some_and(|value| value == "1")
}

impl Peer {
    /// Starts it; `None`, and a word about it, where its packages are not installed and something may be left out.
    async fn start(environment: &[(&str, &str)]) -> Option<Self> {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../peers"));
        if !folder.join("node_modules").is_dir() {
            assert!(!nothing_may_be_left_out(), "tests/peers/node_modules is missing: run npm ci there");
            tell("skipped: tests/peers/node_modules is missing, run npm ci there");
            return None;
        }
        let mut process = Command::new("node")
            .arg("server.mjs")
            .current_dir(folder)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node is installed");
        let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await;
        let line = line.expect("it starts in time").expect("it speaks").expect("it says where it is");
        let about: Value = serde_json::from_str(&line).expect("JSON");
        let peer = Self {
            issuer: text_of(&about["issuer"]),
            client_id: text_of(&about["client_id"]),
            client_secret: text_of(&about["client_secret"]),
            http: reqwest::Client::builder().no_proxy().build().expect("an HTTP client"),
            _process: process,
        };
        Some(peer)
    }

    /// What its token and revocation endpoints answered, in order.
    async fn ledger(&self) -> Vec<Value> {
        let answer = self.http.get(format!("{}/control/ledger", self.issuer)).send().await.expect("it answers");
        answer.json().await.expect("JSON")
    }

    /// The outcomes of the refreshes among them.
    async fn refreshes(&self) -> Vec<String> {
        let ledger = self.ledger().await;
        let refreshes = ledger.iter().filter(|event| event["grant_type"] == "refresh_token");
        refreshes.map(|event| text_of(&event["outcome"])).collect()
    }

    async fn allow(&self, redirect_uri: &str) {
        let body = json!({ "redirect_uri": redirect_uri });
        let answer = self.http.post(format!("{}/control/redirect-uri", self.issuer)).json(&body).send().await;
        assert_eq!(answer.expect("it answers").status(), 204);
    }
}

/// Says it past the test harness, which keeps what passing tests print to itself.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "peers: {text}");
}

/// A connector at the peer.
struct Connector {
    id: String,
}

impl Connector {
    fn path(&self, rest: &str) -> String {
        format!("/v1/connectors/{}{rest}", self.id)
    }
}

async fn connector(app: &TestApp, peer: &Peer, more: Value) -> Connector {
    plant(&peer.client_secret, "a client secret");
    let mut body = json!({
        "name": "Peer", "provider": "oidc", "auth_mode": "per_user", "issuer": peer.issuer, "client_id": peer.client_id,
        "client_secrets": [peer.client_secret], "scopes": ["openid", "offline_access", "files:read"],
        "return_urls": [RETURN_URL],
    });
    for (member, value) in more.as_object().expect("members") {
        body[member] = value.clone();
    }
    let made = app.admin().post("/v1/connectors", &body).await.expect(201);
    peer.allow(&made.text_of("redirect_uri")).await;
    Connector { id: made.text_of("id") }
}

/// Follows the peer's redirects until it shows a page or sends the browser home.
async fn follow(browser: &Browser, peer: &Peer, mut page: Page, mut at: Url) -> (Page, Url) {
    while (300..400).contains(&page.status) {
        at = at.join(&page.location()).expect("an address");
        if !at.as_str().starts_with(&peer.issuer) {
            return (page, at);
        }
        page = browser.get(at.as_str()).await;
    }
    (page, at)
}

/// Signs in and agrees, or refuses; the address that the peer sends the browser to.
async fn consent(browser: &Browser, peer: &Peer, location: &str, person: &str, agrees: bool) -> String {
    let at: Url = location.parse().expect("an address");
    let page = browser.get(location).await;
    let (page, at) = follow(browser, peer, page, at).await;
    assert_eq!(page.status, 200, "{}", page.html);
    if !agrees {
        let page = browser.get(&format!("{at}/abort")).await;
        return follow(browser, peer, page, at).await.1.into();
    }
    let sign_in = [("prompt", "login"), ("login", person), ("password", "anything")];
    let page = browser.post_form(at.as_str(), &sign_in).await;
    let (page, at) = follow(browser, peer, page, at).await;
    assert!(page.html.contains("value=\"consent\""), "{}", page.html);
    let page = browser.post_form(at.as_str(), &[("prompt", "consent")]).await;
    follow(browser, peer, page, at).await.1.into()
}

/// Connects a user through a redirect flow; the answer to `finish`.
async fn connect(app: &TestApp, peer: &Peer, connector: &Connector, user: &str) -> valetkey_suite::Answer {
    let body = json!({ "user_id": user, "mode": "redirect", "return_url": RETURN_URL });
    let started = app.application().post(&connector.path("/flows"), &body).await.expect(201);
    let browser = app.browser(user);
    let location = browser.open(&started.text_of("start_url")).await;
    let callback = consent(&browser, peer, &location, user, true).await;
    let home = browser.come_home(&callback).await;
    let body = json!({ "user_id": user, "handle": home.handle() });
    app.application().post(&format!("/v1/flows/{}/finish", home.flow_id), &body).await
}

async fn fetch(app: &TestApp, connector: &Connector, body: &Value) -> valetkey_suite::Answer {
    app.connector_client(&connector.id).await.post(&connector.path("/token"), body).await
}

engine_tests! {
    async fn a_certified_server_is_connected_fetched_refreshed_and_revoked(app: TestApp) {
        let Some(peer) = Peer::start(&[]).await else { return };
        let connector = connector(&app, &peer, json!({})).await;
        let connection = connect(&app, &peer, &connector, "ann").await.expect(200).json;
        let account = &connection["account"];
        assert_eq!((&account["issuer"], &account["subject"]), (&json!(peer.issuer), &json!("ann")));
        assert!(connection["scopes"]["granted"].as_array().expect("scopes").contains(&json!("files:read")));
        let id = text_of(&connection["id"]);

        let first = fetch(&app, &connector, &json!({ "user_id": "ann" })).await.expect(200);
        assert!(first.json["expires_in"].as_u64() > Some(3_500), "{}", first.text);
        // Twice, so that the second presents what the first one brought.
        let mut token = first;
        for generation in 2..=3 {
            app.advance(Duration::from_secs(61));
            let body = json!({ "user_id": "ann", "rejected": token.json["fingerprint"] });
            token = fetch(&app, &connector, &body).await.expect(200);
            assert_eq!(token.json["generation"], generation);
        }
        assert_eq!(peer.refreshes().await, ["success", "success"]);

        app.application().post(&connector.path("/disconnect"), &json!({ "user_id": "ann" })).await.expect(200).done();
        fetch(&app, &connector, &json!({ "user_id": "ann" })).await.expect_problem(404, "connection-not-found").done();
        app.settle().await;
        for revocation in app.revocations(&id).await {
            assert_eq!(revocation["state"], "confirmed", "{revocation}");
        }
        let revoked = peer.ledger().await.into_iter().filter(|event| event["revoked"] == true).count();
        assert_eq!(revoked, 2);
    }

    async fn a_refresh_token_that_the_server_does_not_know_ends_the_connection_here(app: TestApp) {
        let Some(peer) = Peer::start(&[]).await else { return };
        let connector = connector(&app, &peer, json!({ "rotation": { "class": "strict" } })).await;
        let id = text_of(&connect(&app, &peer, &connector, "ann").await.expect(200).json["id"]);
        let saved = fetch(&app, &connector, &json!({ "user_id": "ann" })).await.expect(200);
        let forged = json!({
            "connector_id": connector.id, "user_id": "ann", "replace": true, "refresh_token": "made-up",
        });
        app.admin().post_raw("/v1/connections/import", "application/x-ndjson", forged.to_string()).await.expect(200).done();
        let dead = fetch(&app, &connector, &json!({ "user_id": "ann" })).await.expect_problem(409, "reconnect-required");
        assert_eq!(dead.json["reason"], "grant_revoked");
        assert_eq!(peer.refreshes().await, ["invalid_grant"]);
        let again = connect(&app, &peer, &connector, "ann").await.expect(200);
        assert_eq!(again.json["id"], id.as_str());
        let fresh = fetch(&app, &connector, &json!({ "user_id": "ann" })).await.expect(200);
        assert_ne!(fresh.json["access_token"], saved.json["access_token"]);
    }

    async fn a_kept_refresh_token_works_on(app: TestApp) {
        let Some(peer) = Peer::start(&[("PEER_ROTATE", "0"), ("PEER_ACCESS_TOKEN_SECONDS", "77")]).await else { return };
        let connector = connector(&app, &peer, json!({})).await;
        let id = text_of(&connect(&app, &peer, &connector, "ann").await.expect(200).json["id"]);
        let short = fetch(&app, &connector, &json!({ "user_id": "ann" })).await.expect(200);
        assert!(short.json["expires_in"].as_u64() <= Some(77), "{}", short.text);
        for generation in 2..=4 {
            app.advance_to_due(&id).await;
            app.run(Work::Refresh).await;
            assert_eq!(app.connection(&id).await["generation"], generation);
        }
        assert_eq!(peer.refreshes().await, ["success"; 3]);
    }

    async fn a_person_who_refuses_comes_home_with_the_reason(app: TestApp) {
        let Some(peer) = Peer::start(&[]).await else { return };
        let connector = connector(&app, &peer, json!({})).await;
        let body = json!({ "user_id": "ann", "mode": "redirect", "return_url": RETURN_URL });
        let started = app.application().post(&connector.path("/flows"), &body).await.expect(201);
        let browser = app.browser("ann");
        let location = browser.open(&started.text_of("start_url")).await;
        let callback = consent(&browser, &peer, &location, "ann", false).await;
        browser.come_home(&callback).await.expect_code("access-denied");
    }

    async fn the_secret_goes_in_a_header_or_in_the_body_and_a_wrong_one_blames_nobody(app: TestApp) {
        let Some(peer) = Peer::start(&[]).await else { return };
        let body = connector(&app, &peer, json!({ "settings": { "client_authentication": "body" } })).await;
        connect(&app, &peer, &body, "ann").await.expect(200).done();
        let wrong = connector(&app, &peer, json!({ "client_secrets": ["planted-wrong-secret"] })).await;
        let refused = connect(&app, &peer, &wrong, "ann").await.expect_problem(409, "flow-failed");
        assert_eq!(refused.json["flow_code"], "client-refused");
    }

    async fn a_client_of_its_own_gets_a_token(app: TestApp) {
        let Some(peer) = Peer::start(&[]).await else { return };
        let members = json!({ "auth_mode": "shared", "grant": "client_credentials", "scopes": ["files:read"], "return_urls": [] });
        let connector = connector(&app, &peer, members).await;
        let token = fetch(&app, &connector, &json!({})).await.expect(200);
        assert_eq!(token.json["token_type"], "Bearer");
        assert!(token.json["expires_in"].as_u64() > Some(3_500), "{}", token.text);
    }
}
