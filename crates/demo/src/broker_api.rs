//! The broker's API as any application calls it: HTTP, a key, JSON.

use std::{path::Path, time::Duration};

use reqwest::{Client, ClientBuilder, Method, Response, redirect::Policy};
use serde::Serialize;
use serde_json::Value;
use valetkey_core::Secret;

/// Longer than the broker lets a caller wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client for loopback: no proxy, no redirects.
pub(crate) fn client() -> reqwest::Result<Client> {
    builder().build()
}

/// A client that speaks to a socket, whatever host its requests name.
pub(crate) fn client_at(socket: &Path) -> reqwest::Result<Client> {
    builder().unix_socket(socket).build()
}

fn builder() -> ClientBuilder {
    Client::builder().redirect(Policy::none()).no_proxy().timeout(PATIENCE)
}

/// A call that was made, as the page lists it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Call {
    method: String,
    path: String,
    pub(crate) status: u16,
}

/// What came back: of a success the result, else a problem (RFC 9457) with its `code`.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) call: Call,
    pub(crate) body: Value,
}

impl Answer {
    /// Reads a whole answer. One without a body is `null`.
    pub(crate) async fn read(method: &str, path: &str, response: Response) -> reqwest::Result<Self> {
        let status = response.status().as_u16();
        let bytes = response.bytes().await?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Self { call: Call { method: method.to_owned(), path: path.to_owned(), status }, body })
    }

    /// Whether the broker did what was asked.
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.call.status)
    }

    /// The stable code of a problem.
    pub(crate) fn code(&self) -> Option<&str> {
        self.body["code"].as_str()
    }
}

/// The broker, for the holder of one key.
#[derive(Debug, Clone)]
pub(crate) struct BrokerApi {
    http: Client,
    base: String,
    key: Secret,
}

impl BrokerApi {
    /// The broker at an address, for this key.
    pub(crate) fn new(http: Client, base: &str, key: Secret) -> Self {
        Self { http, base: base.to_owned(), key }
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Result<Answer> {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> reqwest::Result<Answer> {
        self.send(Method::POST, path, Some(body)).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> reqwest::Result<Answer> {
        let mut request =
            self.http.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(self.key.expose());
        if let Some(body) = body {
            request = request.json(body);
        }
        Answer::read(method.as_str(), path, request.send().await?).await
    }
}
