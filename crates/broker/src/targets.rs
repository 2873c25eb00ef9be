//! Return targets and origins: parsed, compared exactly, at start and again at use.

use url::{Host, Url};

/// A return URL as an operator may register it: absolute, `https` (or `http` on loopback), no user info, no fragment.
pub(crate) fn check_return_url(text: &str) -> Result<Url, &'static str> {
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
        ] {
            assert!(check_return_url(bad).is_err(), "{bad}");
        }
        for good in
            ["https://app.example/connected", "http://127.0.0.1:3000/x?y=1", "http://[::1]:1/", "http://localhost/"]
        {
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
