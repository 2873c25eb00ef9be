//! The provider's answer: checked, consumed once, and turned into a one-use handle.

use std::collections::BTreeMap;

use serde_json::json;
use valetkey_core::{
    Action, Actor, Binding, Connector, ConnectorId, Flow, FlowFailure, FlowMode, FlowStatus, Secret, constant_time_eq,
};
use valetkey_providers::ProviderFacts;
use valetkey_store::AcceptedCallback;

use crate::{
    Broker, BrokerError, Cookies, PageFailure,
    open::{expect, is_bound_browser},
    start::subject_of,
    targets::is_registered,
};

/// The parameters of the provider's answer. The four that matter were refused if they came twice.
#[derive(Debug, Clone, Default)]
pub struct CallbackQuery {
    /// The authorization code.
    pub code: Option<Secret>,
    /// The state.
    pub state: Option<Secret>,
    /// The issuer (RFC 9207).
    pub iss: Option<String>,
    /// The error code.
    pub error: Option<String>,
    /// One of the four came twice.
    pub doubled: bool,
    /// Everything else, for what a profile wants kept.
    pub others: BTreeMap<String, String>,
}

/// What comes home to the application with a browser.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The one-use handle for `finish`.
    Handle(Secret),
    /// The code of a failure.
    Failed(FlowFailure),
    /// The flow was called off.
    Cancelled,
    /// The flow's life is over.
    Expired,
    /// The confirm page stored the connection.
    Connected,
}

/// Where a browser goes home to, and with what.
#[derive(Debug, Clone)]
pub struct Homecoming {
    /// The flow.
    pub flow: Flow,
    /// What it brings.
    pub outcome: Outcome,
}

/// How a callback ended.
#[derive(Debug)]
pub enum CallbackEnd {
    /// The browser goes home.
    Home(Box<Homecoming>),
    /// Our page asks the person: the one-use token of its form.
    Confirm {
        /// The flow.
        flow: Box<Flow>,
        /// The token.
        token: Secret,
    },
    /// The browser is told something and goes nowhere; nothing was consumed.
    Page(PageFailure),
}

/// The longest code that is kept. Those known are below 2 KiB; a record holds 64.
const CODE_MAX: usize = 16 * 1024;

impl Broker {
    /// Takes the provider's answer (RFC 6749, section 4.1.2; RFC 9207).
    ///
    /// Connector, state and cookie are checked before anything is consumed, so that a wrong browser cannot end another
    /// user's flow.
    pub async fn callback(
        &self,
        connector_id: ConnectorId,
        query: &CallbackQuery,
        cookies: &Cookies<'_>,
    ) -> Result<CallbackEnd, BrokerError> {
        if query.doubled {
            return self.refuse_doubled(query).await;
        }
        let Some(state) = &query.state else {
            self.inner.metrics.browser_refused("no_state");
            return Ok(CallbackEnd::Page(PageFailure::Malformed));
        };
        let Some(record) = self.store().find_flow_by_state(&state.digest()).await? else {
            self.refuse_unknown(Some(connector_id));
            return Ok(CallbackEnd::Page(PageFailure::NotFound));
        };
        let flow = &record.flow;
        if flow.connector_id != connector_id {
            self.refuse_browser(flow, "wrong_connector").await?;
            return Ok(CallbackEnd::Page(PageFailure::WrongConnector));
        }
        let is_bound = is_bound_browser(&record, cookies(&self.cookie_name(flow.id)).as_ref());
        if let Err(failure) = expect(flow, FlowStatus::Pending, self.now()) {
            // Nothing can be consumed any more, and a browser that went home has no cookie left to show.
            return self.after_the_end(flow, failure, is_bound).await;
        }
        if !is_bound {
            self.refuse_browser(flow, "wrong_browser").await?;
            return Ok(CallbackEnd::Page(PageFailure::WrongBrowser));
        }
        let Some(connector) = self.store().find_connector(&flow.space, flow.connector_id).await? else {
            return Ok(CallbackEnd::Page(self.end_flow(flow, FlowFailure::ConnectorChanged, None).await?));
        };
        if !targets_hold(&connector, flow) {
            return Ok(CallbackEnd::Page(self.end_flow(flow, FlowFailure::ConnectorChanged, None).await?));
        }
        let Ok(facts) = self.provider().facts(&connector).await else {
            return self.fail_callback(flow, FlowFailure::ProviderUnavailable, None).await;
        };
        if let Err(failure) = check_issuer(&facts, query.iss.as_deref()) {
            return self.fail_callback(flow, failure, None).await;
        }
        match (&query.code, &query.error) {
            (Some(code), None) if (1..=CODE_MAX).contains(&code.expose().len()) => {
                self.accept(flow, &connector, &facts, state, code, &query.others).await
            }
            (None, Some(error)) => {
                let failure = failure_of(error);
                self.fail_callback(flow, failure, Some(known_error(error))).await
            }
            _ => {
                self.refuse_browser(flow, "malformed").await?;
                Ok(CallbackEnd::Page(PageFailure::Malformed))
            }
        }
    }

