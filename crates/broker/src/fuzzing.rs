//! What fuzzing calls: the checks of return targets, and what must hold of what passes.

use crate::targets::{check_origin, check_return_url, is_loopback};

/// A return URL or an origin, as somebody would register it.
pub fn return_target(text: &str) {
    if let Ok(url) = check_return_url(text) {
        assert!(url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)), "scheme: {text}");
        assert!(url.username().is_empty() && url.password().is_none(), "user information: {text}");
        assert!(url.fragment().is_none(), "fragment: {text}");
        assert!(text.is_ascii() && !text.contains(['\\', '\t', '\n', '\r', ' ']), "hidden characters: {text}");
    }
    if let Ok(url) = check_origin(text) {
        assert_eq!(url.origin().ascii_serialization(), text, "not an origin");
    }
}
