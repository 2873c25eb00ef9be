//! Settings: the values that fill a profile's placeholders, each checked against a pattern before it is used.

use serde::Deserialize;

use crate::{ProviderError, profile::Source};

/// A value that each connector supplies.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Where this was read.
    pub source: Source,
    /// What it is, for people.
    pub title: String,
    /// What fits; `label` if neither this nor `allowed` nor `hosts_of` is given.
    pub pattern: Option<Pattern>,
    /// Hosts that fit: these and every host below them.
    #[serde(default)]
    pub hosts_of: Vec<String>,
    /// Values that fit as they are.
    #[serde(default)]
    pub allowed: Vec<String>,
    /// The value where the connector gives none.
    pub default: Option<String>,
}

/// The closed set of patterns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// 1 to 63 of `A-Z`, `a-z`, `0-9` and `-`.
    Label,
    /// A host name, with a port where it is not the usual one.
    Host,
    /// A UUID or a host name.
    UuidOrDomain,
    /// `https://host` or `http://host`, with a port where it is not the usual one, and nothing after it.
    Origin,
}

impl Setting {
    /// Checks a value.
    pub fn check(&self, name: &str, value: &str) -> Result<(), ProviderError> {
        let open = self.hosts_of.is_empty() && self.allowed.is_empty();
        let pattern = self.pattern.or(open.then_some(Pattern::Label));
        let fits = self.allowed.iter().any(|allowed| allowed == value)
            || pattern.is_some_and(|pattern| pattern.fits(value))
            || self.is_host_below(value);
        if fits {
            return Ok(());
        }
        Err(ProviderError::BadSetting { setting: name.to_owned(), expected: self.expected(pattern) })
    }

    fn is_host_below(&self, value: &str) -> bool {
        is_host_name(value)
            && self.hosts_of.iter().any(|parent| {
                value.strip_suffix(parent.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
    }

    fn expected(&self, pattern: Option<Pattern>) -> String {
        let mut parts: Vec<String> = self.allowed.iter().map(|value| format!("`{value}`")).collect();
        parts.extend(self.hosts_of.iter().map(|parent| format!("a host under {parent}")));
        parts.extend(pattern.map(|pattern| pattern.describe().to_owned()));
        parts.join(", or ")
    }
}

impl Pattern {
    /// Whether a value fits.
    pub fn fits(self, value: &str) -> bool {
        match self {
            Self::Label => is_label(value),
            Self::Host => {
                let (host, port) = value.split_once(':').unwrap_or((value, "443"));
                is_host_name(host) && is_port(port)
            }
            Self::UuidOrDomain => is_uuid(value) || (value.contains('.') && is_host_name(value)),
            Self::Origin => {
                let rest = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
                rest.is_some_and(|rest| Self::Host.fits(rest))
            }
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Label => "1 to 63 letters, digits and hyphens",
            Self::Host => "a host name in lower case, with a port if it is not the usual one",
            Self::UuidOrDomain => "a UUID or a domain name in lower case",
            Self::Origin => "`https://host`, with a port if it is not the usual one, and nothing after it",
        }
    }
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_host_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            is_label(label)
                && !label.starts_with('-')
                && !label.ends_with('-')
                && !label.bytes().any(|byte| byte.is_ascii_uppercase())
        })
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0') && text.parse::<u16>().is_ok()
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The names of a template's placeholders, in order; `None` if its braces do not match.
pub(crate) fn placeholders(template: &str) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    let mut rest = template;
    while let Some(open) = rest.find(['{', '}']) {
        let inner = rest[open..].strip_prefix('{')?;
        let close = inner.find(['{', '}'])?;
        if !inner[close..].starts_with('}') || close == 0 {
            return None;
        }
        names.push(&inner[..close]);
        rest = &inner[close + 1..];
    }
    Some(names)
}

/// Fills a template; `value` answers for each placeholder.
pub(crate) fn fill<E>(template: &str, mut value: impl FnMut(&str) -> Result<String, E>) -> Result<String, E> {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        filled.push_str(before);
        filled.push_str(&value(name)?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(toml: &str) -> Setting {
        let head = "source = \"https://docs.example\"\ntitle = \"x\"\n";
        toml::from_str(&format!("{head}{toml}")).unwrap()
    }

    #[test]
    fn a_setting_without_a_pattern_is_a_label() {
        let setting = setting("");
        for good in ["acme", "Acme-1", &"x".repeat(63)] {
            assert!(setting.check("s", good).is_ok(), "{good}");
        }
        for bad in ["", "a.b", "a/b", "a@b", "a:b", "a b", "a?b", "a#b", "é", &"x".repeat(64)] {
            assert!(setting.check("s", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_cannot_smuggle_another_place() {
        for good in ["gitlab.com", "gitlab.example.org:8443", "localhost", "10.0.0.1"] {
            assert!(Pattern::Host.fits(good), "{good}");
        }
        for bad in [
            "",
            "gitlab.com/evil",
            "user@evil.example",
            "evil.example#",
            "evil.example?x",
            "a..b",
            ".a",
            "a.",
            "-a.b",
            "A.b",
            "a:0",
            "a:65536",
            "a:08",
            "a:",
            "a:1:2",
            "[::1]",
            "a\\b",
            "a%2fb",
            "a\nb",
        ] {
            assert!(!Pattern::Host.fits(bad), "{bad:?}");
        }
    }

    #[test]
    fn hosts_below_a_suffix_end_at_a_dot() {
        let setting = setting("hosts_of = [\"my.salesforce.com\"]\nallowed = [\"login.salesforce.com\"]");
        for good in ["acme.my.salesforce.com", "a.b.my.salesforce.com", "my.salesforce.com", "login.salesforce.com"] {
            assert!(setting.check("host", good).is_ok(), "{good}");
        }
        for bad in ["evilmy.salesforce.com", "salesforce.com", "my.salesforce.com.evil.example", "acme"] {
            assert!(setting.check("host", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tenant_is_a_uuid_a_domain_or_a_listed_word() {
        let setting = setting("pattern = \"uuid_or_domain\"\nallowed = [\"common\"]");
        for good in ["common", "contoso.onmicrosoft.com", "72f988bf-86f1-41af-91ab-2d7cd011db47"] {
            assert!(setting.check("tenant", good).is_ok(), "{good}");
        }
        for bad in ["consumers", "72f988bf86f141af91ab2d7cd011db47", "a/b.c"] {
            assert!(setting.check("tenant", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_ends_after_its_host() {
        assert!(Pattern::Origin.fits("https://idp.example"));
        assert!(Pattern::Origin.fits("http://127.0.0.1:8080"));
        for bad in ["https://", "https://a/", "ftp://a", "https://u@a", "a.example"] {
            assert!(!Pattern::Origin.fits(bad), "{bad}");
        }
    }

    #[test]
    fn templates_name_their_placeholders() {
        assert_eq!(placeholders("https://{a}/x/{b}"), Some(vec!["a", "b"]));
        for bad in ["{", "}", "{}", "{a", "a}", "{a{b}}"] {
            assert_eq!(placeholders(bad), None, "{bad}");
        }
        let filled: Result<String, ()> = fill("https://{a}/x/{b}", |name| Ok(name.to_uppercase()));
        assert_eq!(filled.as_deref(), Ok("https://A/x/B"));
    }
}
