//! A connector's provider, made concrete: its profile with the connector's settings, endpoints and discovery filled in.

use std::{sync::Arc, time::Duration};

use url::Url;
use valetkey_core::{Connector, Lives, Reach, RotationClass, TokenKind};

use crate::{
    Guard, KeptParam, ProviderError, ProviderFacts,
    check::CLIENT_AUTHENTICATION,
    discovery::Metadata,
    pattern::fill,
    profile::{ClientAuthentication, Discovery, IssRule, Profile, RevocableToken, RevocationStyle},
};

/// How long a code is taken to live where nobody says so.
const CODE_LIFE_S: u64 = 60;

/// Refreshes in a row without a new refresh token that show a provider without a profile to be non-rotating.
const UNROTATED_ENOUGH: i64 = 2;

/// A profile with everything that one connector adds to it.
#[derive(Debug, Clone)]
pub(crate) struct Resolved<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) connector: &'a Connector,
    pub(crate) metadata: Option<Arc<Metadata>>,
    pub(crate) guard: &'a Guard,
}

impl Resolved<'_> {
    /// The value of a setting.
    pub(crate) fn setting(&self, name: &str) -> Result<&str, ProviderError> {
        let missing = || ProviderError::MissingSetting { setting: name.to_owned() };
        let setting = self.profile.settings.get(name).ok_or_else(missing)?;
        match self.connector.settings.get(name) {
            Some(value) => setting.check(name, value).map(|()| value.as_str()),
            None => setting.default.as_deref().ok_or_else(missing),
        }
    }

    /// Fills a template. Only values that were checked against their pattern go in.
    pub(crate) fn fill(&self, template: &str) -> Result<String, ProviderError> {
        fill(template, |name| match name {
            "client_id" => Ok(path_segment(&self.connector.client_id)),
            name => self.setting(name).map(str::to_owned),
        })
    }

    /// An address: the connector's own, else the profile's, else the one that discovery found.
    fn endpoint(
        &self,
        which: &'static str,
        own: Option<&String>,
        template: Option<&String>,
        found: impl FnOnce(&Metadata) -> Option<&Url>,
    ) -> Result<Option<Url>, ProviderError> {
        let from_connector = self.profile.endpoints.from_connector;
        let text = match (own, template) {
            (Some(_), _) if !from_connector => {
                return Err(ProviderError::EndpointNotWanted { which });
            }
            (Some(own), _) => own.clone(),
            (None, Some(template)) => self.fill(template)?,
            (None, None) => return Ok(self.metadata.as_deref().and_then(found).cloned()),
        };
        self.guard.parse(&text).map(Some).map_err(|fault| ProviderError::AddressRefused { which, fault })
    }

    pub(crate) fn authorization(&self) -> Result<Url, ProviderError> {
        let which = "authorization";
        let own = self.connector.endpoints.authorization.as_ref();
        let template = self.profile.endpoints.authorization.as_ref();
        self.endpoint(which, own, template, |found| found.authorization.as_ref())?
            .ok_or(ProviderError::NoEndpoint { which })
    }

    pub(crate) fn token(&self) -> Result<Url, ProviderError> {
        let which = "token";
        let own = self.connector.endpoints.token.as_ref();
        let template = self.profile.endpoints.token.as_ref();
        self.endpoint(which, own, template, |found| found.token.as_ref())?.ok_or(ProviderError::NoEndpoint { which })
    }

    pub(crate) fn refresh(&self) -> Result<Url, ProviderError> {
        let template = self.profile.endpoints.refresh.as_ref();
        match self.endpoint("refresh", None, template, |_| None)? {
            Some(url) => Ok(url),
            None => self.token(),
        }
    }

    pub(crate) fn revocation(&self) -> Result<Option<Url>, ProviderError> {
        let own = self.connector.endpoints.revocation.as_ref();
        let template = self.profile.endpoints.revocation.as_ref();
        self.endpoint("revocation", own, template, |found| found.revocation.as_ref())
    }

    pub(crate) fn userinfo(&self) -> Result<Option<Url>, ProviderError> {
        let own = self.connector.endpoints.userinfo.as_ref();
        let template = self.profile.endpoints.userinfo.as_ref();
        self.endpoint("userinfo", own, template, |found| found.userinfo.as_ref())
    }

    /// The issuer, if the connector or the profile names one.
    pub(crate) fn issuer(&self) -> Result<Option<String>, ProviderError> {
        issuer(self.profile, self.connector, |template| self.fill(template))
    }

    /// Whether id_tokens are to be expected, so that authorization requests carry a nonce. It depends on the connector
    /// alone, so that the request and the exchange agree.
    pub(crate) fn asks_openid(&self) -> bool {
        self.askable_scopes().any(|scope| scope == "openid")
    }

    /// Every scope that an authorization request of this connector may carry.
    pub(crate) fn askable_scopes(&self) -> impl Iterator<Item = &String> {
        let connector = self.connector;
        let extra = &self.profile.authorize.extra_scopes;
        connector.scopes.iter().chain(&connector.optional_scopes).chain(extra)
    }

    /// How the client authenticates: as the connector says, else as the metadata lists, else as the profile prefers.
    pub(crate) fn authentication(&self) -> Result<ClientAuthentication, ProviderError> {
        if self.profile.settings.contains_key(CLIENT_AUTHENTICATION) {
            match self.setting(CLIENT_AUTHENTICATION) {
                Ok("body") => return Ok(ClientAuthentication::Body),
                Ok(_) => return Ok(ClientAuthentication::Basic),
                Err(ProviderError::MissingSetting { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let listed = self.metadata.as_deref().map(|found| found.authentication.as_slice());
        let mut ours = self.profile.client.authentication.iter();
        let preferred = ours.clone().next();
        let way = match listed {
            Some(listed) if !listed.is_empty() => ours.find(|way| listed.contains(way)).or(preferred),
            _ => preferred,
        };
        Ok(way.copied().unwrap_or(ClientAuthentication::Basic))
    }

    /// The kinds of token that the provider can be told of.
    pub(crate) fn revocable_kinds(&self) -> Result<Vec<TokenKind>, ProviderError> {
        let revocation = &self.profile.revocation;
        if revocation.style == RevocationStyle::None || self.revocation()?.is_none() {
            return Ok(Vec::new());
        }
        Ok(match revocation.token {
            RevocableToken::Either => vec![TokenKind::Refresh, TokenKind::Access],
            RevocableToken::Refresh => vec![TokenKind::Refresh],
            RevocableToken::Access if revocation.refresh_first => {
                vec![TokenKind::Refresh, TokenKind::Access]
            }
            RevocableToken::Access => vec![TokenKind::Access],
        })
    }

    pub(crate) fn lives(&self) -> Lives {
        let lives = &self.profile.lives;
        Lives {
            access_s: lives.access_s,
            refresh_idle_s: lives.refresh_idle_s,
            refresh_absolute_s: lives.refresh_absolute_s,
        }
    }

    pub(crate) fn facts(&self) -> Result<ProviderFacts, ProviderError> {
        let profile = self.profile;
        let kinds = self.revocable_kinds()?;
        let promised = self.metadata.as_deref().is_some_and(|found| found.iss_in_callback);
        let (issuer, iss_required) = match profile.callback.iss {
            IssRule::Never => (None, false),
            IssRule::IfSent => (self.issuer()?, promised),
            IssRule::Required => (self.issuer()?, true),
        };
        let seconds = Duration::from_secs;
        Ok(ProviderFacts {
            rotation: rotation(profile, self.connector),
            access_dies_on_refresh: profile.rotation.as_ref().is_some_and(|rotation| rotation.access_dies_on_refresh),
            lives: self.lives(),
            code_life: seconds(profile.callback.code_life_s.unwrap_or(CODE_LIFE_S)),
            iss_required: iss_required && issuer.is_some(),
            issuer,
            reach: profile.revocation.reach.unwrap_or(Reach::UserClient),
            revocable: !kinds.is_empty(),
            revocable_kinds: kinds,
            manual_url: profile.revocation.manual_url.clone(),
            not_before_expiry: profile.refresh.not_before_expiry_s.map(seconds),
            keep: profile
                .callback
                .keep
                .iter()
                .map(|keep| KeptParam { param: keep.param.clone(), required: keep.required })
                .collect(),
            pkce: profile.authorize.pkce,
        })
    }
}

/// The issuer of a connector: its own where the profile leaves it open, else the profile's.
pub(crate) fn issuer(
    profile: &Profile,
    connector: &Connector,
    fill: impl FnOnce(&str) -> Result<String, ProviderError>,
) -> Result<Option<String>, ProviderError> {
    match (&connector.issuer, &profile.endpoints.issuer) {
        (Some(_), _) if !profile.endpoints.from_connector => Err(ProviderError::IssuerNotWanted),
        (Some(own), _) => Ok(Some(own.clone())),
        (None, Some(template)) => fill(template).map(Some),
        (None, None) if profile.endpoints.discovery != Discovery::None => Err(ProviderError::MissingIssuer),
        (None, None) => Ok(None),
    }
}

/// The class in force. A class is never found by experiment: answers only ever show that one is not what it was thought
/// to be, or that a provider of which nothing is known does not rotate.
fn rotation(profile: &Profile, connector: &Connector) -> RotationClass {
    let observed = connector.observed_rotation;
    match (connector.rotation, &profile.rotation) {
        (Some(stated), _) => stated,
        (None, Some(rotation)) => rotation.class(observed.rotated),
        (None, None) if !observed.rotated && observed.unrotated_in_a_row >= UNROTATED_ENOUGH => {
            RotationClass::NonRotating
        }
        (None, None) => RotationClass::StrictWide,
    }
}

/// A text as one segment of a path.
fn path_segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            segment.push(char::from(byte));
        } else if byte == b'.' && text.len() > 2 {
            segment.push('.');
        } else {
            segment.push('%');
            segment.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
    }
    segment
}
