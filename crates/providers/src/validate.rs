//! What can be known of a connector's faults before anybody is asked.

use valetkey_core::{Connector, Grant};

use crate::{
    AddressFault, Guard, ProviderError,
    catalogue::is_in_a_template,
    profile::{Discovery, Profile},
    resolve::Resolved,
};

/// Every fault of a connector of this profile.
pub(crate) fn validate(profile: &Profile, connector: &Connector, guard: &Guard) -> Vec<ProviderError> {
    let mut faults = settings(profile, connector);
    if !profile.grants.contains(&connector.grant) {
        let grant = match connector.grant {
            Grant::AuthorizationCode => "authorization_code",
            Grant::ClientCredentials => "client_credentials",
        };
        faults.push(ProviderError::GrantNotOffered { grant });
    }
    if !faults.is_empty() {
        // Addresses are made of settings: their faults would be said twice.
        return faults;
    }
    let resolved = Resolved { profile, connector, metadata: None, guard };
    faults.extend(issuer(&resolved));
    let discovered = profile.endpoints.discovery != Discovery::None;
    let tolerated = |error: &ProviderError| discovered && matches!(error, ProviderError::NoEndpoint { .. });
    let mut check = |result: Result<(), ProviderError>| {
        faults.extend(result.err().filter(|error| !tolerated(error)));
    };
    if connector.grant == Grant::AuthorizationCode {
        check(resolved.authorization().map(|_| ()));
    } else if connector.endpoints.authorization.is_some() {
        check(resolved.authorization().map(|_| ()));
    }
    check(resolved.token().map(|_| ()));
    if profile.endpoints.refresh.is_some() {
        check(resolved.refresh().map(|_| ()));
    }
    check(resolved.revocation().map(|_| ()));
    check(resolved.userinfo().map(|_| ()));
    faults
}

fn settings(profile: &Profile, connector: &Connector) -> Vec<ProviderError> {
    let mut faults = Vec::new();
    for (name, value) in &connector.settings {
        match profile.settings.get(name) {
            Some(setting) => faults.extend(setting.check(name, value).err()),
            None => faults.push(ProviderError::UnknownSetting { setting: name.clone() }),
        }
    }
    for (name, setting) in &profile.settings {
        let given = setting.default.is_some() || connector.settings.contains_key(name);
        if !given && is_in_a_template(profile, name) {
            faults.push(ProviderError::MissingSetting { setting: name.clone() });
        }
    }
    faults
}

/// An issuer is an address without query and fragment (OpenID Connect Discovery, section 3; RFC 8414, section 2).
fn issuer(resolved: &Resolved<'_>) -> Option<ProviderError> {
    let refused = |fault| ProviderError::AddressRefused { which: "issuer", fault };
    match resolved.issuer() {
        Ok(None) => None,
        Ok(Some(issuer)) => match resolved.guard.parse(&issuer) {
            Ok(url) if url.query().is_some() => Some(refused(AddressFault::NotUrl)),
            Ok(_) => None,
            Err(fault) => Some(refused(fault)),
        },
        Err(error) => Some(error),
    }
}
