//! Open a start link: a GET shows a page and changes nothing; its script's POST binds the browser.

use serde_json::json;
use valetkey_core::{
    Action, Actor, AuditEvent, ConnectorId, Flow, FlowFailure, FlowId, FlowStatus, Secret, SpaceId, Timestamp,
    constant_time_eq,
};
use valetkey_providers::AuthorizationRequest;
use valetkey_store::{Bind, FlowRecord};

use crate::{
    Broker, BrokerError,
    refusals::{About, Record},
    start::subject_of,
};

/// What a browser may be told instead of going on. Each has a page text of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageFailure {
    /// No flow belongs to this link or answer.
    NotFound,
    /// The flow's life is over.
    Expired,
    /// The flow is past this step.
    AlreadyUsed,
    /// The flow has made its connection.
    AlreadyFinished,
    /// Another browser is bound, or this one sent no cookie.
    WrongBrowser,
    /// The answer came to another connector's address.
    WrongConnector,
    /// The application or the person called it off.
    Cancelled,
    /// A parameter came twice, or one that must be there is missing.
    Malformed,
    /// The confirm page's token does not fit.
    NotConfirmed,
    /// The flow failed.
    Failed(FlowFailure),
    /// Too many answers from this address failed their checks.
    TooMany,
    /// Ours.
    Internal,
}

/// The cookies that a browser sent, by name.
pub type Cookies<'a> = dyn Fn(&str) -> Option<Secret> + Send + Sync + 'a;

/// What the connect page names.
#[derive(Debug, Clone)]
pub struct ConnectView {
    /// The flow.
    pub flow_id: FlowId,
    /// The connector's name.
    pub connector_name: String,
    /// The provider's name in its profile.
    pub provider: String,
    /// The space.
    pub space: SpaceId,
    /// When the flow's life ends.
    pub expires_at: Timestamp,
}

/// A flow whose browser is bound.
#[derive(Debug)]
pub struct OpenedFlow {
    /// The flow.
    pub flow_id: FlowId,
    /// The cookie's name.
    pub cookie_name: String,
    /// The cookie's value.
    pub cookie: Secret,
    /// The provider's consent page.
    pub location: url::Url,
    /// When the flow's life ends.
    pub expires_at: Timestamp,
}

impl Broker {
    /// The name of the cookie that binds a browser to a flow. Prefix and `Secure` fall away on loopback HTTP only.
    pub fn cookie_name(&self, flow: FlowId) -> String {
        if self.cookies_are_secure() { format!("__Host-vk_{flow}") } else { format!("vk_{flow}") }
    }

    /// Whether cookies are `Secure`: always, unless the public address is plain HTTP on loopback.
    pub fn cookies_are_secure(&self) -> bool {
        self.inner.parts.settings.public_url.scheme() == "https"
    }

    /// What the connect page names. Changes nothing.
    pub async fn connect_view(&self, ticket: &Secret) -> Result<Result<ConnectView, PageFailure>, BrokerError> {
        let Some(record) = self.store().find_flow_by_ticket(&ticket.digest()).await? else {
            self.inner.metrics.browser_refused("unknown_link");
            return Ok(Err(PageFailure::NotFound));
        };
        if let Err(failure) = expect(&record.flow, FlowStatus::Pending, self.now()) {
            // No event: previews and reloads come here too, and nothing was at stake any more.
            self.inner.metrics.browser_refused("link_over");
            return Ok(Err(failure));
        }
        let Some(connector) = self.store().find_connector(&record.flow.space, record.flow.connector_id).await? else {
            return Ok(Err(PageFailure::Failed(FlowFailure::ConnectorChanged)));
        };
        Ok(Ok(ConnectView {
            flow_id: record.flow.id,
            connector_name: connector.name,
            provider: self.provider_title(&connector.provider),
            space: record.flow.space,
            expires_at: record.flow.expires_at,
        }))
    }

