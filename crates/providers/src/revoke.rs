//! Revocation: in the provider's own style, with a truthful outcome.

use http::{HeaderValue, Method, Request, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::{Url, form_urlencoded};
use valetkey_core::{Clock, Secret, TokenKind};

use crate::{
    NotSent, ProviderError, RevokeOutcome, TokenOutcome, UnknownOutcome,
    answer::{is_failure, parse, retry_after},
    classify::error_code,
    outbound::{Answer, Outbound, SendFault},
    profile::{BodyEncoding, ClientAuthentication, RevocableToken, RevocationStyle},
    request::{add_headers, basic, credentials},
    resolve::Resolved,
};

/// One revocation.
#[derive(Debug)]
pub(crate) struct Revoking<'a> {
    pub(crate) resolved: &'a Resolved<'a>,
    pub(crate) secrets: &'a [Secret],
    pub(crate) outbound: &'a Outbound,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) deadline: Instant,
}

impl Revoking<'_> {
    /// Whether a refresh token is to be exchanged for an access token, and that one to be revoked.
    pub(crate) fn wants_refresh_first(&self, kind: TokenKind) -> bool {
        let revocation = &self.resolved.profile.revocation;
        kind == TokenKind::Refresh && revocation.refresh_first
    }

    /// What an unsuccessful refresh before a revocation means for it.
    pub(crate) fn after_refresh(outcome: &TokenOutcome) -> RevokeOutcome {
        match outcome {
            TokenOutcome::Dead { .. } => RevokeOutcome::Confirmed,
            TokenOutcome::Limited { retry_after } => {
                RevokeOutcome::Retry { code: "limited", retry_after: *retry_after }
            }
            TokenOutcome::NotSent(cause) => not_sent(*cause),
            TokenOutcome::Unknown { cause, retry_after } => {
                RevokeOutcome::Retry { code: cause.code(), retry_after: *retry_after }
            }
            TokenOutcome::Client { code } | TokenOutcome::Refused { code } => RevokeOutcome::Failed { code },
            TokenOutcome::Granted(_) | TokenOutcome::GrantedButUnusable { .. } => retry("granted"),
        }
    }

    /// Tells the provider, once with each client secret until one is accepted.
    pub(crate) async fn revoke(&self, token: &Secret, kind: TokenKind) -> RevokeOutcome {
        let revocation = &self.resolved.profile.revocation;
        let accepted = match revocation.token {
            RevocableToken::Either => true,
            RevocableToken::Refresh => kind == TokenKind::Refresh,
            RevocableToken::Access => kind == TokenKind::Access,
        };
        if revocation.style == RevocationStyle::None || !accepted {
            return RevokeOutcome::Unsupported;
        }
        let url = match self.resolved.revocation() {
            Ok(Some(url)) => url,
            Ok(None) => return RevokeOutcome::Unsupported,
            Err(_) => return not_sent(NotSent::AddressRefused),
        };
        let mut tries: Vec<Option<&Secret>> = match revocation.style {
            RevocationStyle::Bearer | RevocationStyle::FormTokenOnly => Vec::new(),
            _ => self.secrets.iter().map(Some).collect(),
        };
        if tries.is_empty() {
            tries.push(None);
        }
        let mut refused = RevokeOutcome::Failed { code: NotSent::Misconfigured.code() };
        for secret in tries {
            let Ok(request) = self.request(&url, token, kind, secret) else {
                return not_sent(NotSent::Misconfigured);
            };
            let answer = match self.outbound.send(request, self.deadline).await {
                Ok(answer) => answer,
                Err(SendFault::NotSent(cause)) => return not_sent(cause),
                Err(SendFault::Unknown(cause)) => return retry(cause.code()),
            };
            match self.read(&answer) {
                outcome @ RevokeOutcome::Failed { code: INVALID_CLIENT } => refused = outcome,
                outcome => return outcome,
            }
        }
        refused
    }

    fn request(
        &self,
        url: &Url,
        token: &Secret,
        kind: TokenKind,
        secret: Option<&Secret>,
    ) -> Result<Request<Vec<u8>>, ProviderError> {
        let profile = self.resolved.profile;
        let client_id = &self.resolved.connector.client_id;
        let style = profile.revocation.style;
        let method = match style {
            RevocationStyle::GithubDelete => Method::DELETE,
            _ => Method::POST,
        };
        let mut authorization = None;
        let mut members: Vec<(&str, &str)> = Vec::new();
        match style {
            RevocationStyle::Bearer => authorization = Some(credentials("Bearer", token.expose())?),
            RevocationStyle::GithubDelete => members.push(("access_token", token.expose())),
            RevocationStyle::Rfc7009 => {
                members.push(("token", token.expose()));
                members.push((
                    "token_type_hint",
                    match kind {
                        TokenKind::Refresh => "refresh_token",
                        TokenKind::Access => "access_token",
                    },
                ));
            }
            _ => members.push(("token", token.expose())),
        }
        let json_style = matches!(style, RevocationStyle::JsonBasic | RevocationStyle::GithubDelete);
        if json_style || style == RevocationStyle::Rfc7009 {
            let way = if json_style { ClientAuthentication::Basic } else { self.resolved.authentication()? };
            match (way, secret) {
                (ClientAuthentication::Basic, Some(secret)) => {
                    authorization = Some(basic(client_id, secret)?);
                }
                (_, secret) => {
                    members.push(("client_id", client_id));
                    members.extend(secret.map(|secret| ("client_secret", secret.expose())));
                }
            }
        }
        let json = json_style || (style == RevocationStyle::Rfc7009 && profile.client.body == BodyEncoding::Json);
        build(method, url, authorization, &members, json, &profile.client.headers)
    }

    fn read(&self, answer: &Answer) -> RevokeOutcome {
        let profile = self.resolved.profile;
        let status = answer.status;
        let members = parse(&answer.headers, &answer.body);
        let failed = members.as_ref().is_some_and(|members| is_failure(members, &profile.answer));
        if status.is_success() && !failed {
            return RevokeOutcome::Confirmed;
        }
        let wait = retry_after(&answer.headers, self.clock.now());
        if status == StatusCode::TOO_MANY_REQUESTS {
            return RevokeOutcome::Retry { code: "limited", retry_after: wait };
        }
        if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
            return RevokeOutcome::Retry { code: UnknownOutcome::ServerError.code(), retry_after: wait };
        }
        if status.is_redirection() {
            return RevokeOutcome::Failed { code: UnknownOutcome::Redirect.code() };
        }
        let code = members.as_ref().and_then(error_code).unwrap_or("");
        if profile.revocation.already_gone.iter().any(|gone| gone == code) {
            return RevokeOutcome::Confirmed;
        }
        let bearer = profile.revocation.style == RevocationStyle::Bearer;
        match code {
            // RFC 7009 wants 200 for a token that is not valid; some servers say it in words.
            "invalid_token" | "invalid_grant" => RevokeOutcome::Confirmed,
            "unsupported_token_type" => RevokeOutcome::Unsupported,
            "ratelimited"
            | "slow_down"
            | "temporarily_unavailable"
            | "server_error"
            | "internal_error"
            | "fatal_error"
            | "service_unavailable" => {
                RevokeOutcome::Retry { code: UnknownOutcome::ServerError.code(), retry_after: wait }
            }
            // A token that does not authenticate its own revocation authenticates nothing.
            _ if bearer && status == StatusCode::UNAUTHORIZED => RevokeOutcome::Confirmed,
            "invalid_client" | "unauthorized_client" => RevokeOutcome::Failed { code: INVALID_CLIENT },
            _ if status == StatusCode::UNAUTHORIZED => RevokeOutcome::Failed { code: INVALID_CLIENT },
            _ if status == StatusCode::NOT_FOUND => RevokeOutcome::Failed { code: "not_found" },
            _ => RevokeOutcome::Failed { code: "refused" },
        }
    }
}

