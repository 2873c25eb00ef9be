//! Cookies that bind a browser to a flow.

use axum::http::{HeaderMap, HeaderValue, header};
use valetkey_core::Secret;

/// The cookies that a browser sent.
#[derive(Debug)]
pub(crate) struct RequestCookies<'a>(&'a HeaderMap);

impl<'a> RequestCookies<'a> {
    pub(crate) fn of(headers: &'a HeaderMap) -> Self {
        Self(headers)
    }

    /// The cookie of that name; none if it is absent, empty, or there twice with different values: then someone else
    /// than us has set one of them.
    pub(crate) fn get(&self, name: &str) -> Option<Secret> {
        let lines = self.0.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut values = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value);
        let first = values.next().filter(|value| !value.is_empty())?;
        values.all(|other| other == first).then(|| Secret::from(first))
    }
}

/// Whether a cookie travels over TLS alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// `Secure`, with the prefix `__Host-` in its name.
    Tls,
    /// Plain HTTP on loopback.
    Loopback,
}

/// The header that sets a binding cookie for as long as its flow lives.
pub(crate) fn set_cookie(name: &str, value: &Secret, seconds: u64, transport: Transport) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(line(name, value.expose(), seconds, transport)).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The header that takes a binding cookie away.
pub(crate) fn clear_cookie(name: &str, transport: Transport) -> Option<HeaderValue> {
    HeaderValue::try_from(line(name, "", 0, transport)).ok()
}

fn line(name: &str, value: &str, seconds: u64, transport: Transport) -> String {
    let secure = match transport {
        Transport::Tls => "; Secure",
        Transport::Loopback => "",
    };
    // Lax, not Strict: the provider's redirect back to the callback is a cross-site navigation.
    format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(lines: &[&str], name: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::COOKIE, HeaderValue::from_str(line).expect("a value"));
        }
        RequestCookies::of(&headers).get(name).map(Secret::into_exposed)
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        assert_eq!(get(&["a=1; __Host-vk_x=two; c=3"], "__Host-vk_x").as_deref(), Some("two"));
        assert_eq!(get(&["a=1", "b=2;c=x=y"], "c").as_deref(), Some("x=y"));
        assert_eq!(get(&["xa=1; A=2"], "a"), None);
        assert_eq!(get(&["a="], "a"), None);
        assert_eq!(get(&["a"], "a"), None);
        assert_eq!(get(&[], "a"), None);
    }

    #[test]
    fn a_cookie_that_comes_twice_with_different_values_counts_as_absent() {
        assert_eq!(get(&["a=1; a=2"], "a"), None);
        assert_eq!(get(&["a=1", "a=2"], "a"), None);
        assert_eq!(get(&["a=1; a=1"], "a").as_deref(), Some("1"));
    }

    #[test]
    fn a_binding_cookie_is_out_of_reach_of_scripts_and_other_sites() {
        let header = set_cookie("__Host-vk_f", &Secret::from("v"), 600, Transport::Tls).expect("a header");
        assert_eq!(header, "__Host-vk_f=v; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure");
        assert!(header.is_sensitive());
        assert!(!header.to_str().expect("text").contains("Domain"), "the prefix __Host- forbids it");
    }

    #[test]
    fn on_loopback_a_cookie_needs_no_tls() {
        let header = set_cookie("vk_f", &Secret::from("v"), 9, Transport::Loopback).expect("a header");
        assert_eq!(header, "vk_f=v; Path=/; Max-Age=9; HttpOnly; SameSite=Lax");
        assert_eq!(
            clear_cookie("vk_f", Transport::Loopback).expect("a header"),
            "vk_f=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn a_value_that_is_no_header_sets_nothing() {
        assert!(set_cookie("a", &Secret::from("x\r\nSet-Cookie: b=1"), 1, Transport::Tls).is_none());
    }
}