    /// A parameter came twice: which of the two the provider meant cannot be known.
    async fn refuse_doubled(&self, query: &CallbackQuery) -> Result<CallbackEnd, BrokerError> {
        let known = match &query.state {
            Some(state) => self.store().find_flow_by_state(&state.digest()).await?,
            None => None,
        };
        match known {
            Some(record) => self.refuse_browser(&record.flow, "doubled").await?,
            None => self.inner.metrics.browser_refused("doubled"),
        }
        Ok(CallbackEnd::Page(PageFailure::Malformed))
    }

    /// A flow that ended while its browser was at the provider: the bound browser goes home and says so.
    async fn after_the_end(
        &self,
        flow: &Flow,
        failure: PageFailure,
        is_bound: bool,
    ) -> Result<CallbackEnd, BrokerError> {
        let (outcome, reason) = match failure {
            PageFailure::Expired => (Outcome::Expired, "expired"),
            PageFailure::Cancelled => (Outcome::Cancelled, "cancelled"),
            other => {
                self.refuse_browser(flow, "already_used").await?;
                return Ok(CallbackEnd::Page(other));
            }
        };
        let connector = self.store().find_connector(&flow.space, flow.connector_id).await?;
        if is_bound && connector.is_some_and(|connector| targets_hold(&connector, flow)) {
            return Ok(CallbackEnd::Home(Box::new(Homecoming { flow: flow.clone(), outcome })));
        }
        self.refuse_browser(flow, reason).await?;
        Ok(CallbackEnd::Page(failure))
    }

    async fn accept(
        &self,
        flow: &Flow,
        connector: &Connector,
        facts: &ProviderFacts,
        state: &Secret,
        code: &Secret,
        others: &BTreeMap<String, String>,
    ) -> Result<CallbackEnd, BrokerError> {
        let now = self.now();
        let handle = self.entropy().token();
        let confirm = (connector.binding == Binding::ConfirmPage).then(|| self.entropy().token());
        let confirm_hash = confirm.as_ref().map(Secret::digest);
        // A handle must not outlive the code that it stands for; ten seconds are for the redemption.
        let ten = std::time::Duration::from_secs(10);
        let life = self.inner.parts.settings.limits.handle_life.min(facts.code_life.saturating_sub(ten));
        let kept = facts
            .keep
            .iter()
            .filter_map(|name| others.get(name.param.as_str()).map(|value| (name.param.clone(), value.clone())))
            .filter(|(_, value)| value.len() <= CODE_MAX);
        let kept: BTreeMap<String, String> = kept.collect();
        let accepted = AcceptedCallback {
            state_hash: &state.digest(),
            status: if confirm.is_some() { FlowStatus::AwaitingConfirm } else { FlowStatus::AwaitingFinish },
            code,
            kept: &kept,
            handle_hash: &handle.digest(),
            handle_expires_at: now.plus(life),
            confirm_hash: confirm_hash.as_ref().map(|hash| &hash[..]),
            now,
        };
        let event = self.event(&flow.space, Actor::Browser, Action::FlowCallback, subject_of(flow));
        if !self.store().accept_callback(flow, &accepted, &event).await? {
            self.refuse_browser(flow, "already_used").await?;
            return Ok(CallbackEnd::Page(PageFailure::AlreadyUsed));
        }
        Ok(match confirm {
            Some(token) => CallbackEnd::Confirm { flow: Box::new(flow.clone()), token },
            None => CallbackEnd::Home(Box::new(Homecoming { flow: flow.clone(), outcome: Outcome::Handle(handle) })),
        })
    }

