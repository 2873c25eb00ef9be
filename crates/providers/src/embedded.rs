//! The profiles that come with Valetkey, as (name, text).

/// Every embedded profile.
pub(crate) const PROFILES: &[(&str, &str)] = &[
    ("atlassian", include_str!("../profiles/atlassian.toml")),
    ("dropbox", include_str!("../profiles/dropbox.toml")),
    ("github", include_str!("../profiles/github.toml")),
    ("github-app", include_str!("../profiles/github-app.toml")),
    ("gitlab", include_str!("../profiles/gitlab.toml")),
    ("google", include_str!("../profiles/google.toml")),
    ("hubspot", include_str!("../profiles/hubspot.toml")),
    ("microsoft", include_str!("../profiles/microsoft.toml")),
    ("notion", include_str!("../profiles/notion.toml")),
    ("oauth2", include_str!("../profiles/oauth2.toml")),
    ("oidc", include_str!("../profiles/oidc.toml")),
    ("salesforce", include_str!("../profiles/salesforce.toml")),
    ("slack", include_str!("../profiles/slack.toml")),
    ("slack-user", include_str!("../profiles/slack-user.toml")),
];
