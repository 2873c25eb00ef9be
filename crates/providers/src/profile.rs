//! The profile: a data file that describes one provider. `docs/providers.md` is its reference.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use valetkey_core::{Grant, Reach, RotationClass};

use crate::pattern::Setting;
pub use crate::shape::{AnswerShape, Call, ErrorRule, Expiry, ExpiryKind, FailureRule, Means, Scalar};

/// Where a fact was read: one address or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Source {
    /// One address.
    One(String),
    /// Several addresses.
    Many(Vec<String>),
}

impl Source {
    /// The addresses.
    pub fn addresses(&self) -> &[String] {
        match self {
            Self::One(address) => std::slice::from_ref(address),
            Self::Many(addresses) => addresses,
        }
    }
}

/// A provider's description.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The name that connectors use; the file's name too.
    pub name: String,
    /// What people call the provider.
    pub title: String,
    /// The provider's own documentation.
    pub docs: String,
    /// When a person last compared this file with that documentation, `YYYY-MM-DD`.
    pub reviewed_on: String,
    /// The grants on offer.
    #[serde(default = "default_grants")]
    pub grants: Vec<Grant>,
    /// Values that each connector supplies.
    #[serde(default)]
    pub settings: BTreeMap<String, Setting>,
    /// Where things are.
    pub endpoints: ProfileEndpoints,
    /// How our client shows itself.
    #[serde(default)]
    pub client: Client,
    /// The authorization request.
    #[serde(default)]
    pub authorize: Authorize,
    /// The callback.
    #[serde(default)]
    pub callback: Callback,
    /// The redemption of a code.
    #[serde(default)]
    pub exchange: Exchange,
    /// The refresh.
    #[serde(default)]
    pub refresh: Refresh,
    /// The client credentials grant.
    #[serde(default)]
    pub client_credentials: ClientCredentials,
    /// The answers of the token endpoint.
    #[serde(default)]
    pub answer: AnswerShape,
    /// Lives where the answers are silent.
    #[serde(default)]
    pub lives: ProfileLives,
    /// What a spent refresh token does; absent where nobody says so.
    pub rotation: Option<Rotation>,
    /// What errors mean here, asked before the general rules, the first match wins.
    #[serde(default)]
    pub errors: Vec<ErrorRule>,
    /// How the provider is told of a revocation.
    #[serde(default)]
    pub revocation: Revocation,
    /// Where the account behind a grant is named; the first that applies wins.
    #[serde(default)]
    pub account: Vec<AccountSource>,
    /// What the provider's scopes mean.
    #[serde(default)]
    pub scopes: Vec<ScopeMeaning>,
}

fn default_grants() -> Vec<Grant> {
    vec![Grant::AuthorizationCode]
}

/// How metadata is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Discovery {
    /// Not at all.
    #[default]
    None,
    /// OpenID Connect Discovery 1.0, and RFC 8414 where that is not found.
    Oidc,
    /// RFC 8414.
    Rfc8414,
}

/// Where things are. Templates may hold `{setting}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileEndpoints {
    /// Where this was read.
    pub source: Option<Source>,
    /// How metadata is found.
    pub discovery: Discovery,
    /// The connector names the issuer, or the endpoints that discovery lacks.
    pub from_connector: bool,
    /// The issuer.
    pub issuer: Option<String>,
    /// Authorization endpoint.
    pub authorization: Option<String>,
    /// Token endpoint.
    pub token: Option<String>,
    /// Refresh endpoint, where it is not the token endpoint.
    pub refresh: Option<String>,
    /// Revocation endpoint; may hold `{client_id}`.
    pub revocation: Option<String>,
    /// Userinfo endpoint.
    pub userinfo: Option<String>,
}

/// How a client authenticates (RFC 6749, section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthentication {
    /// HTTP Basic.
    Basic,
    /// In the body.
    Body,
}

/// The encoding of request bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyEncoding {
    /// A form (RFC 6749).
    #[default]
    Form,
    /// JSON.
    Json,
}

/// How our client shows itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    /// Where this was read.
    pub source: Option<Source>,
    /// Ways that the provider accepts, the preferred one first; Basic if empty.
    pub authentication: Vec<ClientAuthentication>,
    /// The encoding of token and revocation requests.
    pub body: BodyEncoding,
    /// Further headers of those requests.
    pub headers: BTreeMap<String, String>,
}

/// The authorization request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authorize {
    /// Where this was read.
    pub source: Option<Source>,
    /// Further parameters.
    pub params: BTreeMap<String, String>,
    /// Further parameters of a request that asks for the scope `offline_access` (OpenID Connect Core, section 11).
    pub offline_params: BTreeMap<String, String>,
    /// What stands between scopes, in requests and answers.
    pub scope_separator: String,
    /// The parameter that carries the scopes.
    pub scope_param: String,
    /// Scopes that every request carries.
    pub extra_scopes: Vec<String>,
    /// PKCE with S256 (RFC 7636); switching it off is audited with each flow.
    pub pkce: bool,
    /// The parameter of the sign-in hint.
    pub login_hint_param: Option<String>,
}

impl Default for Authorize {
    fn default() -> Self {
        Self {
            source: None,
            params: BTreeMap::new(),
            offline_params: BTreeMap::new(),
            scope_separator: " ".to_owned(),
            scope_param: "scope".to_owned(),
            extra_scopes: Vec::new(),
            pkce: true,
            login_hint_param: None,
        }
    }
}

/// Whether callbacks name the issuer (RFC 9207).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IssRule {
    /// Compared when sent; required where the metadata promises it.
    #[default]
    IfSent,
    /// Always required.
    Required,
    /// Not compared: the provider means something else by it.
    Never,
}

