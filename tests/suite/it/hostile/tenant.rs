//! Somebody with keys in a space: the honest operator, or the attacker.

use serde_json::{Value, json};
use valetkey_suite::{Answer, Browser, Client, ConnectorSpec, Started, TestApp, TestConnector};

use super::Sink;

/// Somebody who may make connectors, start and finish flows and read the audit of one space.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) caller: Client,
}

impl Tenant {
    /// In the space `default`: the attacker as a customer among others.
    pub(crate) async fn beside(app: &TestApp) -> Self {
        Self { caller: app.key(&["admin", "app", "shared", "operator"], None, "default").await }
    }

    /// In a space of their own.
    pub(crate) async fn elsewhere(app: &TestApp) -> Self {
        app.space("mallory").await;
        Self { caller: app.key(&["admin", "app", "shared", "operator"], None, "mallory").await }
    }

    /// A connector whose endpoints are the attacker's.
    pub(crate) async fn bait(&self, sink: &Sink) -> TestConnector {
        self.connector(bait_body(sink)).await
    }

    /// A connector of this body.
    pub(crate) async fn connector(&self, body: Value) -> TestConnector {
        let answer = self.try_connector(&body).await.expect(201);
        TestConnector {
            id: answer.text_of("id"),
            client_id: body["client_id"].as_str().unwrap_or_default().to_owned(),
            client_secret: body["client_secrets"][0].as_str().unwrap_or_default().to_owned(),
            is_shared: body["auth_mode"] == "shared",
            json: answer.json,
        }
    }

    pub(crate) async fn try_connector(&self, body: &Value) -> Answer {
        self.caller.post("/v1/connectors", body).await
    }

    pub(crate) async fn start(&self, connector: &TestConnector, person: &str) -> Started {
        let answer = self.caller.post(&connector.path("/flows"), &connector.popup(person)).await.expect(201);
        Started { flow_id: answer.text_of("flow_id"), start_url: answer.text_of("start_url") }
    }

    pub(crate) async fn finish(&self, flow_id: &str, handle: &str, person: &str) -> Answer {
        let body = json!({ "handle": handle, "user_id": person });
        self.caller.post(&format!("/v1/flows/{flow_id}/finish"), &body).await
    }

    pub(crate) async fn status(&self, flow_id: &str) -> String {
        self.caller.get(&format!("/v1/flows/{flow_id}")).await.expect(200).text_of("status")
    }
}

/// A connector whose endpoints are the attacker's, as its owner would make it.
pub(crate) fn bait_body(sink: &Sink) -> Value {
    let endpoints = json!({ "authorization": sink.url("/authorize"), "token": sink.url("/token") });
    ConnectorSpec::oauth2().with("endpoints", endpoints).body("")
}

/// S256 of the verifier `v`, 43 times over: the attacker knows it.
pub(crate) const CHALLENGE: &str = "7w_YNF9DSfIdPf_pRjSq646_kPr-2-o9NAl16JGghdM";

/// From now on the honest provider sends this client's answers to its registered address alone (RFC 9700, section 2.1).
pub(crate) fn register(app: &TestApp, connector: &TestConnector) {
    let address = connector.json["redirect_uri"].as_str().unwrap().to_owned();
    let strict = |client: &mut valetkey_suite::sandbox::ClientSettings| {
        client.any_loopback_redirect_uri = false;
        client.redirect_uris = vec![address];
    };
    app.provider().update_client(&connector.client_id, strict).unwrap();
}

/// An honest connector whose provider checks redirect URIs as it should.
pub(crate) async fn honest(app: &TestApp, spec: ConnectorSpec) -> TestConnector {
    let connector = app.connector(spec).await;
    register(app, &connector);
    connector
}

/// The victim opens the attacker's flow; the attacker's authorization server bounces the browser to the honest one with
/// the honest client id, this redirect URI and the attacker's fresh state. Gives the honest provider's consent page.
pub(crate) async fn bounced(
    app: &TestApp,
    sink: &Sink,
    victim: &Browser,
    started: &Started,
    client_id: &str,
    redirect_uri: &str,
) -> String {
    let location = victim.open(&started.start_url).await;
    assert!(location.starts_with(&sink.url("/authorize?")), "{location}");
    let mut honest: url::Url = format!("{}/authorize", app.provider_url()).parse().unwrap();
    honest.query_pairs_mut().extend_pairs([
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", redirect_uri),
        ("state", &super::param(&location, "state")),
        ("scope", "openid read"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ]);
    sink.reply("/authorize", super::Reply::To(honest.into()));
    victim.get(&location).await.expect(302).location()
}
