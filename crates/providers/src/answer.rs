//! Answers: read leniently, believed carefully.

use std::time::Duration;

use http::{HeaderMap, header};
use serde_json::{Map, Number, Value};
use url::form_urlencoded;
use valetkey_core::{Secret, Timestamp, TokenSet};

use crate::profile::{AnswerShape, Expiry, ExpiryKind, Profile, Scalar};

/// The longest token that is believed.
const TOKEN_LIMIT: usize = 16 * 1024;

/// The longest life that is believed: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The longest wait that is believed: a day.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// How many scopes are read.
const SCOPES: usize = 1000;

/// Members of forms that are tokens or errors: what makes an answer that nobody labelled a form.
const FORM_MARKS: [&str; 2] = ["access_token", "error"];

/// A body as members and values, whether it came as JSON or as a form. Where a member comes twice the last one counts.
pub(crate) fn parse(headers: &HeaderMap, body: &[u8]) -> Option<Value> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if let Ok(value @ Value::Object(_)) = serde_json::from_slice(body) {
        return Some(value);
    }
    let text = std::str::from_utf8(body).ok()?.trim();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or("").to_ascii_lowercase();
    let plain = kind.is_empty() || kind.starts_with("text/plain");
    let form = kind.starts_with("application/x-www-form-urlencoded");
    if !(form || plain) || text.starts_with(['{', '[', '<']) || !text.contains('=') {
        return None;
    }
    let members: Map<String, Value> = form_urlencoded::parse(text.as_bytes())
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect();
    let marked = FORM_MARKS.iter().any(|mark| members.contains_key(*mark));
    marked.then_some(Value::Object(members))
}

/// What lies at a path; null counts as nothing.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| value.get(name)).filter(|found| !found.is_null())
}

fn first<'a>(value: &'a Value, paths: &[String]) -> Option<&'a Value> {
    paths.iter().find_map(|path| at(value, path))
}

/// A text, or a number as text.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Whether a value is what a rule looks for, or a list that holds it.
pub(crate) fn matches(value: &Value, wanted: &Scalar) -> bool {
    match (value, wanted) {
        (Value::Array(items), _) => items.iter().any(|item| !item.is_array() && matches(item, wanted)),
        (Value::Bool(found), Scalar::Bool(wanted)) => found == wanted,
        (Value::Number(found), Scalar::Number(wanted)) => found.as_i64() == Some(*wanted),
        (Value::String(found), Scalar::Text(wanted)) => found == wanted,
        (Value::String(found), Scalar::Number(wanted)) => found.parse() == Ok(*wanted),
        (Value::String(found), Scalar::Bool(wanted)) => found == if *wanted { "true" } else { "false" },
        _ => false,
    }
}

/// Whether an answer says that it is a failure, whatever its status.
pub(crate) fn is_failure(answer: &Value, shape: &AnswerShape) -> bool {
    let stated = shape
        .failure
        .as_ref()
        .is_some_and(|rule| at(answer, &rule.path).is_some_and(|found| matches(found, &rule.equals)));
    let error = at(answer, "error").is_some_and(|error| match error {
        Value::String(code) => !code.is_empty(),
        Value::Object(_) => true,
        _ => false,
    });
    // A broken habit of some servers is `error: ""` or an error of an optional part beside good tokens: only an answer
    // without a token is a failure for its `error` alone.
    stated || (error && access_token(answer, shape).is_none())
}

fn access_token(answer: &Value, shape: &AnswerShape) -> Option<Secret> {
    first(answer, &shape.access_token).and_then(token)
}

/// A token that can be put into a header: visible ASCII (RFC 6749, appendix A.12), of bounded length.
fn token(value: &Value) -> Option<Secret> {
    let text = value.as_str()?;
    let fits = (1..=TOKEN_LIMIT).contains(&text.len()) && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
    (fits && text.trim() == text).then(|| Secret::from(text))
}

