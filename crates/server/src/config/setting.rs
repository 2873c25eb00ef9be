//! The types of settings: how each is read, and how each is shown.

use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;
use url::Url;

use super::raw::Raw;

/// A type that a setting can have.
pub(crate) trait Setting: Sized {
    /// What fits, with an example: the end of "it must be …".
    fn fits() -> String;

    /// Reads it; `None` if it does not fit.
    fn read(raw: &Raw) -> Option<Self>;

    /// Shows it as TOML.
    fn show(&self) -> String;
}

/// A text as TOML shows it.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn text(raw: &Raw) -> Option<&str> {
    match raw {
        Raw::Text(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

impl Setting for bool {
    fn fits() -> String {
        "true or false".to_owned()
    }

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Boolean(value) => Some(*value),
            _ => None,
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn fits() -> String {
        "a text in quotes".to_owned()
    }

    fn read(raw: &Raw) -> Option<Self> {
        text(raw).map(ToOwned::to_owned)
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    fn fits() -> String {
        "a path in quotes".to_owned()
    }

    fn read(raw: &Raw) -> Option<Self> {
        text(raw).map(PathBuf::from)
    }

    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for SocketAddr {
    fn fits() -> String {
        "an address with a port, as in \"127.0.0.1:8743\" or \"[::1]:8743\"".to_owned()
    }

    fn read(raw: &Raw) -> Option<Self> {
        text(raw)?.parse().ok()
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for Url {
    fn fits() -> String {
        "an absolute address, as in \"https://keys.example.org\"".to_owned()
    }

    fn read(raw: &Raw) -> Option<Self> {
        Url::parse(text(raw)?).ok().filter(Url::has_host)
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl Setting for IpNet {
    fn fits() -> String {
        "a network, as in \"10.1.0.0/16\" or \"fd00::/8\"; one address is \"10.1.2.3/32\"".to_owned()
    }

    fn read(raw: &Raw) -> Option<Self> {
        let net: Self = text(raw)?.parse().ok()?;
        // "10.1.2.3/16" is a slip of somebody who meant another network or another length.
        (net.trunc() == net).then_some(net)
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn fits() -> String {
        format!("a list in brackets, each {}", T::fits())
    }

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::List(values) => values.iter().map(T::read).collect(),
            _ => None,
        }
    }

    fn show(&self) -> String {
        let shown: Vec<_> = self.iter().map(T::show).collect();
        format!("[{}]", shown.join(", "))
    }
}