    /// Binds this browser and answers with the provider's address. The bound browser may come again; another may not.
    pub async fn open_flow(
        &self,
        ticket: &Secret,
        cookies: &Cookies<'_>,
    ) -> Result<Result<OpenedFlow, PageFailure>, BrokerError> {
        let Some(record) = self.store().find_flow_by_ticket(&ticket.digest()).await? else {
            return Ok(Err(PageFailure::NotFound));
        };
        let flow = &record.flow;
        let now = self.now();
        if let Err(failure) = expect(flow, FlowStatus::Pending, now) {
            return Ok(Err(failure));
        }
        let cookie_name = self.cookie_name(flow.id);
        let presented = cookies(&cookie_name);
        if record.browser_hash.is_some() && !is_bound_browser(&record, presented.as_ref()) {
            self.refuse_browser(flow, "another_browser").await?;
            return Ok(Err(PageFailure::WrongBrowser));
        }
        let Some(connector) = self.store().find_connector(&flow.space, flow.connector_id).await? else {
            return Ok(Err(PageFailure::Failed(FlowFailure::ConnectorChanged)));
        };
        let (state, verifier, nonce) = (self.entropy().token(), self.entropy().token(), self.entropy().token());
        let request = AuthorizationRequest {
            redirect_uri: &self.redirect_uri(connector.id),
            state: &state,
            verifier: &verifier,
            nonce: &nonce,
            scopes: &flow.scopes,
            login_hint: flow.login_hint.as_deref(),
        };
        let location = match self.provider().authorization_url(&connector, &request).await {
            Ok(location) => location,
            Err(error) => {
                tracing::warn!(flow.id = %flow.id, error = &error as &dyn std::error::Error, "flow {} cannot be sent to its provider", flow.id);
                return Ok(Err(PageFailure::Failed(FlowFailure::ProviderUnavailable)));
            }
        };
        // A reopened link starts anew at the provider: only the newest state is answered.
        let reopened = record.browser_hash.is_some();
        let cookie = match presented {
            Some(cookie) if reopened => cookie,
            _ => self.entropy().token(),
        };
        let digest = cookie.digest();
        let bind = Bind {
            browser_hash: &digest,
            presented_hash: reopened.then_some(&digest[..]),
            state_hash: &state.digest(),
            verifier: &verifier,
            nonce: &nonce,
            now,
        };
        let event = self.event(&flow.space, Actor::Browser, Action::FlowOpened, subject_of(flow));
        if !self.store().bind_flow(flow, &bind, &event).await? {
            self.refuse_browser(flow, "another_browser").await?;
            return Ok(Err(PageFailure::WrongBrowser));
        }
        Ok(Ok(OpenedFlow { flow_id: flow.id, cookie_name, cookie, location, expires_at: flow.expires_at }))
    }

    /// Notes a browser that was turned away; the flow goes on for the right one.
    pub(crate) async fn refuse_browser(&self, flow: &Flow, reason: &'static str) -> Result<(), BrokerError> {
        self.inner.metrics.browser_refused(reason);
        self.record_refusal(flow, Actor::Browser, Action::FlowCallbackRefused, reason).await
    }

    /// Puts a refusal of a flow on record, unless there were so many that they are only counted.
    pub(crate) async fn record_refusal(
        &self,
        flow: &Flow,
        actor: Actor,
        action: Action,
        reason: &'static str,
    ) -> Result<(), BrokerError> {
        let event = self.event(&flow.space, actor, action, subject_of(flow));
        self.append_refusal(About::Flow(flow.id), event, reason).await
    }

    /// The same for whatever a refusal is about. The event is given its reason here.
    pub(crate) async fn append_refusal(
        &self,
        about: About,
        mut event: AuditEvent,
        reason: &'static str,
    ) -> Result<(), BrokerError> {
        event.detail = json!({ "reason": reason });
        match self.inner.refusals.note(about) {
            Record::Written => {}
            Record::Last => event.detail["last_on_record"] = json!(true),
            Record::Counted => return Ok(()),
        }
        Ok(self.store().append_audit(&[event]).await?)
    }

    /// Notes a form that did not come from our page, or is none of ours by what it says. The flow goes on.
    pub async fn refuse_form(&self, id: FlowId, reason: &'static str) -> Result<(), BrokerError> {
        let Some(record) = self.store().find_flow(id).await? else {
            self.inner.metrics.browser_refused(reason);
            return Ok(());
        };
        self.refuse_browser(&record.flow, reason).await
    }

    /// Notes a start link whose button another site pressed. The flow goes on.
    pub async fn refuse_link(&self, ticket: &Secret) -> Result<(), BrokerError> {
        match self.store().find_flow_by_ticket(&ticket.digest()).await? {
            Some(record) => self.refuse_browser(&record.flow, "foreign_form").await,
            None => Ok(()),
        }
    }

    /// Counts an answer that belongs to no flow.
    pub fn refuse_unknown(&self, connector: Option<ConnectorId>) {
        self.inner.metrics.browser_refused("unknown_state");
        tracing::info!(?connector, "a callback belonged to no flow");
    }
}

/// Whether the cookie is the bound browser's, in constant time.
pub(crate) fn is_bound_browser(record: &FlowRecord, cookie: Option<&Secret>) -> bool {
    match (&record.browser_hash, cookie) {
        (Some(hash), Some(cookie)) => constant_time_eq(hash, &cookie.digest()),
        _ => false,
    }
}

/// Says why a flow does not stand where a page needs it.
pub(crate) fn expect(flow: &Flow, wanted: FlowStatus, now: Timestamp) -> Result<(), PageFailure> {
    let status = flow.status_at(now);
    if status == wanted {
        return Ok(());
    }
    Err(match status {
        FlowStatus::Expired => PageFailure::Expired,
        FlowStatus::Cancelled => PageFailure::Cancelled,
        FlowStatus::Failed => PageFailure::Failed(flow.failure.unwrap_or(FlowFailure::ProviderError)),
        FlowStatus::Connected => PageFailure::AlreadyFinished,
        FlowStatus::Pending | FlowStatus::AwaitingConfirm | FlowStatus::AwaitingFinish | FlowStatus::Finishing => {
            PageFailure::AlreadyUsed
        }
    })
}
