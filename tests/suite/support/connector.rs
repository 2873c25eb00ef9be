//! Connectors, and the clients at the sandbox that they stand for.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};
use valetkey_sandbox::{ClientSettings, Rotation};

use crate::{TestApp, witness};

/// The application's origin: it opens popups.
pub const ORIGIN: &str = "https://app.example";

/// The application's relay page, which redirects come home to as well.
pub const RETURN_URL: &str = "https://app.example/connected";

/// A connector to make, and how its client behaves at the sandbox.
#[derive(Debug, Clone)]
pub struct ConnectorSpec {
    by_discovery: bool,
    names_endpoints: bool,
    body: Map<String, Value>,
    client: ClientSettings,
}

impl ConnectorSpec {
    /// Per user, bound by finish, with the scopes `openid` and `read`, and `write` if asked for; endpoints by
    /// discovery.
    pub fn oidc() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let client_id = format!("client-{number}");
        let secret = format!("planted-client-secret-{}-{number}", std::process::id());
        witness::plant(&secret, "a client secret");
        let body = json!({
            "name": format!("Connector {number}"),
            "provider": "oidc",
            "auth_mode": "per_user",
            "grant": "authorization_code",
            "client_id": client_id,
            "client_secrets": [secret],
            "scopes": ["openid", "read"],
            "optional_scopes": ["write"],
            "binding": "finish",
            "return_urls": [RETURN_URL],
            "origins": [ORIGIN],
        });
        let Value::Object(body) = body else { unreachable!("it is one") };
        Self { by_discovery: true, names_endpoints: true, body, client: ClientSettings::new(client_id, secret) }
    }

    /// The same with the endpoints written down, and nothing known of accounts.
    pub fn oauth2() -> Self {
        let mut spec = Self::oidc().with("provider", json!("oauth2")).scopes(&["read"]);
        spec.by_discovery = false;
        spec
    }

    /// One grant for everybody.
    #[must_use]
    pub fn shared(self) -> Self {
        self.with("auth_mode", json!("shared"))
    }

    /// Shared, by client credentials.
    #[must_use]
    pub fn client_credentials(self) -> Self {
        self.shared().with("grant", json!("client_credentials"))
    }

    /// Bound by our own page.
    #[must_use]
    pub fn confirm_page(self) -> Self {
        self.with("binding", json!("confirm_page"))
    }

    /// The rotation class: the client behaves so, and the connector says so.
    #[must_use]
    pub fn rotation(self, rotation: Rotation) -> Self {
        let class = match rotation {
            Rotation::NonRotating => json!({ "class": "non_rotating" }),
            Rotation::Soft | Rotation::SoftUntilSuccessorUsed => json!({ "class": "soft" }),
            Rotation::Grace { seconds } => json!({ "class": "grace", "grace_seconds": seconds }),
            Rotation::Strict => json!({ "class": "strict" }),
            Rotation::StrictWide => json!({ "class": "strict_wide" }),
        };
        self.with("rotation", class).client(|client| client.rotation = rotation)
    }

    /// The scopes of every flow.
    #[must_use]
    pub fn scopes(self, scopes: &[&str]) -> Self {
        self.with("scopes", json!(scopes))
    }

    /// Leaves the endpoints to the profile.
    #[must_use]
    pub fn without_endpoints(mut self) -> Self {
        self.names_endpoints = false;
        self
    }

    /// Any member of the connector, as `POST /v1/connectors` names it.
    #[must_use]
    pub fn with(mut self, member: &str, value: Value) -> Self {
        self.body.insert(member.to_owned(), value);
        self
    }

    /// How the client behaves at the sandbox.
    #[must_use]
    pub fn client(mut self, change: impl FnOnce(&mut ClientSettings)) -> Self {
        change(&mut self.client);
        self
    }

    /// The body of `POST /v1/connectors` for a provider at this address.
    pub fn body(&self, provider: &str) -> Value {
        let mut body = self.body.clone();
        if self.by_discovery {
            body.entry("issuer").or_insert(json!(provider));
        } else if self.names_endpoints {
            body.entry("endpoints").or_insert(json!({
                "authorization": format!("{provider}/authorize"),
                "token": format!("{provider}/token"),
                "revocation": format!("{provider}/revoke"),
            }));
        }
        Value::Object(body)
    }
}

/// A connector that was made.
#[derive(Debug, Clone)]
pub struct TestConnector {
    /// Its id.
    pub id: String,
    /// The client at the sandbox.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
    /// Whether it holds one grant for everybody.
    pub is_shared: bool,
    /// The answer to its making.
    pub json: Value,
}

impl TestConnector {
    /// An address below it, as `/v1/connectors/{id}/flows`.
    pub fn path(&self, rest: &str) -> String {
        format!("/v1/connectors/{}{rest}", self.id)
    }

    /// The body that starts a popup flow of this person: the user, or the actor of a shared connector.
    pub fn popup(&self, person: &str) -> Value {
        json!({ self.person(): person, "mode": "popup", "return_url": RETURN_URL, "origin": ORIGIN })
    }

    /// The body that starts a redirect flow of this person.
    pub fn redirect(&self, person: &str) -> Value {
        json!({ self.person(): person, "mode": "redirect", "return_url": RETURN_URL })
    }

    /// The member that names a person at this connector.
    pub fn person(&self) -> &'static str {
        if self.is_shared { "actor" } else { "user_id" }
    }
}

impl TestApp {
    /// Registers a client at the sandbox and makes the connector, as the admin of the space `default`.
    pub async fn connector(&self, spec: ConnectorSpec) -> TestConnector {
        let admin = self.admin();
        self.connector_by(&admin, spec).await
    }

    /// The same by any admin.
    pub async fn connector_by(&self, admin: &crate::Client, spec: ConnectorSpec) -> TestConnector {
        let body = spec.body(self.provider_url());
        let (client_id, client_secret) = (spec.client.client_id.clone(), spec.client.secrets[0].clone());
        self.provider().put_client(spec.client);
        let answer = admin.post("/v1/connectors", &body).await.expect(201);
        TestConnector {
            id: answer.text_of("id"),
            client_id,
            client_secret,
            is_shared: body["auth_mode"] == "shared",
            json: answer.json,
        }
    }
}
