//! Reads what a client sent: parameters of a form or of JSON, and the client's credentials.

use std::collections::BTreeMap;
use std::fmt;

use axum::http::{HeaderMap, header};
use data_encoding::BASE64;
use serde_json::Value;
use url::form_urlencoded;

use crate::client::{ClientAuth, ClientSettings};
use crate::ledger::AuthMethod;

/// Parameters that the ledger does not repeat: secrets, and values bound to one flow.
const UNRECORDED: [&str; 13] = [
    "access_token",
    "client_assertion",
    "client_id",
    "client_secret",
    "code",
    "code_challenge",
    "code_verifier",
    "grant_type",
    "nonce",
    "refresh_token",
    "scope",
    "state",
    "token",
];

/// Request parameters, each at most once.
#[derive(Clone, Default)]
pub(crate) struct Parameters {
    values: BTreeMap<String, String>,
    /// A parameter came twice, or the body was unreadable.
    malformed: bool,
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parameters(..)")
    }
}

impl Parameters {
    pub(crate) fn from_form(text: &str) -> Self {
        let mut parameters = Self::default();
        parameters.add_form(text.as_bytes());
        parameters
    }

    /// Reads a body as JSON if it says so, else as a form; query parameters count as well.
    pub(crate) fn from_request(headers: &HeaderMap, query: Option<&str>, body: &[u8]) -> Self {
        let mut parameters = Self::from_form(query.unwrap_or_default());
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if content_type.is_some_and(|value| value.starts_with("application/json")) {
            match serde_json::from_slice(body) {
                Ok(Value::Object(members)) => {
                    for (name, value) in members {
                        match value {
                            Value::String(text) => parameters.add(name, text),
                            Value::Null => {}
                            other => parameters.add(name, other.to_string()),
                        }
                    }
                }
                _ => parameters.malformed = true,
            }
        } else {
            parameters.add_form(body);
        }
        parameters
    }

    fn add_form(&mut self, form: &[u8]) {
        for (name, value) in form_urlencoded::parse(form) {
            self.add(name.into_owned(), value.into_owned());
        }
    }

    fn add(&mut self, name: String, value: String) {
        self.malformed |= self.values.insert(name, value).is_some();
    }

    /// A parameter; an empty one counts as absent (RFC 6749, section 3.1).
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn is_malformed(&self) -> bool {
        self.malformed
    }

    pub(crate) fn scopes(&self) -> Vec<String> {
        self.get("scope").map(split_scopes).unwrap_or_default()
    }

    pub(crate) fn recordable(&self) -> BTreeMap<String, String> {
        let kept = |(name, _): &(&String, &String)| !UNRECORDED.contains(&name.as_str());
        self.values.iter().filter(kept).map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// Scopes separated by spaces or commas.
pub(crate) fn split_scopes(text: &str) -> Vec<String> {
    text.split([' ', ',']).filter(|scope| !scope.is_empty()).map(str::to_owned).collect()
}

/// The client credentials of a request (RFC 6749, section 2.3.1).
pub(crate) struct Credentials {
    pub(crate) client_id: Option<String>,
    pub(crate) method: AuthMethod,
    secret: Option<String>,
    contradictory: bool,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// The client could not be authenticated; `contradictory` means more than one method at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unauthenticated {
    pub(crate) contradictory: bool,
}

impl Credentials {
    pub(crate) fn from_request(headers: &HeaderMap, parameters: &Parameters) -> Self {
        let body_id = parameters.get("client_id");
        let body_secret = parameters.get("client_secret");
        let basic = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Basic "));
        match basic {
            Some(encoded) => {
                let (client_id, secret) = decode_basic(encoded).unwrap_or_default();
                Self {
                    contradictory: body_secret.is_some() || body_id.is_some_and(|id| id != client_id),
                    client_id: Some(client_id),
                    method: AuthMethod::Basic,
                    secret: Some(secret),
                }
            }
            None => Self {
                client_id: body_id.map(str::to_owned),
                method: if body_secret.is_some() { AuthMethod::Body } else { AuthMethod::None },
                secret: body_secret.map(str::to_owned),
                contradictory: false,
            },
        }
    }

    /// Checks the method and the secret, and answers which secret it was.
    pub(crate) fn verify(&self, client: Option<&ClientSettings>) -> Result<Option<usize>, Unauthenticated> {
        let refused = Unauthenticated { contradictory: self.contradictory };
        let Some(client) = client else {
            return Err(refused);
        };
        let allowed = match client.auth {
            ClientAuth::Basic => self.method == AuthMethod::Basic,
            ClientAuth::Body => self.method == AuthMethod::Body,
            ClientAuth::Either => matches!(self.method, AuthMethod::Basic | AuthMethod::Body),
            ClientAuth::None => self.method == AuthMethod::None,
        };
        if self.contradictory || !allowed {
            return Err(refused);
        }
        if client.auth == ClientAuth::None {
            return Ok(None);
        }
        let index = client.secrets.iter().position(|secret| Some(secret) == self.secret.as_ref());
        index.map(Some).ok_or(refused)
    }
}

fn decode_basic(encoded: &str) -> Option<(String, String)> {
    let bytes = BASE64.decode(encoded.trim().as_bytes()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (client_id, secret) = text.split_once(':')?;
    Some((form_decode(client_id), form_decode(secret)))
}

fn form_decode(text: &str) -> String {
    let pair = format!("v={}", text.replace('&', "%26"));
    form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// The token of a `Bearer` header (RFC 6750, section 2.1).
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, authorization.parse().unwrap())])
    }

    #[test]
    fn basic_credentials_are_form_decoded() {
        let encoded = BASE64.encode(b"a%3Ab:se+cret%26");
        let credentials = Credentials::from_request(&headers(&format!("Basic {encoded}")), &Parameters::default());
        let client = ClientSettings { auth: ClientAuth::Basic, ..ClientSettings::new("a:b", "se cret&") };
        assert_eq!(credentials.client_id.as_deref(), Some("a:b"));
        assert_eq!(credentials.verify(Some(&client)), Ok(Some(0)));
    }

    #[test]
    fn two_methods_at_once_are_refused() {
        let encoded = BASE64.encode(b"sandbox-client:sandbox-secret");
        let parameters = Parameters::from_form("client_id=sandbox-client&client_secret=sandbox-secret");
        let credentials = Credentials::from_request(&headers(&format!("Basic {encoded}")), &parameters);
        let refused = credentials.verify(Some(&ClientSettings::default()));
        assert_eq!(refused, Err(Unauthenticated { contradictory: true }));
    }

    #[test]
    fn the_second_of_two_secrets_is_accepted_and_named() {
        let client = ClientSettings {
            secrets: vec!["new".to_owned(), "sandbox-secret".to_owned()],
            ..ClientSettings::default()
        };
        let parameters = Parameters::from_form("client_id=sandbox-client&client_secret=sandbox-secret");
        let credentials = Credentials::from_request(&HeaderMap::new(), &parameters);
        assert_eq!(credentials.verify(Some(&client)), Ok(Some(1)));
    }

    #[test]
    fn secrets_stay_out_of_the_ledger() {
        let parameters = Parameters::from_form("refresh_token=a&client_secret=b&audience=c");
        assert_eq!(parameters.recordable().into_iter().collect::<Vec<_>>(), [("audience".to_owned(), "c".to_owned())]);
    }
}
