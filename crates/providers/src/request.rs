//! Requests: built by the `oauth2` crate, taken out before it sends anything.

use std::{cell::RefCell, collections::BTreeMap, fmt};

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest, HttpResponse,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, TokenUrl, basic::BasicClient,
};
use serde_json::{Map, Value};
use url::{Url, form_urlencoded};
use valetkey_core::Secret;

use crate::{
    AuthorizationRequest, CodeExchange, ProviderError, RefreshRequest,
    profile::{BodyEncoding, Client, ClientAuthentication, Profile},
    resolve::Resolved,
};

/// The lengths that RFC 7636, section 4.1, allows for a verifier.
const VERIFIER: std::ops::RangeInclusive<usize> = 43..=128;

/// The address of the consent page.
pub(crate) fn authorization_url(
    resolved: &Resolved<'_>,
    request: &AuthorizationRequest<'_>,
) -> Result<Url, ProviderError> {
    let client = BasicClient::new(ClientId::new(resolved.connector.client_id.clone()))
        .set_auth_uri(AuthUrl::from_url(resolved.authorization()?))
        .set_redirect_uri(redirect_url(request.redirect_uri)?);
    let state = request.state.expose().to_owned();
    let mut building = client.authorize_url(|| CsrfToken::new(state));
    let authorize = &resolved.profile.authorize;
    let scopes: Vec<&str> = request
        .scopes
        .iter()
        .chain(authorize.extra_scopes.iter().filter(|extra| !request.scopes.contains(extra)))
        .map(String::as_str)
        .collect();
    if !scopes.is_empty() {
        building = building.add_extra_param(authorize.scope_param.as_str(), scopes.join(&authorize.scope_separator));
    }
    if authorize.pkce {
        let verifier = pkce_verifier(request.verifier)?;
        building = building.set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
    }
    if resolved.asks_openid() || scopes.contains(&"openid") {
        building = building.add_extra_param("nonce", request.nonce.expose());
    }
    if let (Some(param), Some(hint)) = (&authorize.login_hint_param, request.login_hint) {
        building = building.add_extra_param(param.as_str(), hint);
    }
    let offline = scopes.contains(&"offline_access").then_some(&authorize.offline_params);
    for (name, value) in authorize.params.iter().chain(offline.into_iter().flatten()) {
        building = building.add_extra_param(name.as_str(), value.as_str());
    }
    Ok(building.url().0)
}

fn redirect_url(text: &str) -> Result<RedirectUrl, ProviderError> {
    RedirectUrl::new(text.to_owned()).map_err(|_| ProviderError::BadRequest { which: "redirect_uri" })
}

fn pkce_verifier(verifier: &Secret) -> Result<PkceCodeVerifier, ProviderError> {
    // The crate asserts the length, and an assertion would end the process's task.
    if VERIFIER.contains(&verifier.expose().len()) {
        Ok(PkceCodeVerifier::new(verifier.expose().to_owned()))
    } else {
        Err(ProviderError::BadRequest { which: "verifier" })
    }
}

/// What a token request asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked<'a> {
    Exchange(&'a CodeExchange<'a>),
    Refresh(&'a RefreshRequest<'a>),
    ClientCredentials(&'a [String]),
}

/// One way for our client to show itself.
#[derive(Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) secret: Option<&'a Secret>,
    pub(crate) authentication: ClientAuthentication,
}