/// Whether an answer holds something in place of a refresh token that can never be presented.
pub(crate) fn has_unusable_refresh_token(answer: &Value, shape: &AnswerShape) -> bool {
    first(answer, &shape.refresh_token).is_some_and(|value| value.as_str() != Some("") && token(value).is_none())
}

/// The token set of an answer; `None` without a usable access token.
pub(crate) fn token_set(answer: &Value, profile: &Profile, sent_at: Timestamp) -> Option<TokenSet> {
    let shape = &profile.answer;
    let lives = &profile.lives;
    let access_token = access_token(answer, shape)?;
    let refresh_token = first(answer, &shape.refresh_token).and_then(|value| {
        let found = token(value);
        if found.is_none() && value.as_str() != Some("") {
            tracing::warn!(provider = profile.name, "an answer holds a refresh token that cannot be used");
        }
        found
    });
    let life = |seconds: Option<u64>| seconds.map(|seconds| sent_at.plus(Duration::from_secs(seconds).min(LONGEST)));
    let expires_at = match end(answer, &shape.expires, sent_at) {
        End::At(at) => Some(at),
        End::Never => None,
        End::Unsaid => life(lives.access_s),
    };
    let refresh_expires_at = match shape.refresh_expires.as_ref().map(|expiry| end(answer, expiry, sent_at)) {
        _ if refresh_token.is_none() => None,
        Some(End::At(at)) => Some(at),
        Some(End::Never) => None,
        Some(End::Unsaid) | None => life(lives.refresh_idle_s),
    };
    Some(TokenSet {
        access_token,
        token_type: token_type(answer, shape),
        refresh_token,
        scopes: scopes(answer, profile),
        issued_at: sent_at,
        expires_at,
        refresh_expires_at,
        reconnect_by: None,
        account: None,
    })
}

fn token_type(answer: &Value, shape: &AnswerShape) -> String {
    let stated = shape.token_type.as_deref().or_else(|| at(answer, "token_type").and_then(Value::as_str));
    match stated {
        Some(word)
            if (1..=64).contains(&word.len())
                && !word.eq_ignore_ascii_case("bearer")
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) =>
        {
            word.to_owned()
        }
        _ => "Bearer".to_owned(),
    }
}