    async fn fail_callback(
        &self,
        flow: &Flow,
        failure: FlowFailure,
        error: Option<&'static str>,
    ) -> Result<CallbackEnd, BrokerError> {
        match self.end_flow(flow, failure, error).await? {
            PageFailure::Failed(failure) => {
                let outcome = Outcome::Failed(failure);
                Ok(CallbackEnd::Home(Box::new(Homecoming { flow: flow.clone(), outcome })))
            }
            other => Ok(CallbackEnd::Page(other)),
        }
    }

    /// Ends a pending flow with a failure, and says what its browser is told.
    pub(crate) async fn end_flow(
        &self,
        flow: &Flow,
        failure: FlowFailure,
        error: Option<&'static str>,
    ) -> Result<PageFailure, BrokerError> {
        let mut event = self.event(&flow.space, Actor::Browser, Action::FlowFailed, subject_of(flow));
        event.detail = json!({ "code": failure, "error": error });
        if self.store().fail_flow(flow.id, FlowStatus::Pending, failure, self.now(), &event).await? {
            self.inner.metrics.flow_ended(failure.as_str());
            Ok(PageFailure::Failed(failure))
        } else {
            self.refuse_browser(flow, "already_used").await?;
            Ok(PageFailure::AlreadyUsed)
        }
    }
}

/// Whether the flow's targets are registered still.
pub(crate) fn targets_hold(connector: &Connector, flow: &Flow) -> bool {
    let origin = match flow.mode {
        FlowMode::Popup => flow.origin.as_ref().is_some_and(|origin| is_registered(&connector.origins, origin)),
        FlowMode::Redirect => true,
    };
    origin && is_registered(&connector.return_urls, &flow.return_url)
}

/// RFC 9207: compared byte for byte when sent, required when promised.
fn check_issuer(facts: &ProviderFacts, iss: Option<&str>) -> Result<(), FlowFailure> {
    match (iss, &facts.issuer) {
        (Some(iss), Some(expected)) if constant_time_eq(iss.as_bytes(), expected.as_bytes()) => Ok(()),
        // A provider of which we know no issuer cannot be mistaken for another by one: it has an address of its own.
        (None, _) | (Some(_), None) if !facts.iss_required => Ok(()),
        _ => Err(FlowFailure::IssuerMismatch),
    }
}

/// RFC 6749, section 4.1.2.1, and OpenID Connect Core, section 3.1.2.6.
fn failure_of(error: &str) -> FlowFailure {
    match error {
        "access_denied" | "consent_required" | "user_cancelled_login" | "user_cancelled_authorize" => {
            FlowFailure::AccessDenied
        }
        "server_error" | "temporarily_unavailable" => FlowFailure::ProviderUnavailable,
        "unauthorized_client"
        | "invalid_request"
        | "invalid_scope"
        | "unsupported_response_type"
        | "invalid_client" => FlowFailure::ClientRefused,
        _ => FlowFailure::ProviderError,
    }
}

/// The provider's error code, if it is one that a specification names: nothing else of its text is kept.
fn known_error(error: &str) -> &'static str {
    const KNOWN: [&str; 14] = [
        "access_denied",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "invalid_request",
        "invalid_scope",
        "unsupported_response_type",
        "invalid_client",
        "consent_required",
        "login_required",
        "interaction_required",
        "account_selection_required",
        "request_not_supported",
        "invalid_target",
    ];
    KNOWN.into_iter().find(|known| *known == error).unwrap_or("other")
}
