//! JSON bodies: bounded, typed, without unknown fields, refused with a problem that names the field.

use std::{pin::pin, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
    http::{HeaderMap, HeaderValue, header},
};
use futures::{StreamExt, future::poll_immediate};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::problem::{Problem, ProblemCode};

/// The largest body, import aside.
pub(crate) const BODY_LIMIT: usize = 64 * 1024;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// A JSON body. An empty one counts as `{}`, for operations whose fields are all optional.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes = read_body(request, BODY_LIMIT).await?;
        if bytes.is_empty() {
            return parse(b"{}").map(Self);
        }
        if !is_json {
            return Err(Problem::with(ProblemCode::UnsupportedMediaType, "Send Content-Type: application/json."));
        }
        parse(&bytes).map(Self)
    }
}

/// The whole body, at most `limit` bytes of it and within its time.
pub(crate) async fn read_body(request: Request, limit: usize) -> Result<Bytes, Problem> {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large(limit));
    }
    let mut reading = pin!(collect(request.into_body(), limit));
    // Most bodies came with their head; only the others need a timer.
    if let Some(read) = poll_immediate(reading.as_mut()).await {
        return read;
    }
    match tokio::time::timeout(BODY_TIME, reading).await {
        Ok(read) => read,
        Err(_) => Err(Problem::new(ProblemCode::RequestTimeout)),
    }
}

async fn collect(body: Body, limit: usize) -> Result<Bytes, Problem> {
    let mut stream = body.into_data_stream();
    let Some(first) = stream.next().await else { return Ok(Bytes::new()) };
    let first = first.map_err(|_| Problem::new(ProblemCode::RequestTimeout))?;
    if first.len() > limit {
        return Err(too_large(limit));
    }
    let Some(second) = stream.next().await else { return Ok(first) };
    // More than one piece: rare for bodies of this size.
    let mut whole = first.to_vec();
    let mut next = Some(second);
    while let Some(piece) = next {
        let piece = piece.map_err(|_| Problem::new(ProblemCode::RequestTimeout))?;
        if whole.len() + piece.len() > limit {
            return Err(too_large(limit));
        }
        whole.extend_from_slice(&piece);
        next = stream.next().await;
    }
    Ok(Bytes::from(whole))
}

fn too_large(limit: usize) -> Problem {
    Problem::with(ProblemCode::BodyTooLarge, format!("At most {limit} bytes are read."))
        .member("limit", limit)
        // The rest of the body is never read: the next request needs another connection.
        .header(header::CONNECTION, HeaderValue::from_static("close"))
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || (essence.len() > 17
            && essence.get(..12).is_some_and(|start| start.eq_ignore_ascii_case("application/"))
            && essence.get(essence.len() - 5..).is_some_and(|end| end.eq_ignore_ascii_case("+json")))
}

/// Parses JSON; a refusal never repeats a value, which may be a secret in the wrong field.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // A list would be read as an object's values in the order of their declaration.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
            Ok(_) => Problem::fault(ProblemCode::WrongType, "", "expected an object"),
            Err(error) => malformed(&error),
        });
    }
    let error = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    match error.classify() {
        Category::Syntax | Category::Eof | Category::Io => Err(malformed(&error)),
        // Read a second time, slower, to learn where.
        Category::Data => Err(explain::<T>(bytes)),
    }
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::new(ProblemCode::MalformedJson).member("line", error.line()).member("column", error.column())
}

fn explain<T: DeserializeOwned>(bytes: &[u8]) -> Problem {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => Problem::new(ProblemCode::MalformedJson),
        Err(error) => {
            let path = error.path().to_string();
            let place = if path == "." { String::new() } else { path };
            refusal(&place, &error.inner().to_string())
        }
    }
}

