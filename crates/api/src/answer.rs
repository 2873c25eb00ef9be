//! JSON answers.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::problem::Problem;

/// A JSON answer with its status.
#[derive(Debug)]
pub(crate) struct Answer<T>(pub(crate) StatusCode, pub(crate) T);

/// What a handler returns.
pub(crate) type Answered<T> = Result<Answer<T>, Problem>;

/// 200.
#[expect(clippy::unnecessary_wraps, reason = "it is the handler's whole result")]
pub(crate) fn ok<T>(body: T) -> Answered<T> {
    Ok(Answer(StatusCode::OK, body))
}

/// 201.
#[expect(clippy::unnecessary_wraps, reason = "it is the handler's whole result")]
pub(crate) fn created<T>(body: T) -> Answered<T> {
    Ok(Answer(StatusCode::CREATED, body))
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        json(self.0, &self.1)
    }
}

/// Writes a body at once; most are smaller than what is set aside.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut bytes = Vec::with_capacity(512);
    if let Err(error) = serde_json::to_writer(&mut bytes, body) {
        return Problem::internal(error).into_response();
    }
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