fn scopes(answer: &Value, profile: &Profile) -> Option<Vec<String>> {
    let shape = &profile.answer;
    let separator = shape.scope_separator.as_ref().unwrap_or(&profile.authorize.scope_separator);
    let found = first(answer, &shape.scope)?;
    let texts: Vec<&str> = match found {
        Value::String(text) => text.split(separator.as_str()).collect(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    let words = texts.into_iter().flat_map(str::split_whitespace);
    let mut scopes: Vec<String> = Vec::new();
    for word in words.filter(|word| !word.chars().any(char::is_control)).take(SCOPES) {
        if !scopes.iter().any(|known| known == word) {
            scopes.push(word.to_owned());
        }
    }
    Some(scopes)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    At(Timestamp),
    Never,
    Unsaid,
}

/// When something ends. Nonsense counts as unsaid: negative, not a number, in the past of 1970, or zero where zero is not
/// said to mean "never" (a life of nothing would be refreshed without end).
fn end(answer: &Value, expiry: &Expiry, sent_at: Timestamp) -> End {
    let Some(value) = first(answer, &expiry.path) else {
        return End::Unsaid;
    };
    if expiry.kind == ExpiryKind::Rfc3339 {
        let at = value.as_str().and_then(Timestamp::from_rfc3339);
        return at.map_or(End::Unsaid, |at| End::At(at.min(sent_at.plus(LONGEST))));
    }
    let Some(number) = number(value) else {
        return End::Unsaid;
    };
    if number == 0.0 && expiry.zero_is_never {
        return End::Never;
    }
    if number <= 0.0 {
        return End::Unsaid;
    }
    let seconds = match expiry.kind {
        ExpiryKind::Ms => number / 1000.0,
        ExpiryKind::Epoch => number - Duration::from_millis(sent_at.as_millis().unsigned_abs()).as_secs_f64(),
        ExpiryKind::Seconds | ExpiryKind::Rfc3339 => number,
    };
    let life = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(LONGEST).min(LONGEST);
    End::At(sent_at.plus(Duration::from_millis(u64::try_from(life.as_millis()).unwrap_or(0))))
}

/// A finite number, also from text.
fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => Number::as_f64(number)?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// What `Retry-After` asks for, in seconds or as an HTTP date (RFC 9110, section 10.2.3); at most a day.
pub(crate) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if let Ok(seconds) = text.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let at = httpdate::parse_http_date(text).ok()?;
        let since_epoch = at.duration_since(std::time::UNIX_EPOCH).ok()?;
        let millis = i64::try_from(since_epoch.as_millis()).ok()?;
        Timestamp::from_millis(millis).since(now)
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(kind: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        headers
    }

    fn profile(more: &str) -> Profile {
        let head = r#"
name = "x"
title = "X"
docs = "https://docs.example/"
reviewed_on = "2026-11-21"
[endpoints]
"#;
        toml::from_str(&format!("{head}{more}")).unwrap()
    }

    fn sent_at() -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000)
    }

    fn read_with(profile: &Profile, body: &str) -> Option<TokenSet> {
        let members = parse(&headers("application/json"), body.as_bytes())?;
        token_set(&members, profile, sent_at())
    }

    fn read(body: &str) -> Option<TokenSet> {
        read_with(&profile(""), body)
    }

    /// The life of the access token in seconds, for a value of `expires_in`.
    fn life_of(value: &str) -> Option<u64> {
        let tokens = read(&format!("{{\"access_token\":\"a\",\"expires_in\":{value}}}")).unwrap();
        tokens.expires_at.map(|at| at.since(sent_at()).as_secs())
    }

    #[test]
    fn expires_in_is_read_in_every_spelling_and_clamped() {
        for (value, life) in [
            ("3600", Some(3600)),
            ("\"3600\"", Some(3600)),
            ("\" 3600 \"", Some(3600)),
            ("3600.7", Some(3600)),
            ("\"3599.99\"", Some(3599)),
            ("3.6e3", Some(3600)),
            ("1e30", Some(LONGEST.as_secs())),
            ("99999999999999999999999999", Some(LONGEST.as_secs())),
            ("9223372036854775807", Some(LONGEST.as_secs())),
            ("0", None),
            ("-1", None),
            ("-1e300", None),
            ("\"soon\"", None),
            ("\"\"", None),
            ("\"inf\"", None),
            ("\"NaN\"", None),
            ("null", None),
            ("true", None),
            ("[3600]", None),
            ("{\"seconds\":3600}", None),
        ] {
            assert_eq!(life_of(value), life, "{value}");
        }
    }

    #[test]
    fn ends_are_read_in_every_kind() {
        for (kind, value, life) in [
            ("seconds", "\"60\"", Some(60)),
            ("ms", "60000", Some(60)),
            ("epoch", "1800000060", Some(60)),
            ("epoch", "1700000000", Some(0)),
            ("epoch", "99999999999999", Some(LONGEST.as_secs())),
            ("rfc3339", "\"2027-01-15T08:01:00Z\"", Some(60)),
            ("rfc3339", "\"2999-01-15T08:01:00Z\"", Some(LONGEST.as_secs())),
            ("rfc3339", "\"tomorrow\"", None),
            ("rfc3339", "1800000060", None),
        ] {
            let more = format!("[answer]\nexpires = {{ path = \"until.at\", kind = \"{kind}\" }}");
            let body = format!("{{\"access_token\":\"a\",\"until\":{{\"at\":{value}}}}}");
            let tokens = read_with(&profile(&more), &body).unwrap();
            let found = tokens.expires_at.map(|at| at.since(sent_at()).as_secs());
            assert_eq!(found, life, "{kind} {value}");
        }
    }

    #[test]
    fn silence_is_filled_by_the_profile_and_zero_may_mean_never() {
        let lives = "[lives]\naccess_s = 600\nrefresh_idle_s = 900\n";
        let silent = read_with(&profile(lives), r#"{"access_token":"a","refresh_token":"r"}"#).unwrap();
        assert_eq!(silent.expires_at, Some(sent_at().plus(Duration::from_secs(600))));
        assert_eq!(silent.refresh_expires_at, Some(sent_at().plus(Duration::from_secs(900))));
        let without = read_with(&profile(lives), r#"{"access_token":"a"}"#).unwrap();
        assert_eq!(without.refresh_expires_at, None);
        let zero = "[answer]\nexpires = { path = \"expires_in\", zero_is_never = true }\n";
        let never = read_with(&profile(&format!("{lives}{zero}")), r#"{"access_token":"a","expires_in":0}"#);
        assert_eq!(never.unwrap().expires_at, None);
    }

    #[test]
    fn scopes_come_as_text_or_list_with_any_separator() {
        let comma = profile("[answer]\nscope_separator = \",\"");
        for (profile, value, scopes) in [
            (&profile(""), "\"a b  c\"", Some(vec!["a", "b", "c"])),
            (&profile(""), "[\"a\",\"b\"]", Some(vec!["a", "b"])),
            (&profile(""), "\"a,b\"", Some(vec!["a,b"])),
            (&comma, "\"a,b, c\"", Some(vec!["a", "b", "c"])),
            (&comma, "\"a b\"", Some(vec!["a", "b"])),
            (&comma, "\"a,a,,b\"", Some(vec!["a", "b"])),
            (&comma, "\"\"", Some(vec![])),
            (&comma, "null", None),
            (&comma, "7", None),
        ] {
            let tokens = read_with(profile, &format!("{{\"access_token\":\"a\",\"scope\":{value}}}")).unwrap();
            let scopes: Option<Vec<String>> = scopes.map(|scopes| scopes.into_iter().map(str::to_owned).collect());
            assert_eq!(tokens.scopes, scopes, "{value}");
        }
    }

    #[test]
    fn a_missing_or_odd_token_type_is_bearer() {
        for (value, wanted) in [
            ("\"bearer\"", "Bearer"),
            ("\"BEARER\"", "Bearer"),
            ("\"DPoP\"", "DPoP"),
            ("\"a\\r\\nb\"", "Bearer"),
            ("\"\"", "Bearer"),
            ("null", "Bearer"),
            ("7", "Bearer"),
        ] {
            let tokens = read(&format!("{{\"access_token\":\"a\",\"token_type\":{value}}}")).unwrap();
            assert_eq!(tokens.token_type, wanted, "{value}");
        }
    }

    #[test]
    fn a_token_that_could_break_a_header_is_not_believed() {
        let long = "a".repeat(TOKEN_LIMIT + 1);
        for bad in ["", " a", "a ", "a\\nb", "a\\u0000", "a\\u007f", "é", &long] {
            assert!(read(&format!("{{\"access_token\":\"{bad}\"}}")).is_none(), "{bad}");
            let body = format!("{{\"access_token\":\"a\",\"refresh_token\":\"{bad}\"}}");
            assert!(read(&body).unwrap().refresh_token.is_none(), "{bad}");
        }
        assert!(read("{\"access_token\":7}").is_none());
        assert!(read(&format!("{{\"access_token\":\"{}\"}}", "a".repeat(TOKEN_LIMIT))).is_some());
    }

    #[test]
    fn where_a_member_comes_twice_the_last_one_counts() {
        let tokens = read(r#"{"access_token":"a","access_token":"b"}"#).unwrap();
        assert_eq!(tokens.access_token.expose(), "b");
        let body = b"access_token=a&access_token=b";
        let members = parse(&headers("application/x-www-form-urlencoded"), body).unwrap();
        assert_eq!(members["access_token"], "b");
    }

    #[test]
    fn a_body_is_known_by_its_content() {
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        for (kind, body, readable) in [
            ("application/json", r#"{"access_token":"a"}"#, true),
            ("text/html", r#"{"access_token":"a"}"#, true),
            ("", "\u{feff}{\"access_token\":\"a\"}", true),
            (form, "access_token=a&scope=repo%2Cgist", true),
            ("", "access_token=a", true),
            ("text/plain; charset=utf-8", "error=bad_verification_code", true),
            ("text/plain", "a = b", false),
            ("text/html", "access_token=a", false),
            ("application/json", "access_token=a", false),
            (form, "<html>access_token=a", false),
            (form, "nothing", false),
            ("application/json", "[]", false),
            ("application/json", "\"access_token\"", false),
            ("application/json", "null", false),
            ("application/json", "{\"access_token\":\"a\"", false),
            ("application/json", "{\"access_token\":\"a\"}{}", false),
        ] {
            assert_eq!(parse(&headers(kind), body.as_bytes()).is_some(), readable, "{kind}: {body}");
        }
        assert!(parse(&headers("application/json"), b"\xff\xfe").is_none());
        let deep = format!("{}{}", "{\"a\":".repeat(200), "}".repeat(200));
        assert!(parse(&headers("application/json"), deep.as_bytes()).is_none());
    }

    #[test]
    fn an_error_beside_a_token_is_no_failure_unless_the_profile_says_so() {
        let strict = profile("[answer]\nfailure = { path = \"ok\", equals = false }").answer;
        let plain = profile("").answer;
        for (body, by_plain, by_strict) in [
            (r#"{"error":"x"}"#, true, true),
            (r#"{"error":{"code":"x"}}"#, true, true),
            (r#"{"error":"","access_token":"a"}"#, false, false),
            (r#"{"error":"x","access_token":"a"}"#, false, false),
            (r#"{"error":null}"#, false, false),
            (r#"{"ok":false,"access_token":"a"}"#, false, true),
            (r#"{"ok":true,"access_token":"a"}"#, false, false),
            (r#"{"ok":"false"}"#, false, true),
        ] {
            let members: Value = serde_json::from_str(body).unwrap();
            assert_eq!(is_failure(&members, &plain), by_plain, "{body}");
            assert_eq!(is_failure(&members, &strict), by_strict, "{body}");
        }
    }

    #[test]
    fn nested_tokens_are_found_where_the_profile_says() {
        let nested = profile("[answer]\naccess_token = [\"user.token\", \"access_token\"]");
        let tokens = read_with(&nested, r#"{"access_token":"bot","user":{"token":"person"}}"#).unwrap();
        assert_eq!(tokens.access_token.expose(), "person");
        let tokens = read_with(&nested, r#"{"access_token":"bot","user":null}"#).unwrap();
        assert_eq!(tokens.access_token.expose(), "bot");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_believe_a_broken_token(
            body in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
            value in "[-+0-9.eE\\\\\"a-z]{0,24}",
        ) {
            let parsed = parse(&headers(""), &body);
            let text = format!("{{\"access_token\":\"{value}\",\"expires_in\":{value},\"scope\":\"{value}\"}}");
            for members in parsed.into_iter().chain(parse(&headers(""), text.as_bytes())) {
                let _ = is_failure(&members, &profile("").answer);
                if let Some(tokens) = token_set(&members, &profile(""), sent_at()) {
                    let token = tokens.access_token.expose();
                    assert!(!token.is_empty() && token.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
                    assert!(tokens.expires_at.is_none_or(|at| at >= sent_at() && at <= sent_at().plus(LONGEST)));
                }
            }
        }
    }
}
