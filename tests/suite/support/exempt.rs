//! What belongs where it stands: the fields that are meant to carry a secret. Everything else must not.

use serde_json::Value;
use url::Url;

/// The fields of answers of the API: an operation, where in its answer, and what stands there.
pub const FIELDS: &[(&str, &str, &str, &str)] = &[
    ("POST", "/v1/connectors/{id}/token", "/access_token", "an access token"),
    ("POST", "/v1/connectors/{id}/token", "/start/start_url", "a ticket"),
    ("POST", "/v1/connectors/{id}/flows", "/start_url", "a ticket"),
    ("POST", "/v1/keys", "/key", "an API key"),
];

/// Takes the values of such fields out of an answer's body; the secrets in them, with what they are.
pub(crate) fn take_from_answer(method: &str, path: &str, body: &mut String) -> Vec<(String, &'static str)> {
    let mut taken = Vec::new();
    let fields = FIELDS.iter().filter(|(of, pattern, ..)| *of == method && fits(path, pattern));
    for (_, _, pointer, what) in fields {
        let Ok(json) = serde_json::from_str::<Value>(body) else { continue };
        let Some(value) = json.pointer(pointer).and_then(Value::as_str) else { continue };
        // Once, and as the value of that member: the same text elsewhere is a hit.
        let member = format!("\"{}\":\"{value}\"", pointer.rsplit('/').next().unwrap_or_default());
        *body = body.replacen(&member, "\"(taken)\":\"\"", 1);
        // The part of a link that is secret.
        taken.push((value.rsplit('/').next().unwrap_or_default().to_owned(), *what));
    }
    taken
}

fn fits(path: &str, pattern: &str) -> bool {
    let (path, pattern) = (path.split('/'), pattern.split('/'));
    path.clone().count() == pattern.clone().count() && path.zip(pattern).all(|(is, of)| of == "{id}" || is == of)
}

/// The same for what a browser is shown, headers first: the way to the provider, the cookie, and what comes home.
pub(crate) fn take_from_page(method: &str, path: &str, text: &mut String) -> Vec<(String, &'static str)> {
    let mut taken = Vec::new();
    if method == "POST" && path.starts_with("/connect/") {
        for location in cut(text, "\"location\":\"", &['"']) {
            let pairs = location.parse::<Url>().map(|url| url.query_pairs().into_owned().collect::<Vec<_>>());
            let secret = |(name, _): &(String, String)| name == "state" || name == "nonce";
            taken.extend(pairs.into_iter().flatten().filter(secret).map(|(_, value)| (value, "a state or nonce")));
        }
        for cookie in cut(text, "\"set-cookie\": \"", &[';', '"']) {
            taken.push((cookie.split_once('=').unwrap_or_default().1.to_owned(), "a cookie"));
        }
    }
    if method == "GET" && path.starts_with("/connect/") {
        cut(text, "action=\"", &['"']);
    }
    if path.starts_with("/oauth/") {
        for start in ["data-handle=\"", "handle=", "name=\"token\" value=\""] {
            taken.extend(cut(text, start, &['"', '&', '<', ' ', '\'']).into_iter().map(|value| (value, "a handle")));
        }
    }
    taken.retain(|(value, _)| value.len() >= 16);
    taken
}

/// Takes out what follows each `start`, up to one of `ends`.
fn cut(text: &mut String, start: &str, ends: &[char]) -> Vec<String> {
    let (mut kept, mut taken) = (String::with_capacity(text.len()), Vec::new());
    let mut rest = text.as_str();
    while let Some(found) = rest.find(start) {
        let value = found + start.len();
        let length = rest[value..].find(ends).unwrap_or(rest.len() - value);
        kept.push_str(&rest[..value]);
        taken.push(rest[value..value + length].to_owned());
        rest = &rest[value + length..];
    }
    kept.push_str(rest);
    *text = kept;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(method: &str, path: &str, body: &str) -> (String, Vec<(String, &'static str)>) {
        let mut body = body.to_owned();
        let taken = take_from_answer(method, path, &mut body);
        (body, taken)
    }

    #[test]
    fn what_belongs_is_passed_over_and_nothing_else() {
        let token = r#"{"access_token":"sbx_at_x","scopes":[]}"#;
        let path = "/v1/connectors/ctr_1/token";
        let (kept, secrets) = answer("POST", path, token);
        assert!(!kept.contains("sbx_at_"), "{kept}");
        assert_eq!(secrets, [("sbx_at_x".to_owned(), "an access token")]);
        for elsewhere in ["/v1/connections/cxn_1", "/v1/connectors/ctr_1", "/v1/connectors/ctr_1/token/more"] {
            assert!(answer("POST", elsewhere, token).0.contains("sbx_at_"), "{elsewhere}");
        }
        assert!(answer("GET", path, token).0.contains("sbx_at_"));
        for leak in [
            r#"{"access_token":"sbx_at_x","more":"sbx_at_x"}"#,
            r#"{"access_token":"sbx_at_x","more":{"access_token":"sbx_at_x"}}"#,
            r#"{"more":{"access_token":"sbx_at_x"}}"#,
        ] {
            assert!(answer("POST", path, leak).0.contains("sbx_at_"), "{leak}");
        }
    }

    #[test]
    fn of_a_page_the_way_out_and_the_way_home_belong() {
        let mut text = "200 {\"set-cookie\": \"__Host-vk_flw=cookie-0123456789ab; Path=/\"}\n{\"location\":\
                        \"https://idp.example/a?state=state-0123456789ab&x=kept\"}"
            .to_owned();
        let taken = take_from_page("POST", "/connect/t", &mut text);
        assert_eq!(taken.len(), 2, "{taken:?}");
        assert!(!text.contains("0123456789ab"), "{text}");
        let mut text = "<a href=\"https://app.example/#handle=handle-0123456789ab\">state-0123456789ab".to_owned();
        take_from_page("GET", "/oauth/callback/ctr_1", &mut text);
        assert!(text.contains("state-0123456789ab") && !text.contains("handle-0123456789ab"), "{text}");
    }
}