/// Turns serde's message into a problem. Its wordings are part of serde's documented `Error` methods.
fn refusal(place: &str, message: &str) -> Problem {
    let message = message.rsplit_once(" at line ").map_or(message, |(text, _)| text);
    let quoted = |prefix: &str| message.strip_prefix(prefix)?.split('`').next();
    // The last one: what stands before it may be the caller's own text.
    let expected = message.rsplit_once(", expected ").map(|(_, expected)| format!("expected {expected}"));
    let inside = |name: &str| match place {
        "" => name.to_owned(),
        // The path ends with the field itself where serde knows it.
        _ if place == name || place.ends_with(&format!(".{name}")) => place.to_owned(),
        _ => format!("{place}.{name}"),
    };
    if let Some(field) = quoted("unknown field `") {
        let known = expected.unwrap_or_else(|| "no field is expected here".to_owned());
        let field = if is_name(field) { inside(field) } else { String::new() };
        return Problem::fault(ProblemCode::UnknownField, field, known);
    }
    if let Some(field) = quoted("missing field `") {
        return Problem::fault(ProblemCode::MissingField, inside(field), "is required");
    }
    if let Some(field) = quoted("duplicate field `") {
        return Problem::fault(ProblemCode::InvalidRequest, inside(field), "comes twice");
    }
    if message.starts_with("invalid type:") || message.starts_with("unknown variant") {
        let expected = expected.unwrap_or_else(|| "has the wrong type".to_owned());
        let code =
            if message.starts_with("invalid type:") { ProblemCode::WrongType } else { ProblemCode::InvalidRequest };
        return Problem::fault(code, place, expected);
    }
    if message.starts_with("invalid value:") || message.starts_with("invalid length") {
        return Problem::fault(
            ProblemCode::InvalidRequest,
            place,
            expected.unwrap_or_else(|| "is out of bounds".to_owned()),
        );
    }
    // The domain's own words, which repeat no value.
    Problem::fault(ProblemCode::InvalidRequest, place, message)
}

