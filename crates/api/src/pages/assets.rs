//! The static files of the pages, embedded.

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const TYPES: &str = "application/typescript; charset=utf-8";

/// One embedded file.
pub(super) struct Asset {
    /// What it is.
    pub(super) content_type: &'static str,
    /// What is in it.
    pub(super) bytes: &'static [u8],
    /// Whether pages of other origins load it: a module import is a CORS request.
    pub(super) for_applications: bool,
}

/// The file of that name under `/assets/`.
pub(super) fn asset(name: &str) -> Option<Asset> {
    let (content_type, bytes, for_applications): (_, &'static [u8], _) = match name {
        "valetkey.js" => (SCRIPT, include_bytes!("../../assets/valetkey.js"), true),
        "valetkey.d.ts" => (TYPES, include_bytes!("../../assets/valetkey.d.ts"), true),
        "connect.js" => (SCRIPT, include_bytes!("../../assets/connect.js"), false),
        "result.js" => (SCRIPT, include_bytes!("../../assets/result.js"), false),
        "confirm.js" => (SCRIPT, include_bytes!("../../assets/confirm.js"), false),
        "page.css" => (STYLE, include_bytes!("../../assets/page.css"), false),
        _ => return None,
    };
    Some(Asset { content_type, bytes, for_applications })
}

/// The file as a response, cacheable for five minutes: short enough that an upgrade reaches every page soon.
pub(crate) fn asset_response(name: &str) -> Option<Response> {
    let asset = asset(name)?;
    let mut response = Body::from(asset.bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if asset.for_applications {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    Some(response)
}
