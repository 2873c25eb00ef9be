//! Return targets and origins: parsed, compared exactly, at start and again at use.

use url::{Host, Url};

/// The longest target. What is added to it must fit into a `Location` that every proxy carries.
const LONGEST: usize = 2_000;

/// A return URL as an operator may register it: absolute, `https` (or `http` on loopback), no user info, no fragment,
/// written as a browser writes it, so that what is compared is what is gone to.
pub(crate) fn check_return_url(text: &str) -> Result<Url, &'static str> {
    if text.len() > LONGEST {
        return Err("it is longer than 2000 bytes");
    }
    if text.contains('*') {
        return Err("wildcards are refused: name each address");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err("it holds a control character, white space or a backslash");
    }
    let url = Url::parse(text).map_err(|_| "it is not an absolute URL")?;
    check_web(&url)?;
    if url.fragment().is_some() {
        return Err("it has a fragment");
    }
    if url.as_str() != text && url.as_str().strip_suffix('/') != Some(text) {
        return Err("it is not written as a browser writes it: host in lower-case ASCII (xn-- for other letters), \
                    no default port, no dot segments, other characters percent-encoded");
    }
    if url.host_str().is_some_and(|host| host.ends_with('.')) || url.port() == Some(0) {
        return Err("its host ends with a dot, or its port is 0");
    }
    check_encoding(&url)?;
    Ok(url)
}

/// An origin as an operator may register it: `https://host[:port]` and nothing behind.
pub(crate) fn check_origin(text: &str) -> Result<Url, &'static str> {
    let url = check_return_url(text)?;
    if url.origin().ascii_serialization() == text {
        Ok(url)
    } else {
        Err("an origin is scheme, host and port alone, in lower case")
    }
}

/// Percent-encoded separators and control characters mean one thing to us and another to a server that decodes twice.
fn check_encoding(url: &Url) -> Result<(), &'static str> {
    let path = url.path().to_ascii_lowercase();
    if ["%2f", "%5c"].iter().any(|separator| path.contains(separator)) {
        return Err("its path holds a percent-encoded slash or backslash");
    }
    let query = url.query().unwrap_or_default().to_ascii_lowercase();
    if ["%0", "%1", "%7f"].iter().any(|control| path.contains(control) || query.contains(control)) {
        return Err("it holds a percent-encoded control character");
    }
    Ok(())
}

fn check_web(url: &Url) -> Result<(), &'static str> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds user information");
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(url) => Ok(()),
        "http" => Err("plain http is accepted on loopback only"),
        _ => Err("only https is accepted"),
    }
}

/// Whether the host is this machine's loopback.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether `candidate` is one of the registered texts, byte for byte.
pub(crate) fn is_registered(registered: &[String], candidate: &str) -> bool {
    registered.iter().any(|each| each == candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_targets_are_refused() {
        for bad in [
            "",
            "/connected",
            "//evil.example/x",
            "https:/\\evil.example",
            "https://*.app.example/",
            "javascript:alert(1)",
            "https://user@app.example/",
            "https://app.example/#x",
            "http://app.example/",
            "https://app.example/\u{0}",
            "https://app.example /",
            "data:text/html,x",
            "ftp://app.example/",
            "https://APP.example/",
            "https://app.example:443/",
            "https://app.example:0/",
            "https://app.example./",
            "https://app\u{3002}example/",
            "https://\u{430}pp.example/",
            "https://@app.example/",
            "https:app.example/",
            "https://app.example/a/../b",
            "https://app.example/a%2fb",
            "https://app.example/a%5Cb",
            "https://app.example/?a=%0d%0a",
            "https://0x7f.1/",
        ] {
            assert!(check_return_url(bad).is_err(), "{bad}");
        }
        for good in [
            "https://app.example",
            "https://xn--pp-6kc.example/a?b=%2Fc",
            "https://app.example/connected",
            "http://127.0.0.1:3000/x?y=1",
            "http://[::1]:1/",
            "http://localhost/",
        ] {
            assert!(check_return_url(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port_alone() {
        assert!(check_origin("https://app.example").is_ok());
        assert!(check_origin("http://127.0.0.1:3000").is_ok());
        for bad in ["https://app.example/", "https://APP.example", "https://app.example:443", "null", "*"] {
            assert!(check_origin(bad).is_err(), "{bad}");
        }
    }
}