/// Whether a text looks like a field's name, and not like a value in its place.
fn is_name(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use serde::Deserialize;
    use serde_json::Value;
    use valetkey_core::{ConnectorId, FlowMode, Secret};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "mode")]
        _mode: FlowMode,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        name: String,
        #[serde(default)]
        secrets: Vec<Secret>,
        #[serde(default, rename = "connector_id")]
        _connector_id: Option<ConnectorId>,
        #[serde(default, rename = "inner", deserialize_with = "crate::extract::optional_object")]
        _inner: Option<Inner>,
        #[serde(default, rename = "count")]
        _count: Option<u8>,
    }

    fn refused(body: &str) -> Value {
        let problem = parse::<Example>(body.as_bytes()).expect_err("refused");
        serde_json::from_slice(&problem.write(None)).expect("json")
    }

    fn fault(body: &str) -> (String, String, String) {
        let value = refused(body);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let fault = &value["faults"][0];
        (text(&value["code"]), text(&fault["field"]), text(&fault["message"]))
    }

    #[test]
    fn a_good_body_is_read() {
        let example: Example = parse(br#"{"name":"a","secrets":["b"]}"#).expect("good");
        assert_eq!(example.name, "a");
        assert_eq!(example.secrets.len(), 1);
    }

    #[test]
    fn malformed_json_is_told_with_its_place() {
        for body in ["{", "{\"name\": tru}", "", "{\"name\":\"a\"} x", "{\"name\":\"a\",}"] {
            let value = refused(body);
            assert_eq!(value["code"], "malformed-json", "{body}");
            assert!(value["line"].is_u64() && value["column"].is_u64());
        }
    }

    #[test]
    fn a_list_is_not_read_as_an_object_without_names() {
        for body in [r#"["a",["planted"]]"#, "[]", " [ 1 ]"] {
            let value = refused(body);
            assert_eq!(value["code"], "wrong-type", "{body}");
            assert!(!value.to_string().contains("planted"));
        }
        assert_eq!(refused("[1")["code"], "malformed-json");
    }

    #[test]
    fn an_unknown_field_is_named() {
        let (code, field, message) = fault(r#"{"name":"a","nmae":"b"}"#);
        assert_eq!((code.as_str(), field.as_str()), ("unknown-field", "nmae"));
        assert!(message.contains("`connector_id`"), "{message}");
        let (code, field, _) = fault(r#"{"name":"a","inner":{"mode":"popup","x":1}}"#);
        assert_eq!((code.as_str(), field.as_str()), ("unknown-field", "inner.x"));
    }

    #[test]
    fn a_missing_field_is_named() {
        let (code, field, _) = fault("{}");
        assert_eq!((code.as_str(), field.as_str()), ("missing-field", "name"));
        let (code, field, _) = fault(r#"{"name":"a","inner":{}}"#);
        assert_eq!((code.as_str(), field.as_str()), ("missing-field", "inner.mode"));
    }

    #[test]
    fn a_wrong_type_is_named_and_its_value_never_repeated() {
        let (code, field, message) = fault(r#"{"name":"a","secrets":"planted-secret"}"#);
        assert_eq!((code.as_str(), field.as_str()), ("wrong-type", "secrets"));
        assert_eq!(message, "expected a sequence");
        let value = refused(r#"{"name":"a","secrets":"planted-secret expected a planted-secret"}"#);
        assert_eq!(value["code"], "wrong-type");
        assert!(!value.to_string().contains("planted"), "{value}");
        let value = refused(r#"{"name":"a","planted-secret":"x"}"#);
        assert_eq!(value["code"], "unknown-field");
        assert!(!value.to_string().contains("planted"), "{value}");
        let (_, field, _) = fault(r#"{"name":"a","secrets":["x", 5]}"#);
        assert_eq!(field, "secrets[1]");
        let (code, _, message) = fault(r#"{"name":"a","count":4711}"#);
        assert_eq!(code, "invalid-request");
        assert!(!message.contains("4711"), "{message}");
    }

    #[test]
    fn what_the_domain_says_of_a_field_is_told() {
        let (code, field, message) = fault(r#"{"name":"a","connector_id":"planted"}"#);
        assert_eq!((code.as_str(), field.as_str()), ("invalid-request", "connector_id"));
        assert!(message.contains("`ctr_`") && !message.contains("planted"), "{message}");
        let (_, field, message) = fault(r#"{"name":"a","inner":{"mode":"planted"}}"#);
        assert_eq!(field, "inner.mode");
        assert_eq!(message, "expected one of: popup, redirect");
    }

    #[test]
    fn a_field_that_comes_twice_is_refused() {
        let (code, field, _) = fault(r#"{"name":"a","name":"b"}"#);
        assert_eq!((code.as_str(), field.as_str()), ("invalid-request", "name"));
    }

    fn request(content_type: Option<&'static str>, body: impl Into<Body>) -> Request {
        let mut request = Request::new(body.into());
        if let Some(content_type) = content_type {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        request
    }

    async fn code(request: Request) -> &'static str {
        match JsonBody::<Example>::from_request(request, &()).await {
            Ok(_) => "read",
            Err(problem) => problem.code().as_str(),
        }
    }

    #[tokio::test]
    async fn only_json_is_read() {
        let body = r#"{"name":"a"}"#;
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert_eq!(code(request(Some(good), body)).await, "read", "{good}");
        }
        for bad in [Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/+json"), None] {
            assert_eq!(code(request(bad, body)).await, "unsupported-media-type", "{bad:?}");
        }
    }

    #[tokio::test]
    async fn an_empty_body_counts_as_an_empty_object() {
        assert_eq!(code(request(None, "")).await, "missing-field");
    }

    #[tokio::test]
    async fn a_body_over_the_bound_is_refused_announced_or_not() {
        let large = format!(r#"{{"name":"{}"}}"#, "a".repeat(BODY_LIMIT));
        assert_eq!(code(request(Some("application/json"), large.clone())).await, "body-too-large");
        let pieces =
            large.into_bytes().chunks(1_000).map(<[u8]>::to_vec).map(Ok::<_, std::io::Error>).collect::<Vec<_>>();
        let body = Body::from_stream(futures::stream::iter(pieces));
        assert_eq!(code(request(Some("application/json"), body)).await, "body-too-large");
        let fits = format!(r#"{{"name":"{}"}}"#, "a".repeat(BODY_LIMIT - 11));
        assert_eq!(fits.len(), BODY_LIMIT);
        assert_eq!(code(request(Some("application/json"), fits)).await, "read");
    }
}
