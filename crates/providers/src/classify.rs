//! What a failure means: the profile's rules first, then RFC 6749, then the status.

use http::StatusCode;
use serde_json::Value;
use valetkey_core::{ReauthReason, Timestamp};

use crate::{
    TokenOutcome, UnknownOutcome,
    answer::{at, is_failure, matches, parse, retry_after},
    outbound::Answer,
    profile::{Call, ErrorRule, Means, Profile},
};

/// The address is wrong, or takes no such request.
const ENDPOINT_REFUSED: [StatusCode; 5] = [
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::NOT_ACCEPTABLE,
    StatusCode::GONE,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
];

/// What an answer of the token endpoint says.
#[derive(Debug)]
pub(crate) enum Reading {
    /// A success, with its members.
    Success(Value),
    /// Anything else.
    Failure(TokenOutcome),
}

/// Reads an answer of the token endpoint.
pub(crate) fn read(profile: &Profile, call: Call, answer: &Answer, now: Timestamp) -> Reading {
    let members = parse(&answer.headers, &answer.body);
    let status = answer.status;
    if status.is_success()
        && let Some(members) = &members
        && !is_failure(members, &profile.answer)
    {
        return Reading::Success(members.clone());
    }
    Reading::Failure(failure(profile, call, answer, members.as_ref(), now))
}

fn failure(profile: &Profile, call: Call, answer: &Answer, members: Option<&Value>, now: Timestamp) -> TokenOutcome {
    let status = answer.status;
    let wait = || retry_after(&answer.headers, now);
    let ruled = profile.errors.iter().find(|rule| applies(rule, call, status, members));
    if let Some(rule) = ruled {
        return match rule.means {
            Means::Dead => TokenOutcome::Dead { reason: ReauthReason::GrantRevoked, code: "grant_dead" },
            Means::Interaction => {
                TokenOutcome::Dead { reason: ReauthReason::InteractionRequired, code: "interaction_required" }
            }
            Means::Client => TokenOutcome::Client { code: "client_refused" },
            Means::ClientSecret => TokenOutcome::Client { code: INVALID_CLIENT },
            Means::Transient | Means::Limited => TokenOutcome::Limited { retry_after: wait() },
            Means::Unknown => TokenOutcome::Unknown { cause: UnknownOutcome::SaidSo, retry_after: wait() },
            Means::Admin => TokenOutcome::Refused { code: "policy" },
            Means::Refused => TokenOutcome::Refused { code: "refused" },
        };
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        return TokenOutcome::Limited { retry_after: wait() };
    }
    if status.is_redirection() {
        return UnknownOutcome::Redirect.into();
    }
    // RFC 8470, section 5.2: the server did not want to process it.
    if status == StatusCode::TOO_EARLY {
        return TokenOutcome::Refused { code: "too_early" };
    }
    if status.is_server_error() || status.is_informational() || status == StatusCode::REQUEST_TIMEOUT {
        return TokenOutcome::Unknown { cause: UnknownOutcome::ServerError, retry_after: wait() };
    }
    let code = members.and_then(error_code);
    if let Some(outcome) = code.map(|code| by_code(code, wait)) {
        return outcome;
    }
    match (status, members) {
        (StatusCode::UNAUTHORIZED, _) => TokenOutcome::Client { code: UNAUTHORIZED },
        // Whatever answered, nobody looked at the token.
        (status, _) if ENDPOINT_REFUSED.contains(&status) => TokenOutcome::Refused { code: "endpoint_refused" },
        (_, None) => UnknownOutcome::Unreadable.into(),
        (status, Some(_)) if status.is_success() => UnknownOutcome::NoAccessToken.into(),
        (_, Some(_)) => UnknownOutcome::NoErrorCode.into(),
    }
}

fn applies(rule: &ErrorRule, call: Call, status: StatusCode, members: Option<&Value>) -> bool {
    let field = members.and_then(|members| at(members, &rule.field));
    rule.at.is_none_or(|only| only == call)
        && rule.status.is_none_or(|only| only == status.as_u16())
        && rule.code.as_ref().is_none_or(|code| field.is_some_and(|field| matches(field, code)))
        && rule.contains.as_ref().is_none_or(|part| {
            field.and_then(Value::as_str).is_some_and(|text| text.to_lowercase().contains(&part.to_lowercase()))
        })
}

/// The error of an answer: a text, or the code inside an object.
pub(crate) fn error_code(members: &Value) -> Option<&str> {
    let error = at(members, "error")?;
    let code = match error {
        Value::Object(_) => at(error, "code").or_else(|| at(error, "type"))?,
        error => error,
    };
    code.as_str().filter(|code| !code.is_empty())
}

/// The errors of RFC 6749, section 5.2, and of those who extend it. Only our own words leave here.
fn by_code(code: &str, wait: impl FnOnce() -> Option<std::time::Duration>) -> TokenOutcome {
    let interaction = |code| TokenOutcome::Dead { reason: ReauthReason::InteractionRequired, code };
    match code {
        "invalid_grant" => TokenOutcome::Dead { reason: ReauthReason::GrantRevoked, code: "invalid_grant" },
        "interaction_required" => interaction("interaction_required"),
        "login_required" => interaction("login_required"),
        "consent_required" => interaction("consent_required"),
        "invalid_client" => TokenOutcome::Client { code: INVALID_CLIENT },
        "unauthorized_client" => TokenOutcome::Client { code: "unauthorized_client" },
        "slow_down" => TokenOutcome::Limited { retry_after: wait() },
        "temporarily_unavailable" | "server_error" => {
            TokenOutcome::Unknown { cause: UnknownOutcome::ServerError, retry_after: wait() }
        }
        "invalid_request" => TokenOutcome::Refused { code: "invalid_request" },
        "invalid_scope" => TokenOutcome::Refused { code: "invalid_scope" },
        "invalid_target" => TokenOutcome::Refused { code: "invalid_target" },
        "unsupported_grant_type" => TokenOutcome::Refused { code: "unsupported_grant_type" },
        "access_denied" => TokenOutcome::Refused { code: "access_denied" },
        _ => TokenOutcome::Refused { code: "other_error" },
    }
}

/// The provider does not accept our client's secret.
const INVALID_CLIENT: &str = "invalid_client";

/// The same, said by the status alone.
const UNAUTHORIZED: &str = "unauthorized";

/// Whether another client secret may help.
pub(crate) fn wants_next_secret(outcome: &TokenOutcome) -> bool {
    matches!(outcome, TokenOutcome::Client { code: INVALID_CLIENT | UNAUTHORIZED })
}
