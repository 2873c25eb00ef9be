//! Answers before they become HTTP: a status, headers, and JSON members that a fault may still reshape.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use crate::client::AnswerShape;
use crate::token::mint;

/// Members that move into `authed_user` in the nested shape.
const NESTED_MEMBERS: [&str; 6] = ["access_token", "refresh_token", "expires_in", "token_type", "scope", "id"];

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) content: Content,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    Members { members: Map<String, Value>, shape: AnswerShape },
    Text { content_type: String, text: String },
}

impl Answer {
    pub(crate) fn json(status: u16, body: Value) -> Self {
        let members = match body {
            Value::Object(members) => members,
            _ => Map::new(),
        };
        Self { status, headers: Vec::new(), content: Content::Members { members, shape: AnswerShape::Json } }
    }

    /// An error answer (RFC 6749, section 5.2).
    pub(crate) fn error(status: u16, error: &str) -> Self {
        Self::json(status, json!({ "error": error, "error_description": "said by the sandbox provider" }))
    }

    pub(crate) fn text(status: u16, content_type: &str, text: impl Into<String>) -> Self {
        let content = Content::Text { content_type: content_type.to_owned(), text: text.into() };
        Self { status, headers: Vec::new(), content }
    }

    pub(crate) fn unavailable() -> Self {
        Self::error(503, "temporarily_unavailable")
    }

    /// A plausible token answer whose tokens nobody knows.
    pub(crate) fn decoy() -> Self {
        Self::json(
            200,
            json!({
                "access_token": mint("sbx_at_decoy_", 0),
                "refresh_token": mint("sbx_rt_decoy_", 0),
                "token_type": "Bearer",
                "expires_in": 3600,
            }),
        )
    }

    /// Adds a header; what is not a header is left out.
    #[must_use]
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            self.headers.push((name, value));
        }
        self
    }

    #[must_use]
    pub(crate) fn shaped(mut self, wanted: AnswerShape) -> Self {
        if let Content::Members { shape, .. } = &mut self.content {
            *shape = wanted;
        }
        self
    }

    pub(crate) fn members_mut(&mut self) -> Option<&mut Map<String, Value>> {
        match &mut self.content {
            Content::Members { members, .. } => Some(members),
            Content::Text { .. } => None,
        }
    }

    /// The content type and the body.
    pub(crate) fn render(&self) -> (String, String) {
        let json = |members: &Map<String, Value>| {
            ("application/json".to_owned(), serde_json::to_string(members).unwrap_or_default())
        };
        match &self.content {
            Content::Text { content_type, text } => (content_type.clone(), text.clone()),
            Content::Members { members, shape: AnswerShape::Json } => json(members),
            Content::Members { members, shape: AnswerShape::Nested } => json(&nest(members.clone())),
            Content::Members { members, shape: AnswerShape::Form } => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                for (name, value) in members {
                    match value {
                        Value::String(text) => form.append_pair(name, text),
                        other => form.append_pair(name, &other.to_string()),
                    };
                }
                ("application/x-www-form-urlencoded".to_owned(), form.finish())
            }
        }
    }

    /// The response with this body in place of its own; a length of `None` means chunks.
    pub(crate) fn with_body(self, content_type: &str, length: Option<usize>, body: Body) -> Response {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(content_type) = HeaderValue::from_str(content_type) {
            headers.insert(header::CONTENT_TYPE, content_type);
        }
        if let Some(length) = length {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let (content_type, text) = self.render();
        let length = text.len();
        self.with_body(&content_type, Some(length), Body::from(text))
    }
}

fn nest(members: Map<String, Value>) -> Map<String, Value> {
    if !members.contains_key("access_token") {
        return members;
    }
    let (mut inner, mut outer) = (Map::new(), Map::new());
    for (name, value) in members {
        let home = if NESTED_MEMBERS.contains(&name.as_str()) { &mut inner } else { &mut outer };
        home.insert(name, value);
    }
    outer.insert("ok".to_owned(), Value::Bool(true));
    outer.insert("authed_user".to_owned(), Value::Object(inner));
    outer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nested_shape_moves_the_tokens_and_leaves_errors_alone() {
        let answer = Answer::json(200, json!({"access_token": "a", "team": "t"})).shaped(AnswerShape::Nested);
        assert_eq!(answer.render().1, r#"{"authed_user":{"access_token":"a"},"ok":true,"team":"t"}"#);
        let refused = Answer::json(400, json!({"error": "invalid_grant"})).shaped(AnswerShape::Nested);
        assert_eq!(refused.render().1, r#"{"error":"invalid_grant"}"#);
    }

    #[test]
    fn the_form_shape_writes_numbers_as_text() {
        let answer = Answer::json(200, json!({"expires_in": 60, "scope": "a b"})).shaped(AnswerShape::Form);
        assert_eq!(answer.render().1, "expires_in=60&scope=a+b");
    }
}
