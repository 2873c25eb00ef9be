//! Wraps data keys at a transit service: the API of Vault and OpenBao, `POST /v1/<mount>/encrypt|decrypt/<key>`.
//!
//! The service is asked when a process starts, when it learns of a new data key and when one is made, and never while
//! tokens are served: its outage stops no read.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use data_encoding::BASE64;
use http::{Request, header};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use url::Url;
use valetkey_core::{KeyWrapper, Secret, WrapContext, WrapError};

use crate::{
    OutboundError, OutboundSettings,
    outbound::{Outbound, SendFault},
};

/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// What base64 takes to decode the text of 32 bytes.
const KEY_ROOM: usize = 33;

/// Where the token comes from: read for each call, because agents replace it. The error says what is wrong with it.
pub type TransitToken = Arc<dyn Fn() -> Result<Secret, String> + Send + Sync>;

/// A key at a transit service.
#[derive(Clone)]
pub struct TransitSettings {
    /// The service, without `/v1`.
    pub address: Url,
    /// Where the transit engine is mounted, as `transit`.
    pub mount: String,
    /// The key's name.
    pub key: String,
    /// The namespace, where the service has some.
    pub namespace: Option<String>,
    /// The token.
    pub token: TransitToken,
    /// What may be reached: the exceptions for this service alone.
    pub outbound: OutboundSettings,
}

impl fmt::Debug for TransitSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransitSettings")
            .field("address", &self.address.as_str())
            .field("mount", &self.mount)
            .field("key", &self.key)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Why there is no way to the service.
#[derive(Debug, thiserror::Error)]
pub enum TransitError {
    /// The name of the key or the mount is not one.
    #[error("the {which} of the transit service is made of letters, digits, `-`, `_` and `.`")]
    Name {
        /// Which name.
        which: &'static str,
    },
    /// The client could not be made.
    #[error("the transit service cannot be spoken to")]
    Outbound(#[from] OutboundError),
}

/// A key-encryption key at a transit service.
#[derive(Clone)]
pub struct TransitKeyWrapper {
    id: String,
    settings: TransitSettings,
    outbound: Outbound,
}

/// An answer, or what is looked at in one; a plaintext is a secret from here on.
#[derive(Deserialize)]
struct Answer {
    data: AnswerData,
}

#[derive(Deserialize)]
struct AnswerData {
    ciphertext: Option<String>,
    plaintext: Option<Secret>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    errors: Vec<String>,
}

impl TransitKeyWrapper {
    /// A key of a service. Its id names mount and key and not the address, so that the service may move.
    pub fn new(settings: TransitSettings) -> Result<Self, TransitError> {
        if !is_name(&settings.key) {
            return Err(TransitError::Name { which: "key" });
        }
        if !settings.mount.split('/').all(is_name) {
            return Err(TransitError::Name { which: "mount" });
        }
        let namespace = settings.namespace.as_deref().map(|name| format!("{name}:")).unwrap_or_default();
        let id = format!("transit:{namespace}{}/{}", settings.mount, settings.key);
        let outbound = Outbound::new(settings.outbound.clone())?;
        Ok(Self { id, settings, outbound })
    }

    async fn ask(&self, verb: &str, body: serde_json::Value) -> Result<AnswerData, WrapError> {
        let TransitSettings { address, mount, key, namespace, token, .. } = &self.settings;
        let token = token().map_err(WrapError::Unavailable)?;
        let base = address.as_str().trim_end_matches('/');
        let mut request = Request::post(format!("{base}/v1/{mount}/{verb}/{key}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header("x-vault-request", "true")
            .header("x-vault-token", token.expose());
        if let Some(namespace) = namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        let request = request
            .body(body.to_string().into_bytes())
            .map_err(|_| WrapError::Unavailable("the token is no header value".to_owned()))?;
        let answer = self.outbound.send(request, Instant::now() + DEADLINE).await.map_err(|fault| {
            let code = match fault {
                SendFault::NotSent(fault) => fault.code(),
                SendFault::Unknown(fault) => fault.code(),
            };
            WrapError::Unavailable(format!("{base} cannot be reached ({code})"))
        })?;
        if !answer.status.is_success() {
            return Err(self.refusal(verb, answer.status.as_u16(), &answer.body));
        }
        let read: Answer = serde_json::from_slice(&answer.body)
            .map_err(|_| WrapError::Unavailable(format!("{base} does not answer as a transit service does")))?;
        Ok(read.data)
    }

    /// What a status means; the service's own words are read and never repeated.
    fn refusal(&self, verb: &str, status: u16, body: &[u8]) -> WrapError {
        let TransitSettings { mount, key, .. } = &self.settings;
        let said: Refusal = serde_json::from_slice(body).unwrap_or(Refusal { errors: Vec::new() });
        let no_key = said.errors.iter().any(|error| error.contains("key not found"));
        WrapError::Unavailable(match status {
            _ if no_key => format!("the transit engine `{mount}` has no key `{key}`"),
            400 if verb == "decrypt" => return WrapError::Refused,
            403 => format!("it refuses the token, or the token may not {verb} with `{mount}/{key}` (status 403)"),
            404 => format!("there is no transit engine at `{mount}` (status 404)"),
            503 => "it is sealed or under maintenance (status 503)".to_owned(),
            other => format!("it answers with status {other}"),
        })
    }
}

/// What a wrapped key is bound to. A key with derivation takes it as its context too; others ignore that.
fn bound_to(context: &WrapContext) -> String {
    BASE64.encode(format!("valetkey data key\n{}\n{}", context.instance, context.key_id).as_bytes())
}

fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.bytes().all(is_plain) && name.bytes().any(|byte| byte != b'.')
}

#[async_trait]
impl KeyWrapper for TransitKeyWrapper {
    fn id(&self) -> &str {
        &self.id
    }

    async fn wrap(&self, context: &WrapContext, key: &[u8; 32]) -> Result<Vec<u8>, WrapError> {
        let plaintext = Secret::from(BASE64.encode(key));
        let bound_to = bound_to(context);
        let body = json!({ "plaintext": plaintext.expose(), "associated_data": bound_to, "context": bound_to });
        let ciphertext = self.ask("encrypt", body).await?.ciphertext.filter(|text| !text.is_empty());
        ciphertext
            .map(String::into_bytes)
            .ok_or_else(|| WrapError::Unavailable("it answered without a ciphertext".to_owned()))
    }

    async fn unwrap(&self, context: &WrapContext, wrapped: &[u8]) -> Result<[u8; 32], WrapError> {
        let ciphertext = str::from_utf8(wrapped).map_err(|_| WrapError::Refused)?;
        let bound_to = bound_to(context);
        let body = json!({ "ciphertext": ciphertext, "associated_data": bound_to, "context": bound_to });
        let plaintext = self
            .ask("decrypt", body)
            .await?
            .plaintext
            .ok_or_else(|| WrapError::Unavailable("it answered without a plaintext".to_owned()))?;
        let text = plaintext.expose().as_bytes();
        let mut room = [0; KEY_ROOM];
        if BASE64.decode_len(text.len()) != Ok(KEY_ROOM) || BASE64.decode_mut(text, &mut room) != Ok(32) {
            return Err(WrapError::Refused);
        }
        room[..32].try_into().map_err(|_| WrapError::Refused)
    }
}

impl fmt::Debug for TransitKeyWrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TransitKeyWrapper").field(&self.id).finish()
    }
}
