//! ID tokens, signed with the client secret (OpenID Connect Core 1.0, sections 2 and 3.1.3.7).

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::client::{ClientSettings, IdToken};

/// What an ID token says when nothing is wrong with it.
#[derive(Debug)]
pub(crate) struct Claims<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) name: &'a str,
    pub(crate) nonce: Option<&'a str>,
    pub(crate) now_ms: i64,
}

/// The ID token for this client, or none if its settings say so.
pub(crate) fn sign(client: &ClientSettings, claims: &Claims<'_>) -> Option<String> {
    let now = claims.now_ms.div_euclid(1000);
    let mut body = json!({
        "iss": claims.issuer,
        "sub": claims.subject,
        "aud": client.client_id,
        "iat": now,
        "exp": now + 600,
        "name": claims.name,
        "email": format!("{}@sandbox.example", claims.subject),
    });
    if let Some(nonce) = claims.nonce {
        body["nonce"] = json!(nonce);
    }
    let mut without = |name: &str| {
        if let Some(members) = body.as_object_mut() {
            members.remove(name);
        }
    };
    match client.id_token {
        IdToken::Absent => return None,
        IdToken::Malformed => return Some("not.a-jwt".to_owned()),
        IdToken::NoNonce => without("nonce"),
        IdToken::NoSubject => without("sub"),
        IdToken::WrongIssuer => body["iss"] = json!("https://other.example"),
        IdToken::WrongAudience => body["aud"] = json!("other-client"),
        IdToken::WrongNonce => body["nonce"] = json!("other-nonce"),
        IdToken::Expired => {
            body["iat"] = json!(now - 7200);
            body["exp"] = json!(now - 3600);
        }
        IdToken::Correct | IdToken::Unsigned => {}
    }
    if client.id_token == IdToken::Unsigned {
        return Some(format!("{}.", encode_both(&json!({"alg": "none"}), &body)));
    }
    let signed = encode_both(&json!({"alg": "HS256", "typ": "JWT"}), &body);
    let secret = client.secrets.first().map_or("", String::as_str);
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    mac.update(signed.as_bytes());
    let signature = BASE64URL_NOPAD.encode(&mac.finalize().into_bytes());
    Some(format!("{signed}.{signature}"))
}

fn encode_both(header: &Value, body: &Value) -> String {
    let encode = |part: &Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
    format!("{}.{}", encode(header), encode(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIMS: Claims<'_> =
        Claims { issuer: "https://i", subject: "user-a", name: "User A", nonce: Some("n"), now_ms: 1_000_000 };

    fn body_of(token: &str) -> Value {
        let part = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_correct_token_names_issuer_audience_and_nonce_and_is_signed() {
        let client = ClientSettings::default();
        let token = sign(&client, &CLAIMS).unwrap();
        let body = body_of(&token);
        assert_eq!(body["aud"], "sandbox-client");
        assert_eq!(body["nonce"], "n");
        assert_eq!(body["exp"], 1600);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(b"sandbox-secret").unwrap();
        mac.update(signed.as_bytes());
        mac.verify_slice(&BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap()).unwrap();
    }

    #[test]
    fn each_scripted_defect_shows() {
        let with = |id_token| sign(&ClientSettings { id_token, ..ClientSettings::default() }, &CLAIMS);
        assert_eq!(with(IdToken::Absent), None);
        assert!(body_of(&with(IdToken::NoNonce).unwrap()).get("nonce").is_none());
        assert_eq!(body_of(&with(IdToken::WrongIssuer).unwrap())["iss"], "https://other.example");
        assert!(body_of(&with(IdToken::Expired).unwrap())["exp"].as_i64().unwrap() < 1000);
        assert!(with(IdToken::Unsigned).unwrap().ends_with('.'));
    }
}
