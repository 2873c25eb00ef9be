//! The id_token of a token endpoint's answer.
//!
//! It came straight from the issuer over TLS, which stands in for its signature (OpenID Connect Core, section 3.1.3.7,
//! point 6); everything else that section asks for is checked.

use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;
use valetkey_core::{Secret, Timestamp, constant_time_eq};

/// How far the clocks may differ, in seconds.
const LEEWAY_S: i64 = 60;

/// The claims of an id_token; `None` if it is not a signed JWT.
pub(crate) fn claims(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let payload = BASE64URL_NOPAD.decode(payload.trim_end_matches('=').as_bytes()).ok()?;
    serde_json::from_slice(&payload).ok().filter(Value::is_object)
}

/// What an id_token must agree with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) nonce: &'a Secret,
    /// The authorization request carried the nonce, so that it must come back.
    pub(crate) nonce_required: bool,
    pub(crate) now: Timestamp,
}

/// Whether the claims are for us, now, from whom we think, and for this flow.
pub(crate) fn are_valid(claims: &Value, expected: Expected<'_>) -> bool {
    let now_s = expected.now.as_millis() / 1000;
    let issuer = claims["iss"].as_str() == Some(expected.issuer);
    let alive = seconds(&claims["exp"]).is_some_and(|exp| exp.saturating_add(LEEWAY_S) > now_s);
    let nonce = match &claims["nonce"] {
        Value::Null => !expected.nonce_required,
        Value::String(found) => constant_time_eq(found.as_bytes(), expected.nonce.expose().as_bytes()),
        _ => false,
    };
    let subject = claims["sub"].as_str().is_some_and(|sub| (1..=255).contains(&sub.len()));
    issuer && is_for(claims, expected.client_id) && alive && nonce && subject
}

fn is_for(claims: &Value, client_id: &str) -> bool {
    let party = &claims["azp"];
    let ours = |value: &Value| value.as_str() == Some(client_id);
    match &claims["aud"] {
        Value::Array(audiences) => {
            audiences.iter().any(ours) && (ours(party) || (party.is_null() && audiences.len() == 1))
        }
        audience => ours(audience) && (party.is_null() || ours(party)),
    }
}

fn seconds(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        value.as_f64().filter(|exp| exp.is_finite()).map(|exp| {
            // Times far beyond every calendar are clamped by the cast, which is what is wanted.
            #[expect(clippy::cast_possible_truncation, reason = "saturates")]
            let whole = exp as i64;
            whole
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn good() -> Value {
        json!({"iss": "https://idp.example", "aud": "client-1", "sub": "s-1", "exp": NOW + 300, "nonce": "n-1"})
    }

    fn valid(claims: &Value) -> bool {
        let nonce = Secret::from("n-1");
        are_valid(
            claims,
            Expected {
                issuer: "https://idp.example",
                client_id: "client-1",
                nonce: &nonce,
                nonce_required: true,
                now: Timestamp::from_millis(NOW * 1000),
            },
        )
    }

    #[test]
    fn a_good_one_is_valid() {
        assert!(valid(&good()));
    }

    #[test]
    fn each_wrong_claim_makes_it_invalid() {
        for (claim, wrong) in [
            ("iss", json!("https://idp.example/")),
            ("iss", json!(null)),
            ("aud", json!("client-2")),
            ("aud", json!(["client-2"])),
            ("aud", json!(["client-1", "client-2"])),
            ("aud", json!([])),
            ("aud", json!(7)),
            ("azp", json!("client-2")),
            ("exp", json!(NOW - 60)),
            ("exp", json!("soon")),
            ("exp", json!(null)),
            ("nonce", json!("n-2")),
            ("nonce", json!(null)),
            ("sub", json!("")),
            ("sub", json!(7)),
            ("sub", json!("s".repeat(256))),
        ] {
            let mut claims = good();
            claims[claim] = wrong.clone();
            assert!(!valid(&claims), "{claim} = {wrong}");
        }
    }

    #[test]
    fn what_the_specification_allows_is_valid() {
        for (claim, right) in [
            ("aud", json!(["client-1"])),
            ("azp", json!("client-1")),
            ("exp", json!(NOW - 59)),
            ("exp", json!(1.8e9 + 300.5)),
        ] {
            let mut claims = good();
            claims[claim] = right.clone();
            assert!(valid(&claims), "{claim} = {right}");
        }
        let mut claims = good();
        claims["aud"] = json!(["client-1", "client-2"]);
        claims["azp"] = json!("client-1");
        assert!(valid(&claims));
    }

    #[test]
    fn only_three_parts_with_claims_are_a_token() {
        let payload = BASE64URL_NOPAD.encode(b"{\"sub\":\"s\"}");
        assert_eq!(claims(&format!("e30.{payload}.x")).unwrap()["sub"], "s");
        assert!(claims(&format!("e30.{payload}==.x")).is_some());
        for bad in ["", "a", "a.b", "a.!.c", "a.b.c.d", "e30.W10.x"] {
            assert!(claims(bad).is_none(), "{bad}");
        }
    }
}
