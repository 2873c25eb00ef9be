//! The account behind a grant: from the id_token, the answer, the callback or userinfo.

use http::{Method, Request, header};
use serde_json::Value;
use tokio::time::Instant;
use url::Url;
use valetkey_core::{Account, Secret};

use crate::{
    answer::{at, text},
    id_token::{Expected, are_valid, claims},
    outbound::Outbound,
    pattern::{Pattern, fill},
    profile::{AccountFrom, AccountSource, UserinfoMethod},
    request::credentials,
    resolve::Resolved,
    server::CodeExchange,
};

/// The longest subject that is believed.
const SUBJECT_LIMIT: usize = 512;

/// The longest name for people that is kept.
const NAME_LIMIT: usize = 256;

/// The id_token is not for this flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdTokenInvalid;

/// What is known of an exchange when its account is looked for.
#[derive(Debug)]
pub(crate) struct Looking<'a> {
    pub(crate) resolved: &'a Resolved<'a>,
    pub(crate) exchange: &'a CodeExchange<'a>,
    pub(crate) answer: &'a Value,
    pub(crate) access_token: &'a Secret,
    pub(crate) scopes: &'a [String],
    pub(crate) now: valetkey_core::Timestamp,
}

impl Looking<'_> {
    /// The account, by the first source that applies and has one.
    pub(crate) async fn account(
        &self,
        outbound: &Outbound,
        deadline: Instant,
    ) -> Result<Option<Account>, IdTokenInvalid> {
        for source in &self.resolved.profile.account {
            let asked = |scope: &String| self.scopes.contains(scope);
            if !source.when_scope.as_ref().is_none_or(asked) {
                continue;
            }
            let found = match source.from {
                AccountFrom::IdToken => self.in_id_token(source)?,
                AccountFrom::Answer => self.named(source, self.answer),
                AccountFrom::Callback => {
                    let kept = self.exchange.kept.iter();
                    let kept = kept.map(|(name, value)| (name.clone(), Value::from(value.as_str())));
                    self.named(source, &Value::Object(kept.collect()))
                }
                AccountFrom::Userinfo => self.in_userinfo(source, outbound, deadline).await,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn in_id_token(&self, source: &AccountSource) -> Result<Option<Account>, IdTokenInvalid> {
        let Some(token) = at(self.answer, "id_token").and_then(Value::as_str) else {
            return Ok(None);
        };
        let claims = claims(token).ok_or(IdTokenInvalid)?;
        let Some(issuer) = self.id_token_issuer(source, &claims)? else {
            // Nobody says who the issuer is, so that there is nothing to check against: it proves nothing.
            return Ok(None);
        };
        let expected = Expected {
            issuer: &issuer,
            client_id: &self.resolved.connector.client_id,
            nonce: self.exchange.nonce,
            nonce_required: self.resolved.asks_openid(),
            now: self.now,
        };
        if !are_valid(&claims, expected) {
            return Err(IdTokenInvalid);
        }
        Ok(account(source, &claims, issuer))
    }

    fn id_token_issuer(&self, source: &AccountSource, claims: &Value) -> Result<Option<String>, IdTokenInvalid> {
        let Some(template) = &source.issuer else {
            return self.resolved.issuer().map_err(|_| IdTokenInvalid);
        };
        let filled = fill(template, |name| match name.strip_prefix("claim.") {
            Some(claim) => claims
                .get(claim)
                .and_then(Value::as_str)
                .filter(|value| Pattern::Label.fits(value))
                .map(str::to_owned)
                .ok_or(IdTokenInvalid),
            None => self.resolved.setting(name).map(str::to_owned).map_err(|_| IdTokenInvalid),
        });
        filled.map(Some)
    }

    fn named(&self, source: &AccountSource, members: &Value) -> Option<Account> {
        account(source, members, self.issuer(source)?)
    }

    /// Who vouches for an account that no id_token names: the issuer, else the token endpoint's origin.
    fn issuer(&self, source: &AccountSource) -> Option<String> {
        let resolved = self.resolved;
        if let Some(template) = &source.issuer {
            return resolved.fill(template).ok();
        }
        match resolved.issuer().ok()? {
            Some(issuer) => Some(issuer),
            None => Some(resolved.token().ok()?.origin().ascii_serialization()),
        }
    }

    async fn in_userinfo(&self, source: &AccountSource, outbound: &Outbound, deadline: Instant) -> Option<Account> {
        let resolved = self.resolved;
        let url = match &source.url {
            Some(template) => resolved.guard.parse(&resolved.fill(template).ok()?).ok()?,
            None => resolved.userinfo().ok()??,
        };
        let request = userinfo_request(source, &url, self.access_token)?;
        let answer = outbound.send(request, deadline).await.ok();
        let answer = answer.filter(|answer| answer.status.is_success());
        let Some(answer) = answer else {
            tracing::warn!(
                connector.id = %resolved.connector.id,
                provider = resolved.profile.name,
                "the provider did not name the account behind a new grant"
            );
            return None;
        };
        let members: Value = serde_json::from_slice(&answer.body).ok()?;
        self.named(source, &members)
    }
}

fn userinfo_request(source: &AccountSource, url: &Url, token: &Secret) -> Option<Request<Vec<u8>>> {
    let method = match source.method {
        UserinfoMethod::Get => Method::GET,
        UserinfoMethod::Post => Method::POST,
    };
    Request::builder()
        .method(method)
        .uri(url.as_str())
        .header(header::ACCEPT, "application/json")
        .header(header::AUTHORIZATION, credentials("Bearer", token.expose()).ok()?)
        .body(Vec::new())
        .ok()
}

fn account(source: &AccountSource, members: &Value, issuer: String) -> Option<Account> {
    let parts: Option<Vec<String>> = source.subject.iter().map(|path| at(members, path).and_then(text)).collect();
    let subject = parts?.join(":");
    if subject.len() > SUBJECT_LIMIT || subject.chars().any(char::is_control) {
        return None;
    }
    let name = source
        .name
        .as_ref()
        .and_then(|path| at(members, path).and_then(text))
        .filter(|name| !name.chars().any(char::is_control))
        .map(|name| name.chars().take(NAME_LIMIT).collect());
    Some(Account { issuer, subject, name })
}
