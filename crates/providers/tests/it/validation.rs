//! What is said of a connector before it is stored.

use valetkey_core::Connector;
use valetkey_providers::{AuthorizationServer, OutboundSettings, ProviderError};

use crate::support::{connector, provider_with};

fn faults(change: &dyn Fn(&mut Connector), name: &str) -> Vec<ProviderError> {
    let mut connector = connector(name);
    change(&mut connector);
    let provider = provider_with(OutboundSettings::default());
    provider.validate(&connector).err().unwrap_or_default()
}

#[test]
fn a_connector_of_a_named_provider_needs_nothing_more() {
    for fine in [
        "google",
        "microsoft",
        "github",
        "github-app",
        "gitlab",
        "slack",
        "slack-user",
        "atlassian",
        "notion",
        "salesforce",
        "hubspot",
        "dropbox",
    ] {
        assert_eq!(faults(&|_| {}, fine), Vec::new(), "{fine}");
    }
}

#[test]
fn a_connector_is_checked_before_it_is_stored() {
    assert!(matches!(faults(&|_| {}, "nobody")[..], [ProviderError::UnknownProvider { .. }]));
    assert_eq!(
        faults(&|_| {}, "oauth2"),
        [ProviderError::NoEndpoint { which: "authorization" }, ProviderError::NoEndpoint { which: "token" }]
    );
    assert_eq!(faults(&|_| {}, "oidc")[0], ProviderError::MissingIssuer);
    let oidc = |issuer: &'static str| faults(&|connector| connector.issuer = Some(issuer.to_owned()), "oidc");
    assert_eq!(oidc("https://idp.example/tenant"), Vec::new());
    for bad in ["http://idp.example", "https://10.0.0.1", "https://localhost@evil/", "idp", "https://idp.example?x"] {
        assert!(matches!(oidc(bad)[..], [ProviderError::AddressRefused { which: "issuer", .. }]), "{bad}");
    }
    let found = faults(
        &|connector| {
            connector.settings.insert("host".to_owned(), "evil.example".to_owned());
            connector.settings.insert("colour".to_owned(), "red".to_owned());
        },
        "salesforce",
    );
    assert!(
        matches!(&found[..], [ProviderError::UnknownSetting { .. }, ProviderError::BadSetting { .. }]),
        "every fault at once: {found:?}"
    );
    let found = faults(&|connector| connector.issuer = Some("https://evil.example".to_owned()), "google");
    assert_eq!(found, [ProviderError::IssuerNotWanted]);
    let found = faults(&|connector| connector.grant = valetkey_core::Grant::ClientCredentials, "slack");
    assert_eq!(found, [ProviderError::GrantNotOffered { grant: "client_credentials" }]);
    let found = faults(
        &|connector| {
            connector.endpoints.authorization = Some("https://idp.example/authorize".to_owned());
            connector.endpoints.token = Some("http://idp.example/token".to_owned());
            connector.endpoints.revocation = Some("https://169.254.169.254/".to_owned());
        },
        "oauth2",
    );
    assert_eq!(found.len(), 2, "{found:?}");
}