/// The callback.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Callback {
    /// Where this was read.
    pub source: Option<Source>,
    /// How long a code can be redeemed, in seconds; 60 if nobody says so.
    pub code_life_s: Option<u64>,
    /// Whether callbacks name the issuer.
    pub iss: IssRule,
    /// Parameters that the exchange needs.
    pub keep: Vec<Keep>,
}

/// A parameter of the callback that the exchange needs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// Its name.
    pub param: String,
    /// Whether a callback without it is of no use.
    #[serde(default)]
    pub required: bool,
}

/// The redemption of a code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exchange {
    /// Where this was read.
    pub source: Option<Source>,
    /// Further parameters.
    pub params: BTreeMap<String, String>,
}

/// The refresh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Refresh {
    /// Where this was read.
    pub source: Option<Source>,
    /// Further parameters.
    pub params: BTreeMap<String, String>,
    /// The provider wants the redirect URI again.
    pub send_redirect_uri: bool,
    /// The provider wants the scopes again.
    pub send_scope: bool,
    /// The provider refuses to refresh earlier than this before the end, in seconds.
    pub not_before_expiry_s: Option<u64>,
}

/// The client credentials grant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientCredentials {
    /// Where this was read.
    pub source: Option<Source>,
    /// Further parameters.
    pub params: BTreeMap<String, String>,
}

/// Lives where the answers are silent, in seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileLives {
    /// Where this was read.
    pub source: Option<Source>,
    /// The access token.
    pub access_s: Option<u64>,
    /// A refresh token that nobody uses.
    pub refresh_idle_s: Option<u64>,
    /// The grant, whatever is done.
    pub refresh_absolute_s: Option<u64>,
}

/// A rotation class as files write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum ClassLetter {
    /// Non-rotating.
    N,
    /// Soft.
    S,
    /// Grace.
    G,
    /// Strict.
    X,
    /// Strict and wide.
    W,
}

/// What a spent refresh token does.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// Where this was read: a class without it is refused.
    pub source: Source,
    /// The class.
    pub class: ClassLetter,
    /// The class once an answer has brought a new refresh token.
    pub class_when_rotating: Option<ClassLetter>,
    /// The grace of class G, in seconds.
    pub grace_s: Option<u32>,
    /// A refresh kills the old access token at once.
    #[serde(default)]
    pub access_dies_on_refresh: bool,
}

impl Rotation {
    /// The class before and after an answer has brought a new refresh token.
    pub fn class(&self, rotated: bool) -> RotationClass {
        let letter = match (rotated, self.class_when_rotating) {
            (true, Some(letter)) => letter,
            // The profile says that nothing rotates, and something did: believe neither.
            (true, None) if self.class == ClassLetter::N => ClassLetter::W,
            _ => self.class,
        };
        match letter {
            ClassLetter::N => RotationClass::NonRotating,
            ClassLetter::S => RotationClass::Soft,
            ClassLetter::G => RotationClass::Grace { seconds: self.grace_s.unwrap_or(0) },
            ClassLetter::X => RotationClass::Strict,
            ClassLetter::W => RotationClass::StrictWide,
        }
    }
}

/// How the provider is told of a revocation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationStyle {
    /// There is no way.
    #[default]
    None,
    /// A form with `token` and `token_type_hint`, client authenticated (RFC 7009).
    Rfc7009,
    /// A form with `token` alone.
    FormTokenOnly,
    /// An empty POST with the token itself as Bearer.
    Bearer,
    /// JSON `{token}`, client authenticated by Basic.
    JsonBasic,
    /// DELETE with JSON `{access_token}`, client authenticated by Basic.
    GithubDelete,
}

/// Which tokens the provider takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocableToken {
    /// Both kinds.
    #[default]
    Either,
    /// Refresh tokens only.
    Refresh,
    /// Access tokens only.
    Access,
}

/// How the provider is told of a revocation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Revocation {
    /// Where this was read.
    pub source: Option<Source>,
    /// The style.
    pub style: RevocationStyle,
    /// Which tokens it takes.
    pub token: RevocableToken,
    /// Where only access tokens are taken: a refresh token is first exchanged for one. Only for class N.
    pub refresh_first: bool,
    /// How far it reaches; the farthest if nobody says so.
    pub reach: Option<Reach>,
    /// Error codes that say that the token was dead already.
    pub already_gone: Vec<String>,
    /// Where users remove access themselves.
    pub manual_url: Option<String>,
}

/// Where the account is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountFrom {
    /// In the id_token of the token endpoint's answer.
    IdToken,
    /// In the answer itself.
    Answer,
    /// At an address of the provider, asked with the access token.
    Userinfo,
    /// In a kept parameter of the callback.
    Callback,
}

/// How userinfo is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserinfoMethod {
    /// GET.
    #[default]
    Get,
    /// POST with an empty body.
    Post,
}

/// Where the account behind a grant is named.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountSource {
    /// Where this was read.
    pub source: Source,
    /// Where to look.
    pub from: AccountFrom,
    /// Only if this scope was granted, or asked for where the answer does not say.
    pub when_scope: Option<String>,
    /// The paths whose values, with colons between them, name the account; all must be there.
    #[serde(default = "default_subject")]
    pub subject: Vec<String>,
    /// The path of a name for people.
    pub name: Option<String>,
    /// The issuer that vouches for it, where it is not the provider's; may hold `{claim.x}` for id_tokens.
    pub issuer: Option<String>,
    /// The address of userinfo, where it is not the endpoint's.
    pub url: Option<String>,
    /// How userinfo is asked.
    #[serde(default)]
    pub method: UserinfoMethod,
}

fn default_subject() -> Vec<String> {
    vec!["sub".to_owned()]
}

/// What a scope means, for people who choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScopeMeaning {
    /// The scope.
    pub name: String,
    /// What it opens.
    pub means: String,
}