/// The provider does not accept our client: the next secret is tried.
const INVALID_CLIENT: &str = "invalid_client";

fn build(
    method: Method,
    url: &Url,
    authorization: Option<HeaderValue>,
    members: &[(&str, &str)],
    as_json: bool,
    more: &std::collections::BTreeMap<String, String>,
) -> Result<Request<Vec<u8>>, ProviderError> {
    let mut request = Request::builder()
        .method(method)
        .uri(url.as_str())
        .header(header::ACCEPT, "application/json")
        .body(Vec::new())
        .map_err(|_| ProviderError::BadRequest { which: "revocation" })?;
    let headers = request.headers_mut();
    if let Some(authorization) = authorization {
        headers.insert(header::AUTHORIZATION, authorization);
    }
    if !members.is_empty() {
        let kind = if as_json { "application/json" } else { "application/x-www-form-urlencoded" };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    add_headers(headers, more)?;
    if as_json {
        let object: serde_json::Map<String, Value> =
            members.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        *request.body_mut() = Value::Object(object).to_string().into_bytes();
    } else {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(members).finish();
        *request.body_mut() = form.into_bytes();
    }
    Ok(request)
}

fn retry(code: &'static str) -> RevokeOutcome {
    RevokeOutcome::Retry { code, retry_after: None }
}

fn not_sent(cause: NotSent) -> RevokeOutcome {
    if cause.may_pass() { retry(cause.code()) } else { RevokeOutcome::Failed { code: cause.code() } }
}
