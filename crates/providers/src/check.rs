//! What a profile must obey beyond its shape, checked when it is loaded.

use std::collections::BTreeMap;

use url::Url;
use valetkey_core::{Grant, ProviderName};

use crate::{
    pattern::{Pattern, Setting, placeholders},
    profile::{
        AccountFrom, ClassLetter, ClientAuthentication, Discovery, Means, Profile, RevocableToken, RevocationStyle,
        Source,
    },
};

/// The name of the setting by which a connector chooses how its client authenticates.
pub(crate) const CLIENT_AUTHENTICATION: &str = "client_authentication";

/// Parameters that the engine itself sends.
const OWN_PARAMS: &[&str] = &[
    "client_id",
    "client_secret",
    "code",
    "code_challenge",
    "code_challenge_method",
    "code_verifier",
    "grant_type",
    "nonce",
    "redirect_uri",
    "refresh_token",
    "response_type",
    "state",
];

/// Headers that the engine itself sends.
const OWN_HEADERS: &[&str] =
    &["authorization", "connection", "content-length", "content-type", "cookie", "host", "transfer-encoding"];

/// The faults of a profile: each a place and what is wrong there.
pub(crate) fn check(profile: &Profile, stem: &str) -> Vec<(String, String)> {
    let mut check = Check { profile, faults: Vec::new() };
    check.head(stem);
    check.sources();
    check.settings();
    check.endpoints();
    check.requests();
    check.rotation();
    check.errors();
    check.revocation();
    check.account();
    check.faults
}

struct Check<'a> {
    profile: &'a Profile,
    faults: Vec<(String, String)>,
}

