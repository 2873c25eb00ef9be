//! The confirm page: for applications that cannot call `finish`. Weaker, and recorded as such.

use valetkey_core::{Actor, Flow, FlowFailure, FlowId, FlowStatus, Secret, SpaceId};
use valetkey_store::Proof;

use crate::{
    Broker, BrokerError, Cookies, Homecoming, Outcome, PageFailure,
    callback::targets_hold,
    open::{expect, is_bound_browser},
};

/// What the confirm page names.
#[derive(Debug, Clone)]
pub struct ConfirmView {
    /// The flow.
    pub flow_id: FlowId,
    /// The connector's name.
    pub connector_name: String,
    /// The provider's name in its profile.
    pub provider: String,
    /// The space.
    pub space: SpaceId,
    /// How the application names the user.
    pub user_display: Option<String>,
}

/// How a confirmation ended.
#[derive(Debug)]
pub enum ConfirmEnd {
    /// The browser goes home, by way of a page of ours.
    Home(Box<Homecoming>),
    /// The browser is told something.
    Page(PageFailure),
}

impl Broker {
    /// What the confirm page of a flow names.
    pub async fn confirm_view(&self, flow: &Flow) -> Result<Option<ConfirmView>, BrokerError> {
        let connector = self.store().find_connector(&flow.space, flow.connector_id).await?;
        Ok(connector.map(|connector| ConfirmView {
            flow_id: flow.id,
            connector_name: connector.name,
            provider: self.provider_title(&connector.provider),
            space: flow.space.clone(),
            user_display: flow.user_display.clone(),
        }))
    }

    /// The person pressed the button: cookie and one-use token must fit.
    pub async fn confirm(&self, id: FlowId, token: &Secret, cookies: &Cookies<'_>) -> Result<ConfirmEnd, BrokerError> {
        let flow = match self.confirming(id, cookies).await? {
            Ok(flow) => flow,
            Err(failure) => return Ok(ConfirmEnd::Page(failure)),
        };
        let outcome = match self.redeem(&flow, Proof::Confirm(&token.digest()), Actor::Browser, true).await {
            Ok(Some(_)) => Outcome::Connected,
            Ok(None) => {
                self.refuse_browser(&flow, "confirm_token").await?;
                return Ok(ConfirmEnd::Page(PageFailure::NotConfirmed));
            }
            Err(BrokerError::FlowFailed(failure)) => Outcome::Failed(failure),
            Err(BrokerError::Provider(_) | BrokerError::ProviderUnavailable { .. }) => {
                Outcome::Failed(FlowFailure::ProviderUnavailable)
            }
            Err(error) => return Err(error),
        };
        Ok(ConfirmEnd::Home(Box::new(Homecoming { flow, outcome })))
    }

    /// The person pressed Cancel.
    pub async fn cancel_on_page(&self, id: FlowId, cookies: &Cookies<'_>) -> Result<ConfirmEnd, BrokerError> {
        let flow = match self.confirming(id, cookies).await? {
            Ok(flow) => flow,
            Err(failure) => return Ok(ConfirmEnd::Page(failure)),
        };
        if !self.call_off(&flow, Actor::Browser, "person").await? {
            return Ok(ConfirmEnd::Page(PageFailure::AlreadyUsed));
        }
        Ok(ConfirmEnd::Home(Box::new(Homecoming { flow, outcome: Outcome::Cancelled })))
    }

    async fn confirming(&self, id: FlowId, cookies: &Cookies<'_>) -> Result<Result<Flow, PageFailure>, BrokerError> {
        let Some(record) = self.store().find_flow(id).await? else {
            self.inner.metrics.browser_refused("unknown_flow");
            return Ok(Err(PageFailure::NotFound));
        };
        if !is_bound_browser(&record, cookies(&self.cookie_name(id)).as_ref()) {
            self.refuse_browser(&record.flow, "wrong_browser").await?;
            return Ok(Err(PageFailure::WrongBrowser));
        }
        let flow = record.flow;
        if let Err(failure) = expect(&flow, FlowStatus::AwaitingConfirm, self.now()) {
            self.refuse_browser(&flow, "already_used").await?;
            return Ok(Err(failure));
        }
        // The person may have taken minutes: the browser goes home only to what is registered still.
        let connector = self.store().find_connector(&flow.space, flow.connector_id).await?;
        if !connector.is_some_and(|connector| targets_hold(&connector, &flow)) {
            let failure = FlowFailure::ConnectorChanged;
            self.fail(&flow, FlowStatus::AwaitingConfirm, failure, Actor::Browser, "").await?;
            return Ok(Err(PageFailure::Failed(failure)));
        }
        Ok(Ok(flow))
    }
}
