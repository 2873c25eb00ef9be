//! Token calls over HTTP.

use std::{net::SocketAddr, sync::Once, time::Duration};

use serde_json::{Value, json};

use crate::world::Member;

/// Somebody who fetches tokens with one key.
#[derive(Clone)]
pub(crate) struct Caller {
    http: reqwest::Client,
    key: String,
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Caller")
    }
}

/// An answer; `None` instead of one means that the server was not there, or went away.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) json: Value,
}

impl Caller {
    pub(crate) fn new(key: String) -> anyhow::Result<Self> {
        static TLS: Once = Once::new();
        // Nothing here speaks TLS, but the library wants to know how it would.
        TLS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
            .build()?;
        Ok(Self { http, key })
    }

    /// Any other call.
    pub(crate) async fn post(&self, at: SocketAddr, path: &str, body: &Value) -> Option<Answer> {
        let request = self.http.post(format!("http://{at}{path}")).bearer_auth(&self.key).json(body);
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        Some(Answer { status, json: answer.json().await.ok()? })
    }

    /// The token call for a connection, at one broker.
    pub(crate) fn call(
        &self,
        at: SocketAddr,
        member: &Member,
        more: Value,
    ) -> impl Future<Output = Option<Answer>> + Send + use<> {
        let mut body = more;
        body["user_id"] = json!(member.user);
        body["label"] = json!(member.label);
        let url = format!("http://{at}/v1/connectors/{}/token", member.connector);
        let request = self.http.post(url).bearer_auth(&self.key).json(&body);
        async move {
            let answer = request.send().await.ok()?;
            let status = answer.status().as_u16();
            Some(Answer { status, json: answer.json().await.ok()? })
        }
    }
}
