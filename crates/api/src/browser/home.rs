//! The way home: from a flow's end to the page or the redirect that brings it to the application.

use axum::response::Response;
use url::Url;
use valetkey_broker::{Homecoming, Outcome};
use valetkey_core::{FlowMode, SpaceId};

use super::{internal, told, transport, with_cookie};
use crate::{
    Api,
    cookies::clear_cookie,
    pages::{
        Brought, FailurePage, FailureView, Home, ResultView, Subject, Window, failure_page, home_page, redirect_home,
    },
};

/// How a whole page may leave ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// By a redirect: the answer to a navigation.
    Redirect,
    /// By a page that goes on by itself: the answer to a form post, whose redirect to another origin is blocked.
    Page,
}

/// Sends a browser that belongs to its flow home, and takes its cookie away.
pub(super) async fn go_home(api: &Api, homecoming: &Homecoming, leaving: Leaving) -> Response {
    let flow = &homecoming.flow;
    let Ok(return_url) = Url::parse(&flow.return_url) else { return told(FailurePage::ConnectorChanged) };
    let failure = match &homecoming.outcome {
        Outcome::Handle(_) | Outcome::Connected => None,
        Outcome::Failed(failure) => Some(FailurePage::from(*failure)),
        Outcome::Cancelled => Some(FailurePage::FlowCancelled),
        Outcome::Expired => Some(FailurePage::FlowExpired),
    };
    let brought = match (&homecoming.outcome, failure) {
        (Outcome::Handle(handle), _) => Brought::Handle(handle),
        (_, Some(failure)) => Brought::Code(failure.code()),
        (_, None) => Brought::Nothing,
    };
    let window = match (flow.mode, &flow.origin) {
        (FlowMode::Popup, Some(origin)) => Window::Popup { origin },
        (FlowMode::Popup, None) | (FlowMode::Redirect, _) => Window::Page,
    };
    let flow_id = flow.id.to_string();
    let home = Home { flow_id: &flow_id, brought, return_url: &return_url, window };
    let response = match (window, leaving) {
        (Window::Page, Leaving::Redirect) => redirect_home(&home),
        (Window::Page, Leaving::Page) => home_page(&ResultView { connector: "", home }),
        (Window::Popup { .. }, _) => match named(api, homecoming).await {
            Ok((connector, space)) => popup_page(&connector, &space, home, failure),
            Err(response) => response,
        },
    };
    let broker = api.broker();
    with_cookie(response, clear_cookie(&broker.cookie_name(flow.id), transport(broker)))
}

fn popup_page(connector: &str, space: &SpaceId, home: Home<'_>, failure: Option<FailurePage>) -> Response {
    match failure {
        None => home_page(&ResultView { connector, home }),
        Some(page) => {
            let subject = Subject { connector, space: space.as_str() };
            failure_page(&FailureView { page, subject: Some(subject), home: Some(home) })
        }
    }
}

/// The names that a popup's last page shows. A connector that is gone by now has no name.
async fn named(api: &Api, homecoming: &Homecoming) -> Result<(String, SpaceId), Response> {
    match api.broker().confirm_view(&homecoming.flow).await {
        Ok(Some(view)) => Ok((view.connector_name, view.space)),
        Ok(None) => Ok((String::new(), homecoming.flow.space.clone())),
        Err(error) => Err(internal(error)),
    }
}