impl fmt::Debug for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// A token request, ready to be sent.
pub(crate) fn token_request(
    profile: &Profile,
    endpoint: Url,
    identity: Identity<'_>,
    asked: Asked<'_>,
) -> Result<Request<Vec<u8>>, ProviderError> {
    let mut client = BasicClient::new(ClientId::new(identity.client_id.to_owned()))
        .set_token_uri(TokenUrl::from_url(endpoint))
        .set_auth_type(match identity.authentication {
            ClientAuthentication::Basic => AuthType::BasicAuth,
            ClientAuthentication::Body => AuthType::RequestBody,
        });
    if let Some(secret) = identity.secret {
        client = client.set_client_secret(ClientSecret::new(secret.expose().to_owned()));
    }
    let captured = Captured::default();
    let take = |request: HttpRequest| -> Result<HttpResponse, Never> { captured.take(request) };
    let separator = &profile.authorize.scope_separator;
    // The results say that nothing was answered: the request is what is wanted.
    match asked {
        Asked::Exchange(exchange) => {
            let client = client.set_redirect_uri(redirect_url(exchange.redirect_uri)?);
            let mut building = client.exchange_code(AuthorizationCode::new(exchange.code.expose().to_owned()));
            if profile.authorize.pkce {
                building = building.set_pkce_verifier(pkce_verifier(exchange.verifier)?);
            }
            for (name, value) in &profile.exchange.params {
                building = building.add_extra_param(name.as_str(), value.as_str());
            }
            drop(building.request(&take));
        }
        Asked::Refresh(refresh) => {
            let token = RefreshToken::new(refresh.refresh_token.expose().to_owned());
            let mut building = client.exchange_refresh_token(&token);
            if profile.refresh.send_redirect_uri {
                building = building.add_extra_param("redirect_uri", refresh.redirect_uri);
            }
            if profile.refresh.send_scope && !refresh.scopes.is_empty() {
                building = building.add_extra_param("scope", refresh.scopes.join(separator));
            }
            for (name, value) in &profile.refresh.params {
                building = building.add_extra_param(name.as_str(), value.as_str());
            }
            drop(building.request(&take));
        }
        Asked::ClientCredentials(scopes) => {
            let mut building = client.exchange_client_credentials();
            if !scopes.is_empty() {
                building = building.add_extra_param("scope", scopes.join(separator));
            }
            for (name, value) in &profile.client_credentials.params {
                building = building.add_extra_param(name.as_str(), value.as_str());
            }
            drop(building.request(&take));
        }
    }
    let request = captured.request.into_inner().ok_or(ProviderError::BadRequest { which: "token request" })?;
    encode(request, &profile.client)
}

/// Takes the request that the crate is about to send.
#[derive(Default)]
struct Captured {
    request: RefCell<Option<HttpRequest>>,
}

impl Captured {
    fn take(&self, request: HttpRequest) -> Result<HttpResponse, Never> {
        self.request.replace(Some(request));
        Err(Never)
    }
}

/// Nothing was sent, on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the request was taken out")]
struct Never;

/// Adds the profile's headers, and turns the form into JSON where the profile says so.
fn encode(request: HttpRequest, client: &Client) -> Result<Request<Vec<u8>>, ProviderError> {
    let (mut parts, mut body) = request.into_parts();
    if client.body == BodyEncoding::Json {
        let members: Map<String, Value> = form_urlencoded::parse(&body)
            .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
            .collect();
        body = Value::Object(members).to_string().into_bytes();
        let json = HeaderValue::from_static("application/json");
        parts.headers.insert(header::CONTENT_TYPE, json);
    }
    add_headers(&mut parts.headers, &client.headers)?;
    Ok(Request::from_parts(parts, body))
}

pub(crate) fn add_headers(headers: &mut HeaderMap, more: &BTreeMap<String, String>) -> Result<(), ProviderError> {
    let bad = ProviderError::BadRequest { which: "header" };
    for (name, value) in more {
        let name = HeaderName::try_from(name).map_err(|_| bad.clone())?;
        let value = HeaderValue::try_from(value).map_err(|_| bad.clone())?;
        headers.insert(name, value);
    }
    Ok(())
}

/// `Basic` with both parts form-encoded first (RFC 6749, section 2.3.1).
pub(crate) fn basic(client_id: &str, secret: &Secret) -> Result<HeaderValue, ProviderError> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encode(client_id), encode(secret.expose()));
    credentials("Basic", &data_encoding::BASE64.encode(pair.as_bytes()))
}

/// A value of the `Authorization` header that logs do not show.
pub(crate) fn credentials(scheme: &str, value: &str) -> Result<HeaderValue, ProviderError> {
    let mut value = HeaderValue::try_from(format!("{scheme} {value}"))
        .map_err(|_| ProviderError::BadRequest { which: "credentials" })?;
    value.set_sensitive(true);
    Ok(value)
}
