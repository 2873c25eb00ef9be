//! Problems: how every failure is answered (RFC 9457).
//!
//! [`ProblemCode`] holds the one table of statuses; [`Problem`] is what handlers return. A problem is written out at the
//! [edge](crate::edge), which knows the request's id and logs the cause of what is our fault, once.

mod code;
mod from_broker;
mod page;

use std::{borrow::Cow, error::Error, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use valetkey_broker::{Fault, StartedFlow};

pub use code::ProblemCode;
pub(crate) use from_broker::unauthenticated;
pub(crate) use page::problem_text;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A failure on its way to the caller.
#[derive(Debug, Clone)]
pub struct Problem(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: ProblemCode,
    detail: Option<Cow<'static, str>>,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<Cause>,
}

/// Why a request failed, for the log alone.
#[derive(Debug, Clone)]
pub(crate) struct Cause(pub(crate) Arc<dyn Error + Send + Sync>);

/// The body of a problem.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "type")]
    type_uri: String,
    title: &'static str,
    status: u16,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(flatten)]
    members: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

impl Problem {
    /// A problem that its title says all about.
    pub fn new(code: ProblemCode) -> Self {
        Self(Box::new(Inner { code, detail: None, members: Map::new(), headers: Vec::new(), cause: None }))
    }

    /// A problem with a sentence for this occurrence.
    pub fn with(code: ProblemCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let mut problem = Self::new(code);
        problem.0.detail = Some(detail.into());
        problem
    }

    /// A problem of one field.
    pub(crate) fn fault(code: ProblemCode, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(code).faults(&[Fault::new(field, message)])
    }

    /// Ours: the caller learns nothing, the log everything.
    pub(crate) fn internal(cause: impl Error + Send + Sync + 'static) -> Self {
        Self::new(ProblemCode::InternalError).caused_by(cause)
    }

    /// Its code.
    pub fn code(&self) -> ProblemCode {
        self.0.code
    }

    /// Adds what the log should tell.
    #[must_use]
    pub(crate) fn caused_by(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.0.cause = Some(Cause(Arc::new(cause)));
        self
    }

    /// Adds a member of its own.
    #[must_use]
    pub(crate) fn member(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    /// Adds the faults of a request.
    #[must_use]
    pub(crate) fn faults(self, faults: &[Fault]) -> Self {
        let list: Vec<Value> =
            faults.iter().map(|fault| json!({ "field": fault.field, "message": fault.message })).collect();
        self.member("faults", list)
    }

    /// Adds a fresh flow, if one was asked for and could be started.
    #[must_use]
    pub(crate) fn offering(self, start: Option<&StartedFlow>) -> Self {
        match start {
            Some(flow) => self.member(
                "start",
                json!({
                    "flow_id": flow.flow_id,
                    "start_url": flow.start_url.expose(),
                    "expires_at": flow.expires_at,
                }),
            ),
            None => self,
        }
    }

    /// Adds when to try again, in whole seconds and at least one.
    #[must_use]
    pub(crate) fn retry_after(self, wait: Duration) -> Self {
        let seconds = whole_seconds(wait);
        self.member("retry_after", seconds).header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Adds a header.
    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// What an answer that holds several outcomes says of this one.
    pub(crate) fn summary(&self) -> Value {
        let inner = &*self.0;
        let mut summary = Map::new();
        summary.insert("code".to_owned(), inner.code.as_str().into());
        summary.insert("title".to_owned(), inner.code.title().into());
        if let Some(detail) = &inner.detail {
            summary.insert("detail".to_owned(), detail.as_ref().into());
        }
        summary.extend(inner.members.clone());
        Value::Object(summary)
    }

    /// The cause, if the log has to tell one.
    pub(crate) fn cause(&self) -> Option<&Cause> {
        self.0.cause.as_ref()
    }

    /// The body.
    pub(crate) fn write(&self, request_id: Option<&str>) -> Vec<u8> {
        let inner = &*self.0;
        let written = Written {
            type_uri: inner.code.type_uri(),
            title: inner.code.title(),
            status: inner.code.status().as_u16(),
            code: inner.code.as_str(),
            detail: inner.detail.as_deref(),
            members: &inner.members,
            request_id,
        };
        // Texts, numbers and maps with text keys: nothing here can fail to be written.
        serde_json::to_vec(&written).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    /// A response whose body the edge writes, since it alone knows the request's id.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.0.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in &self.0.headers {
            headers.insert(name.clone(), value.clone());
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Whole seconds, rounded up, at least one: what `Retry-After` says.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(problem: &Problem) -> Value {
        serde_json::from_slice(&problem.write(Some("r-1"))).expect("json")
    }

    #[test]
    fn a_problem_has_the_members_of_rfc_9457_and_its_own() {
        let problem = Problem::with(ProblemCode::LimitReached, "wait").retry_after(Duration::from_millis(1_200));
        let body = written(&problem);
        assert_eq!(body["type"], "/problems/limit-reached");
        assert_eq!(body["title"], "Too many calls");
        assert_eq!(body["status"], 429);
        assert_eq!(body["code"], "limit-reached");
        assert_eq!(body["detail"], "wait");
        assert_eq!(body["retry_after"], 2);
        assert_eq!(body["request_id"], "r-1");
        let response = problem.into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    }

    #[test]
    fn an_internal_problem_tells_the_caller_nothing() {
        let problem = Problem::internal(std::io::Error::other("disk /dev/sda1 is on fire"));
        let text = String::from_utf8(problem.write(Some("r-2"))).expect("text");
        assert!(!text.contains("fire"), "{text}");
        assert!(problem.cause().is_some());
    }

    #[test]
    fn a_wait_is_never_announced_as_nothing() {
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::from_millis(999)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(7)), 7);
    }
}