impl Check<'_> {
    fn fault(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.faults.push((place.into(), what.into()));
    }

    fn head(&mut self, stem: &str) {
        let profile = self.profile;
        let name = &profile.name;
        if let Err(error) = name.parse::<ProviderName>() {
            self.fault("name", error.to_string());
        } else if name != stem {
            self.fault("name", format!("the file must be called `{name}.toml`"));
        }
        if profile.title.trim().is_empty() {
            self.fault("title", "a title is needed");
        }
        self.address("docs", &profile.docs);
        if !is_date(&profile.reviewed_on) {
            self.fault("reviewed_on", "a date is needed, as YYYY-MM-DD");
        }
        if profile.grants.is_empty() {
            self.fault("grants", "at least one grant is needed");
        }
        for scope in &profile.scopes {
            if scope.name.is_empty() || scope.means.is_empty() {
                self.fault("scopes", "a scope needs a name and a meaning");
            }
        }
    }

    fn address(&mut self, place: &str, text: &str) {
        if !is_https(text) {
            self.fault(place, "an https address is needed");
        }
    }

    /// A table that states anything names where it was read.
    fn sources(&mut self) {
        let p = self.profile;
        let tables: [(&str, &Option<Source>, bool); 10] = [
            ("endpoints", &p.endpoints.source, true),
            ("client", &p.client.source, states(&p.client)),
            ("authorize", &p.authorize.source, states(&p.authorize)),
            ("callback", &p.callback.source, states(&p.callback)),
            ("exchange", &p.exchange.source, states(&p.exchange)),
            ("refresh", &p.refresh.source, states(&p.refresh)),
            ("client_credentials", &p.client_credentials.source, states(&p.client_credentials)),
            ("answer", &p.answer.source, states(&p.answer)),
            ("lives", &p.lives.source, states(&p.lives)),
            ("revocation", &p.revocation.source, states(&p.revocation)),
        ];
        for (table, source, needed) in tables {
            match source {
                Some(source) => self.source(table, source),
                None if needed => self.fault(table, "it states facts without a `source`"),
                None => {}
            }
        }
        for (name, setting) in &p.settings {
            self.source(&format!("settings.{name}"), &setting.source);
        }
        if let Some(rotation) = &p.rotation {
            self.source("rotation", &rotation.source);
        }
        for (at, rule) in p.errors.iter().enumerate() {
            self.source(&format!("errors[{at}]"), &rule.source);
        }
        for (at, account) in p.account.iter().enumerate() {
            self.source(&format!("account[{at}]"), &account.source);
        }
    }

    fn source(&mut self, place: &str, source: &Source) {
        let addresses = source.addresses();
        if addresses.is_empty() || !addresses.iter().all(|address| is_https(address)) {
            self.fault(format!("{place}.source"), "https addresses are needed");
        }
    }

    fn settings(&mut self) {
        for (name, setting) in &self.profile.settings {
            let place = format!("settings.{name}");
            let word = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
            if name == "client_id" || name.is_empty() || !name.bytes().all(word) {
                self.fault(&place, "a setting is named by a-z, 0-9 and `_`, and not `client_id`");
            }
            if let Some(default) = &setting.default
                && setting.check(name, default).is_err()
            {
                self.fault(&place, "its default does not fit");
            }
            if name == CLIENT_AUTHENTICATION
                && (setting.allowed.is_empty()
                    || setting.pattern.is_some()
                    || !setting.allowed.iter().all(|way| way == "basic" || way == "body"))
            {
                self.fault(&place, "it allows `basic` and `body` and nothing else");
            }
        }
    }

    fn endpoints(&mut self) {
        let profile = self.profile;
        let endpoints = &profile.endpoints;
        let templates = [
            ("issuer", &endpoints.issuer, false),
            ("authorization", &endpoints.authorization, false),
            ("token", &endpoints.token, false),
            ("refresh", &endpoints.refresh, false),
            ("revocation", &endpoints.revocation, true),
            ("userinfo", &endpoints.userinfo, false),
        ];
        for (name, template, with_client_id) in templates {
            if let Some(template) = template {
                let extra: &[&str] = if with_client_id { &["client_id"] } else { &[] };
                self.template(&format!("endpoints.{name}"), template, extra);
            }
        }
        let found_later = endpoints.discovery != Discovery::None || endpoints.from_connector;
        if endpoints.token.is_none() && !found_later {
            self.fault("endpoints.token", "a token endpoint is needed");
        }
        if profile.grants.contains(&Grant::AuthorizationCode) && endpoints.authorization.is_none() && !found_later {
            self.fault("endpoints.authorization", "an authorization endpoint is needed");
        }
        if endpoints.discovery != Discovery::None && endpoints.issuer.is_none() && !endpoints.from_connector {
            self.fault("endpoints.issuer", "discovery needs an issuer");
        }
    }

    /// A template is an https address with known placeholders in host or path, or starts with an origin setting.
    fn template(&mut self, place: &str, template: &str, extra: &[&str]) {
        let Some(names) = placeholders(template) else {
            return self.fault(place, "its braces do not match");
        };
        if template.split_once('?').is_some_and(|(_, query)| query.contains('{')) {
            self.fault(place, "a placeholder belongs into the host or the path");
        }
        let mut sample = template.to_owned();
        for name in names {
            let known = self.profile.settings.get(name);
            if known.is_none() && !extra.contains(&name) {
                self.fault(place, format!("there is no setting `{name}`"));
            }
            let origin = known.is_some_and(is_origin);
            if origin && !template.starts_with(&format!("{{{name}}}/")) {
                self.fault(place, format!("the origin `{name}` belongs at the very start, before a `/`"));
            }
            let value = if origin { "https://x" } else { "x" };
            sample = sample.replacen(&format!("{{{name}}}"), value, 1);
        }
        if !is_https(&sample) || sample.contains('#') {
            self.fault(place, "an https address is needed, without user name, fragment or spaces");
        }
    }

    fn requests(&mut self) {
        let profile = self.profile;
        let tables: [(&str, &BTreeMap<String, String>); 5] = [
            ("authorize.params", &profile.authorize.params),
            ("authorize.offline_params", &profile.authorize.offline_params),
            ("exchange.params", &profile.exchange.params),
            ("refresh.params", &profile.refresh.params),
            ("client_credentials.params", &profile.client_credentials.params),
        ];
        for (place, params) in tables {
            for name in params.keys().filter(|name| OWN_PARAMS.contains(&name.as_str())) {
                self.fault(place, format!("`{name}` is not for profiles to set"));
            }
        }
        for name in profile.client.headers.keys() {
            let lower = name.to_ascii_lowercase();
            if OWN_HEADERS.contains(&lower.as_str()) {
                self.fault("client.headers", format!("`{name}` is not for profiles to set"));
            }
        }
        let valid = profile.client.headers.iter().all(|(name, value)| {
            http::HeaderName::try_from(name).is_ok() && http::HeaderValue::try_from(value).is_ok()
        });
        if !valid {
            self.fault("client.headers", "a name or a value is not one of a header");
        }
        if profile.authorize.scope_separator.is_empty() || profile.authorize.scope_param.is_empty() {
            self.fault("authorize", "scope_separator and scope_param cannot be empty");
        }
        let mut seen = Vec::<ClientAuthentication>::new();
        for way in &profile.client.authentication {
            if seen.contains(way) {
                self.fault("client.authentication", "a way is listed twice");
            }
            seen.push(*way);
        }
        if profile.callback.code_life_s.is_some_and(|life| life < 15) {
            self.fault("callback.code_life_s", "codes of less than 15 seconds cannot be served");
        }
        if profile.callback.keep.iter().any(|keep| OWN_PARAMS.contains(&keep.param.as_str())) {
            self.fault("callback.keep", "`code` and `state` are kept anyway");
        }
        let lives = &profile.lives;
        let zero = [lives.access_s, lives.refresh_idle_s, lives.refresh_absolute_s];
        if zero.contains(&Some(0)) {
            self.fault("lives", "a life of 0 seconds is none");
        }
    }

    fn rotation(&mut self) {
        let Some(rotation) = &self.profile.rotation else {
            return;
        };
        let classes = [Some(rotation.class), rotation.class_when_rotating];
        let grace = classes.contains(&Some(ClassLetter::G));
        if grace != rotation.grace_s.is_some_and(|seconds| seconds > 0) {
            self.fault("rotation.grace_s", "it belongs to class G, and class G needs it");
        }
        if let Some(later) = rotation.class_when_rotating
            && strictness(later) <= strictness(rotation.class)
        {
            self.fault("rotation.class_when_rotating", "it must be stricter than `class`");
        }
        let strict = classes.into_iter().flatten().any(|class| matches!(class, ClassLetter::X | ClassLetter::W));
        let has_dead = self.profile.errors.iter().any(|rule| rule.means == Means::Dead);
        if strict && !has_dead {
            self.fault("errors", "a strict provider needs a rule that means `dead`");
        }
    }

    fn errors(&mut self) {
        for (at, rule) in self.profile.errors.iter().enumerate() {
            if rule.status.is_none() && rule.code.is_none() && rule.contains.is_none() {
                self.fault(format!("errors[{at}]"), "a rule needs `status`, `code` or `contains`");
            }
        }
    }

    fn revocation(&mut self) {
        let profile = self.profile;
        let revocation = &profile.revocation;
        let endpoints = &profile.endpoints;
        let found_later = endpoints.discovery != Discovery::None || endpoints.from_connector;
        let none = revocation.style == RevocationStyle::None;
        if none && endpoints.revocation.is_some() {
            self.fault("revocation.style", "the endpoint needs a style");
        }
        if !none && endpoints.revocation.is_none() && !found_later {
            self.fault("endpoints.revocation", "the style needs an endpoint");
        }
        if none && revocation.manual_url.is_none() && !endpoints.from_connector {
            self.fault("revocation.manual_url", "users need a page where they remove access");
        }
        if let Some(url) = &revocation.manual_url {
            self.address("revocation.manual_url", url);
        }
        let non_rotating = profile
            .rotation
            .as_ref()
            .is_some_and(|rotation| rotation.class == ClassLetter::N && rotation.class_when_rotating.is_none());
        if revocation.refresh_first && (revocation.token != RevocableToken::Access || !non_rotating) {
            self.fault("revocation.refresh_first", "it is for class N where only access tokens are taken");
        }
        let access_only = matches!(revocation.style, RevocationStyle::Bearer | RevocationStyle::GithubDelete);
        if access_only && revocation.token != RevocableToken::Access {
            self.fault("revocation.token", "this style takes access tokens only: say so");
        }
    }

    fn account(&mut self) {
        let profile = self.profile;
        for (at, account) in profile.account.iter().enumerate() {
            let place = format!("account[{at}]");
            if account.subject.is_empty() || account.subject.iter().any(String::is_empty) {
                self.fault(&place, "a subject needs its paths");
            }
            if let Some(url) = &account.url {
                self.template(&format!("{place}.url"), url, &[]);
            }
            if let Some(issuer) = &account.issuer {
                let names = placeholders(issuer).unwrap_or_default();
                let claims: Vec<_> = names.into_iter().filter(|name| name.starts_with("claim.")).collect();
                if !claims.is_empty() && account.from != AccountFrom::IdToken {
                    self.fault(format!("{place}.issuer"), "claims are those of an id_token");
                }
                self.template(&format!("{place}.issuer"), issuer, &claims);
            }
            let endpoints = &profile.endpoints;
            let has_userinfo = account.url.is_some()
                || endpoints.userinfo.is_some()
                || endpoints.discovery != Discovery::None
                || endpoints.from_connector;
            if account.from == AccountFrom::Userinfo && !has_userinfo {
                self.fault(&place, "userinfo needs a url");
            }
            let kept = |path: &String| profile.callback.keep.iter().any(|keep| keep.param == *path);
            if account.from == AccountFrom::Callback && !account.subject.iter().all(kept) {
                self.fault(&place, "its parameters must be listed in callback.keep");
            }
        }
    }
}

fn states<T: Default + PartialEq>(table: &T) -> bool {
    *table != T::default()
}

fn is_origin(setting: &Setting) -> bool {
    setting.pattern == Some(Pattern::Origin)
}

fn strictness(class: ClassLetter) -> u8 {
    match class {
        ClassLetter::N => 0,
        ClassLetter::S => 1,
        ClassLetter::G => 2,
        ClassLetter::X => 3,
        ClassLetter::W => 4,
    }
}

fn is_https(text: &str) -> bool {
    let clean = !text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\');
    clean
        && Url::parse(text).is_ok_and(|url| {
            url.scheme() == "https" && url.has_host() && url.username().is_empty() && url.password().is_none()
        })
}

fn is_date(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let number = |at: usize, len: usize, range: std::ops::RangeInclusive<u32>| {
        parts.get(at).is_some_and(|part| part.len() == len && part.parse().is_ok_and(|number| range.contains(&number)))
    };
    parts.len() == 3 && number(0, 4, 2020..=2999) && number(1, 2, 1..=12) && number(2, 2, 1..=31)
}
