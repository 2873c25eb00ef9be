//! What an operator does once: connectors and keys, through the operator's socket in the broker's data directory.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use valetkey_core::Secret;

use crate::{
    broker_api::{self, Answer},
    house::Addresses,
};

/// The secret of both registrations at the sandbox.
pub(crate) const CLIENT_SECRET: &str = "demo-secret";

/// What the connectors ask for.
const SCOPES: [&str; 3] = ["openid", "files.read", "files.write"];

/// The two connectors, as the page names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ConnectorKey {
    /// The application's backend finishes the flow.
    Finish,
    /// A page of the broker asks the person.
    Confirm,
}

impl ConnectorKey {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Finish, Self::Confirm];

    /// The name that people see.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Finish => "Sandbox files",
            Self::Confirm => "Sandbox files, confirmed",
        }
    }

    /// The registration at the sandbox.
    pub(crate) fn client_id(self) -> &'static str {
        match self {
            Self::Finish => "demo",
            Self::Confirm => "demo-confirm",
        }
    }

    fn binding(self) -> &'static str {
        match self {
            Self::Finish => "finish",
            Self::Confirm => "confirm_page",
        }
    }
}

/// What the application's backend is given.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Starts and finishes flows, and disconnects.
    pub(crate) app: Secret,
    /// Fetches tokens of both connectors and does nothing else.
    pub(crate) connector: Secret,
    /// The connectors' ids.
    pub(crate) connectors: BTreeMap<ConnectorKey, String>,
}

/// Makes a space, and in it two connectors and two keys.
pub(crate) async fn register(data_dir: &Path, addresses: &Addresses) -> anyhow::Result<Keys> {
    let operator = Operator { http: broker_api::client_at(&data_dir.join(SOCKET))? };
    operator.create("/v1/spaces", &json!({ "id": SPACE })).await?;
    let mut connectors = BTreeMap::new();
    for connector in ConnectorKey::ALL {
        let made = operator.create("/v1/connectors", &describe(connector, addresses)).await?;
        connectors.insert(connector, text(&made, "id")?);
    }
    let ids: Vec<_> = connectors.values().collect();
    let app = json!({ "name": "demo application", "roles": ["app"], "connectors": ids });
    let connector = json!({ "name": "demo connector", "roles": ["connector"], "connectors": ids });
    Ok(Keys {
        app: text(&operator.create("/v1/keys", &app).await?, "key")?.into(),
        connector: text(&operator.create("/v1/keys", &connector).await?, "key")?.into(),
        connectors,
    })
}

/// The space that holds all of it.
const SPACE: &str = "demo";

/// The operator's socket in the data directory.
const SOCKET: &str = "valetkey.sock";

/// The user who runs the broker, who needs no key.
struct Operator {
    http: reqwest::Client,
}

impl Operator {
    async fn create(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.http.post(format!("http://localhost{path}")).header("x-valetkey-space", SPACE).json(body);
        let answer = Answer::read("POST", path, request.send().await?).await?;
        if answer.is_success() {
            return Ok(answer.body);
        }
        let Answer { call, body } = answer;
        anyhow::bail!("POST {path} was answered with {}: {body}", call.status)
    }
}

fn describe(connector: ConnectorKey, addresses: &Addresses) -> Value {
    let app = &addresses.app;
    json!({
        "name": connector.name(),
        "provider": "sandbox",
        "auth_mode": "per_user",
        "client_id": connector.client_id(),
        "client_secrets": [CLIENT_SECRET],
        "scopes": SCOPES,
        "issuer": addresses.sandbox,
        "binding": connector.binding(),
        "return_urls": [format!("{app}/relay"), format!("{app}/return")],
        "origins": [app],
    })
}

fn text(body: &Value, field: &'static str) -> anyhow::Result<String> {
    body[field].as_str().map(str::to_owned).with_context(|| format!("the answer has no `{field}`"))
}
