//! The headers of every page.

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};

/// Which requests a page's script may make.
#[derive(Clone, Copy)]
pub(super) enum Fetches {
    /// None.
    Nothing,
    /// To our own origin: the connect page's POST.
    OwnOrigin,
}

impl Fetches {
    fn policy(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Nothing => {
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'none'; \
                 form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
            }
            Self::OwnOrigin => {
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                 form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
            }
        })
    }
}

/// Turns a rendered page into a response.
///
/// There is no `Cross-Origin-Opener-Policy`: on our own page it would cut the window from the one that opened it.
pub(super) fn respond(status: StatusCode, fetches: Fetches, page: &impl Template) -> Response {
    // Every template is compiled in and writes to a string, so rendering has nothing to fail at.
    let mut response = match page.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, fetches.policy());
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

/// Makes the page go on by itself.
///
/// A form post that redirects to another origin is blocked by `form-action`; a page of our own that refreshes is not.
/// An address that is no header value leaves the page with its visible link alone.
pub(super) fn refresh_to(mut response: Response, target: &str) -> Response {
    if let Ok(value) = HeaderValue::try_from(format!("0; url={target}")) {
        response.headers_mut().insert(header::REFRESH, value);
    }
    response
}
