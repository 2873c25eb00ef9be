//! The browser's side: start links, callbacks, the confirm page. These routes have no caller; a cookie binds the browser.

mod callback;
mod confirm;
mod connect;
mod home;
mod query;

pub(crate) use callback::callback;
pub(crate) use confirm::{confirm, confirm_reloaded};
pub(crate) use connect::{open_connect, show_connect};
#[cfg(feature = "fuzzing")]
pub(crate) use query::callback_query;

use std::sync::Arc;

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use valetkey_broker::{Broker, BrokerError, PageFailure};

use crate::{
    Api,
    client_address::ClientAddress,
    cookies::Transport,
    extract::PathParam,
    pages::{FailurePage, FailureView, asset_response, failure_page},
    problem::{Cause, Problem, ProblemCode, whole_seconds},
};

/// A file that the pages load.
pub(crate) async fn asset(PathParam(name): PathParam<String>) -> Result<Response, Problem> {
    asset_response(&name).ok_or_else(|| Problem::new(ProblemCode::NotFound))
}

/// `HEAD` where only `GET` is known: a link preview burns nothing.
pub(crate) async fn no_head() -> Problem {
    Problem::new(ProblemCode::MethodNotAllowed).header(header::ALLOW, HeaderValue::from_static("GET"))
}

/// `HEAD` where `GET` and `POST` are known.
pub(crate) async fn no_head_and_post() -> Problem {
    Problem::new(ProblemCode::MethodNotAllowed).header(header::ALLOW, HeaderValue::from_static("GET, POST"))
}

/// A page that says what happened, to a browser that has not shown it belongs to a flow.
fn told(page: FailurePage) -> Response {
    failure_page(&FailureView { page, subject: None, home: None })
}

/// Our own fault, as a page; the edge logs the cause.
fn internal(error: BrokerError) -> Response {
    let mut response = told(FailurePage::Internal);
    response.extensions_mut().insert(Cause(Arc::new(error)));
    response
}

/// A page for a browser that is turned away. Those that fail the state or cookie check are counted by address, and above the
/// limit the page says so.
fn turned_away(api: &Api, ClientAddress(address): ClientAddress, failure: PageFailure) -> Response {
    if !is_suspect(failure) {
        return told(page_of(failure));
    }
    match api.count_failing_callback(address) {
        Ok(()) => told(page_of(failure)),
        Err(wait) => {
            api.broker().metrics().limited("callbacks");
            let mut response = told(FailurePage::TooManyTries);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
            response
        }
    }
}

/// Whether somebody might be trying states, tickets or cookies.
fn is_suspect(failure: PageFailure) -> bool {
    match failure {
        PageFailure::NotFound
        | PageFailure::WrongBrowser
        | PageFailure::WrongConnector
        | PageFailure::Malformed
        | PageFailure::NotConfirmed => true,
        PageFailure::Expired
        | PageFailure::AlreadyUsed
        | PageFailure::AlreadyFinished
        | PageFailure::Cancelled
        | PageFailure::Failed(_)
        | PageFailure::TooMany
        | PageFailure::Internal => false,
    }
}

fn page_of(failure: PageFailure) -> FailurePage {
    match failure {
        PageFailure::NotFound => FailurePage::LinkNotFound,
        PageFailure::Expired => FailurePage::FlowExpired,
        PageFailure::AlreadyUsed => FailurePage::LinkUsed,
        PageFailure::AlreadyFinished => FailurePage::AlreadyFinished,
        PageFailure::WrongBrowser => FailurePage::WrongBrowser,
        PageFailure::WrongConnector | PageFailure::Malformed => FailurePage::CallbackInvalid,
        PageFailure::Cancelled => FailurePage::FlowCancelled,
        PageFailure::NotConfirmed => FailurePage::ConfirmInvalid,
        PageFailure::Failed(failure) => failure.into(),
        PageFailure::TooMany => FailurePage::TooManyTries,
        PageFailure::Internal => FailurePage::Internal,
    }
}

fn transport(broker: &Broker) -> Transport {
    if broker.cookies_are_secure() { Transport::Tls } else { Transport::Loopback }
}

/// Adds a `Set-Cookie`, if there is one.
fn with_cookie(mut response: Response, cookie: Option<HeaderValue>) -> Response {
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response.into_response()
}
