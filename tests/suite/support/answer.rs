//! An answer of the API.

use reqwest::header::HeaderMap;
use serde_json::Value;

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The request, as `POST /v1/…`, for messages.
    pub request: String,
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub text: String,
    /// The body as JSON; null if it is none.
    pub json: Value,
}

impl Answer {
    /// A header as text; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The text of a top-level member.
    #[track_caller]
    pub fn text_of(&self, member: &str) -> String {
        match self.json[member].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("{}: no text `{member}` in {}", self.request, self.text),
        }
    }

    /// Fails unless the status is this one.
    #[track_caller]
    #[must_use = "say `.done()` if nothing more is looked at"]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.request, self.text);
        self
    }

    /// Says that the answer is not looked at further.
    pub fn done(self) {}

    /// Fails unless this is a problem of that status and code, complete as RFC 9457 and DESIGN.md, section 5, want it.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Self {
        let seen = (self.status, self.json["code"].as_str().unwrap_or_default());
        assert_eq!(seen, (status, code), "{}: {}", self.request, self.text);
        let told = &self.request;
        assert_eq!(self.header("content-type"), "application/problem+json", "{told}");
        assert_eq!(self.json["status"], status, "{told}");
        let kind = self.json["type"].as_str().unwrap_or_default();
        assert!(kind.ends_with(&format!("/problems/{code}")), "{told}: type {kind:?}");
        assert!(!self.json["title"].as_str().unwrap_or_default().is_empty(), "{told}: no title");
        assert_eq!(self.json["request_id"].as_str(), Some(self.header("x-request-id")), "{told}");
        if [429, 503].contains(&status) {
            self.retry_after();
        }
        self
    }

    /// The same, and one of its faults is of this field.
    #[track_caller]
    pub fn expect_fault(self, code: &str, field: &str) -> Self {
        let answer = self.expect_problem(422, code);
        let faults = answer.json["faults"].as_array().cloned().unwrap_or_default();
        let named = faults.iter().any(|fault| fault["field"] == field);
        assert!(named, "{}: no fault of {field} in {}", answer.request, answer.text);
        answer
    }

    /// The seconds of `Retry-After`; fails without, or with less than one.
    #[track_caller]
    pub fn retry_after(&self) -> u64 {
        let seconds = self.header("retry-after").parse().unwrap_or(0);
        assert!(seconds >= 1, "{}: Retry-After is {:?}", self.request, self.header("retry-after"));
        seconds
    }

    /// The body without what names the request: for comparing two answers byte for byte.
    pub fn text_without_request_id(&self) -> String {
        self.text.replace(self.header("x-request-id"), "(request id)")
    }
}
