//! Scripted faults: what goes wrong, for which request, and whether the provider acted on it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the caller sees instead of the plain answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// This status, body and headers.
    Status {
        /// The status code.
        code: u16,
        /// The body.
        #[serde(default)]
        body: String,
        /// The headers.
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
    /// The true answer, after so many milliseconds of real time.
    Delay {
        /// How long.
        ms: u64,
    },
    /// No answer until the caller hangs up.
    Hang,
    /// The TCP connection is reset without an answer.
    ResetBeforeAnswer,
    /// Half of the true body, then the connection breaks.
    TruncatedBody,
    /// The true answer, padded inside its JSON to at least so many bytes.
    OversizedBody {
        /// The least size.
        bytes: usize,
    },
    /// A body that never ends.
    EndlessBody,
    /// An HTML page with status 200.
    NotJson,
    /// The true body in pieces of eight bytes.
    SlowBody {
        /// Real time before each piece.
        ms_per_chunk: u64,
    },
    /// A redirect that keeps the method and the body (307).
    RedirectTo {
        /// The location.
        url: String,
    },
    /// Status 200 with `ok: false` and this error code.
    #[serde(rename = "error_inside_200")]
    ErrorInside200 {
        /// The error code.
        error: String,
    },
    /// An OAuth error answer (RFC 6749, section 5.2).
    #[serde(rename = "oauth_error")]
    OAuthError {
        /// The status code.
        status: u16,
        /// The error code.
        error: String,
    },
    /// Status 429.
    RateLimited {
        /// The `Retry-After` header.
        retry_after: RetryAfter,
    },
    /// Status 503, which says nothing about what was done before.
    Unavailable {
        /// The `Retry-After` header.
        retry_after: RetryAfter,
    },
    /// The true answer with a decoy `access_token` and `refresh_token` before the real ones.
    DuplicateKeys,
    /// The true answer, withheld until the named gate is released.
    HoldUntilReleased {
        /// The gate; scripting it closes it again.
        gate: String,
    },
    /// The true answer without a refresh token, although it may have been rotated.
    WithoutRefreshToken,
    /// A rotation whatever the class says; in a class that does not rotate the old token works on.
    WithRotation,
    /// The true answer as a form.
    FormEncoded,
    /// The true answer with its tokens inside `authed_user`.
    NestedTokens,
    /// The true answer without `token_type`.
    MissingTokenType,
    /// The true answer with these members added, or in place of its own.
    WithMembers {
        /// The members; one that is null is sent as null.
        members: serde_json::Map<String, serde_json::Value>,
    },
    /// The true answer with these headers added, or in place of its own.
    WithHeaders {
        /// The headers.
        headers: BTreeMap<String, String>,
    },
    /// The true answer with so many headers that nobody reads.
    ManyHeaders {
        /// How many.
        count: usize,
    },
    /// This status and these headers with a body that need not be text.
    Bytes {
        /// The status code.
        code: u16,
        /// The body in base64.
        base64: String,
        /// The headers.
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
}

/// The `Retry-After` header (RFC 9110, section 10.2.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryAfter {
    /// Delay seconds.
    Seconds(u64),
    /// An HTTP date so many seconds after the sandbox's now.
    DateIn(u64),
    /// This text.
    Text(String),
    /// No header.
    Absent,
}

/// Whether, and when, the provider processes a request that meets a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Commit {
    /// Before the fault is shown.
    Before,
    /// Once the fault was shown, or the connection has gone.
    After,
    /// When the named gate is released, while the fault is shown at once.
    WhenReleased(String),
    /// Never.
    Never,
}

/// A place where faults can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `/authorize` and its decision.
    Authorize,
    /// `/token`.
    Token,
    /// `/revoke` in all its styles.
    Revoke,
    /// `/introspect`.
    Introspect,
    /// `/userinfo`.
    Userinfo,
    /// Both metadata documents.
    Discovery,
    /// `/jwks`.
    Jwks,
    /// `/api/whoami`.
    Api,
}

/// One scripted fault; rules are tried in the order in which they were scripted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Where.
    #[serde(default = "token_endpoint")]
    pub endpoint: Endpoint,
    /// Only for requests of this client.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Only for token requests with this grant type.
    #[serde(default)]
    pub grant_type: Option<String>,
    /// Only for requests that present a token of this grant.
    #[serde(default)]
    pub grant: Option<String>,
    /// How many matching requests pass first.
    #[serde(default)]
    pub skip: u32,
    /// How many requests meet the fault; `None` is all.
    #[serde(default = "once")]
    pub times: Option<u32>,
    /// Whether the request is processed; `None` is what fits the fault: `Before` where the true answer
    /// is shown, `Never` elsewhere.
    #[serde(default)]
    pub commit: Option<Commit>,
    /// What is shown.
    pub fault: Fault,
}

fn token_endpoint() -> Endpoint {
    Endpoint::Token
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the field's own type")]
fn once() -> Option<u32> {
    Some(1)
}

impl FaultRule {
    /// This fault at this place, once.
    pub fn new(endpoint: Endpoint, fault: Fault) -> Self {
        Self { endpoint, client_id: None, grant_type: None, grant: None, skip: 0, times: Some(1), commit: None, fault }
    }

    /// This fault at the next token request.
    pub fn token(fault: Fault) -> Self {
        Self::new(Endpoint::Token, fault)
    }

    /// This fault at the next refresh.
    pub fn refresh(fault: Fault) -> Self {
        Self::token(fault).grant_type("refresh_token")
    }

    /// This fault at the next revocation request.
    pub fn revoke(fault: Fault) -> Self {
        Self::new(Endpoint::Revoke, fault)
    }

    /// Only for this client.
    #[must_use]
    pub fn client(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    /// Only for this grant type.
    #[must_use]
    pub fn grant_type(mut self, grant_type: impl Into<String>) -> Self {
        self.grant_type = Some(grant_type.into());
        self
    }

    /// Only for tokens of this grant.
    #[must_use]
    pub fn grant(mut self, grant: impl Into<String>) -> Self {
        self.grant = Some(grant.into());
        self
    }

    /// After so many matching requests have passed.
    #[must_use]
    pub fn after(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    /// So many times.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Until the faults are cleared.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    /// With this treatment of the request behind the fault.
    #[must_use]
    pub fn commit(mut self, commit: Commit) -> Self {
        self.commit = Some(commit);
        self
    }

    fn gates(&self) -> impl Iterator<Item = &str> {
        let held = match &self.fault {
            Fault::HoldUntilReleased { gate } => Some(gate.as_str()),
            _ => None,
        };
        let committed = match &self.commit {
            Some(Commit::WhenReleased(gate)) => Some(gate.as_str()),
            _ => None,
        };
        held.into_iter().chain(committed)
    }
}

impl Fault {
    /// The fault's name in the ledger.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::Delay { .. } => "delay",
            Self::Hang => "hang",
            Self::ResetBeforeAnswer => "reset_before_answer",
            Self::TruncatedBody => "truncated_body",
            Self::OversizedBody { .. } => "oversized_body",
            Self::EndlessBody => "endless_body",
            Self::NotJson => "not_json",
            Self::SlowBody { .. } => "slow_body",
            Self::RedirectTo { .. } => "redirect_to",
            Self::ErrorInside200 { .. } => "error_inside_200",
            Self::OAuthError { .. } => "oauth_error",
            Self::RateLimited { .. } => "rate_limited",
            Self::Unavailable { .. } => "unavailable",
            Self::DuplicateKeys => "duplicate_keys",
            Self::HoldUntilReleased { .. } => "hold_until_released",
            Self::WithoutRefreshToken => "without_refresh_token",
            Self::WithRotation => "with_rotation",
            Self::FormEncoded => "form_encoded",
            Self::NestedTokens => "nested_tokens",
            Self::MissingTokenType => "missing_token_type",
            Self::WithMembers { .. } => "with_members",
            Self::WithHeaders { .. } => "with_headers",
            Self::ManyHeaders { .. } => "many_headers",
            Self::Bytes { .. } => "bytes",
        }
    }

    /// Whether the fault shows the true answer, only late or in another shape.
    pub(crate) fn shows_true_answer(&self) -> bool {
        match self {
            Self::Status { .. }
            | Self::Bytes { .. }
            | Self::Hang
            | Self::ResetBeforeAnswer
            | Self::EndlessBody
            | Self::NotJson
            | Self::RedirectTo { .. }
            | Self::ErrorInside200 { .. }
            | Self::OAuthError { .. }
            | Self::RateLimited { .. }
            | Self::Unavailable { .. } => false,
            Self::Delay { .. }
            | Self::TruncatedBody
            | Self::OversizedBody { .. }
            | Self::SlowBody { .. }
            | Self::DuplicateKeys
            | Self::HoldUntilReleased { .. }
            | Self::WithoutRefreshToken
            | Self::WithRotation
            | Self::FormEncoded
            | Self::NestedTokens
            | Self::MissingTokenType
            | Self::WithMembers { .. }
            | Self::WithHeaders { .. }
            | Self::ManyHeaders { .. } => true,
        }
    }
}

/// What a request says about itself when it asks for its fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) endpoint: Endpoint,
    pub(crate) client_id: Option<&'a str>,
    pub(crate) grant_type: Option<&'a str>,
    pub(crate) grant: Option<&'a str>,
}

/// A fault that was taken from the queue for one request.
#[derive(Debug, Clone)]
pub(crate) struct Scripted {
    pub(crate) fault: Fault,
    pub(crate) commit: Commit,
}

impl Scripted {
    pub(crate) fn new(fault: Fault, commit: Option<Commit>) -> Self {
        let fitting = if fault.shows_true_answer() { Commit::Before } else { Commit::Never };
        Self { fault, commit: commit.unwrap_or(fitting) }
    }
}

/// The rules that are still to happen.
#[derive(Debug, Default)]
pub(crate) struct FaultQueue {
    rules: Vec<FaultRule>,
}

impl FaultQueue {
    /// Adds a rule and names the gates that it closes.
    pub(crate) fn push(&mut self, rule: FaultRule) -> Vec<String> {
        let gates = rule.gates().map(str::to_owned).collect();
        self.rules.push(rule);
        gates
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(crate) fn pending(&self) -> Vec<FaultRule> {
        self.rules.clone()
    }

    /// Takes the first rule that matches; rules that only count down do not hide later ones.
    pub(crate) fn take(&mut self, request: &Request<'_>) -> Option<Scripted> {
        let mut found = None;
        for (index, rule) in self.rules.iter_mut().enumerate() {
            if !rule.matches(request) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            found = Some(index);
            break;
        }
        let index = found?;
        let rule = &mut self.rules[index];
        let scripted = Scripted::new(rule.fault.clone(), rule.commit.clone());
        if let Some(times) = &mut rule.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.rules.remove(index);
            }
        }
        Some(scripted)
    }
}

impl FaultRule {
    fn matches(&self, request: &Request<'_>) -> bool {
        let fits =
            |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
        self.endpoint == request.endpoint
            && self.times != Some(0)
            && fits(&self.client_id, request.client_id)
            && fits(&self.grant_type, request.grant_type)
            && fits(&self.grant, request.grant)
    }
}

#[cfg(test)]
mod tests;
