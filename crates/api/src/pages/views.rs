//! What each page shows.

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use url::Url;
use valetkey_core::Secret;

use super::{
    Brought, FailurePage, Home, Window,
    headers::{Fetches, refresh_to, respond},
    marks, texts,
};

/// The page behind a start link.
#[derive(Template)]
#[template(path = "connect.html")]
pub(crate) struct ConnectView<'a> {
    /// The connector's name.
    pub(crate) connector: &'a str,
    /// The provider's name in the catalogue.
    pub(crate) provider: &'a str,
    /// The space's name.
    pub(crate) space: &'a str,
}

impl ConnectView<'_> {
    fn title(&self) -> String {
        format!("{} {} · {}", texts::CONNECT, self.provider, self.connector)
    }
}

/// `GET /connect/{ticket}`: names what is about to happen. Its script, or its button, posts to the same address.
pub(crate) fn connect_page(view: &ConnectView<'_>) -> Response {
    respond(StatusCode::OK, Fetches::OwnOrigin, view)
}

#[derive(Template)]
#[template(path = "leaving.html")]
struct LeavingView<'a> {
    heading: String,
    action: String,
    target: &'a str,
}

fn leaving(status: StatusCode, heading: String, action: String, target: &Url) -> Response {
    let target = target.as_str();
    let view = LeavingView { heading, action, target };
    respond(status, Fetches::Nothing, &view)
}

/// The answer to the connect page's button where there is no script: goes on to the provider by itself.
pub(crate) fn leaving_page(provider: &str, target: &Url) -> Response {
    let heading = format!("{} {provider}", texts::TAKING_YOU_TO);
    let action = format!("{} {provider}", texts::CONTINUE_TO);
    let page = leaving(StatusCode::OK, heading, action, target);
    refresh_to(page, target.as_str())
}

/// What a flow was about, for pages that may tell.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// The connector's name.
    pub(crate) connector: &'a str,
    /// The space's name.
    pub(crate) space: &'a str,
}

/// A flow that ended well, on its way home.
#[derive(Clone, Copy)]
pub(crate) struct ResultView<'a> {
    /// The connector's name.
    pub(crate) connector: &'a str,
    /// The way home, with a handle to finish with, or with nothing where the connection exists already.
    pub(crate) home: Home<'a>,
}

#[derive(Template)]
#[template(path = "result.html")]
struct ResultPage<'a> {
    connector: &'a str,
    home: Home<'a>,
    heading: &'static str,
    lead: &'static str,
    told: &'static str,
    stay: bool,
}

/// The last page of a flow that ended well. A popup reports to its opener, or goes to the relay; a whole page goes on by
/// itself, which also works as the answer to a form post.
pub(crate) fn home_page(view: &ResultView<'_>) -> Response {
    let home = view.home;
    if let Window::Page = home.window {
        let target = home.address();
        let page = return_page(StatusCode::OK, &home, &target);
        return refresh_to(page, target.as_str());
    }
    let (heading, lead) = match home.brought {
        Brought::Nothing => (texts::CONNECTED_HEADING, texts::CONNECTED_LEAD),
        Brought::Handle(_) | Brought::Code(_) => (texts::AUTHORIZED_HEADING, texts::AUTHORIZED_LEAD),
    };
    let page = ResultPage { connector: view.connector, home, heading, lead, told: texts::TOLD, stay: false };
    respond(StatusCode::OK, Fetches::Nothing, &page)
}

fn return_page(status: StatusCode, home: &Home<'_>, target: &Url) -> Response {
    let action = format!("{} {}", texts::RETURN_TO, home.host());
    leaving(status, action.clone(), action, target)
}

/// Sends the whole page home at once: 303, with a page that has the link for whoever is not redirected. Not for the
/// answer to a form post, whose redirect to another origin is blocked: [`home_page`] is.
pub(crate) fn redirect_home(home: &Home<'_>) -> Response {
    let target = home.address();
    let mut response = return_page(StatusCode::SEE_OTHER, home, &target);
    if let Ok(location) = HeaderValue::try_from(target.as_str()) {
        response.headers_mut().insert(header::LOCATION, location);
    } else {
        *response.status_mut() = StatusCode::OK;
    }
    response
}

/// The page that asks before anything is redeemed (binding `confirm_page`).
#[derive(Template)]
#[template(path = "confirm.html")]
pub(crate) struct ConfirmView<'a> {
    /// The connector's name.
    pub(crate) connector: &'a str,
    /// The provider's name in the catalogue.
    pub(crate) provider: &'a str,
    /// The space's name.
    pub(crate) space: &'a str,
    /// How the application named the person when the flow was started.
    pub(crate) user_display: Option<&'a str>,
    /// Where the form posts to: `/oauth/confirm/{flow_id}`.
    pub(crate) action: &'a str,
    /// The one-use token, posted as `token`. `decision` is `connect` or `cancel`.
    pub(crate) token: &'a Secret,
}

impl ConfirmView<'_> {
    fn title(&self) -> String {
        format!("{} {}? · {}", texts::CONFIRM_HEADING, self.provider, self.connector)
    }
}

/// Asks the person. The button that consents wakes after a second in sight.
pub(crate) fn confirm_page(view: &ConfirmView<'_>) -> Response {
    respond(StatusCode::OK, Fetches::Nothing, view)
}

/// A flow that ended without a connection, or a visit that never was one.
#[derive(Clone, Copy)]
pub(crate) struct FailureView<'a> {
    /// What happened.
    pub(crate) page: FailurePage,
    /// What it was about. None for a browser that has not shown it belongs to the flow.
    pub(crate) subject: Option<Subject<'a>>,
    /// The way home, under the same condition.
    pub(crate) home: Option<Home<'a>>,
}

#[derive(Template)]
#[template(path = "failure.html")]
struct FailureTemplate<'a> {
    page: FailurePage,
    text: texts::FailureText,
    calm: bool,
    subject: Option<Subject<'a>>,
    home: Option<Home<'a>>,
    popup: Option<Home<'a>>,
    told: &'static str,
    stay: bool,
}

/// Tells what happened and what to do next. In a popup with a way home the application is told too; the page stays to be
/// read, except where the person chose this and goes back at once.
pub(crate) fn failure_page(view: &FailureView<'_>) -> Response {
    let page = view.page;
    let template = FailureTemplate {
        page,
        text: texts::failure(page),
        calm: page.is_calm(),
        subject: view.subject,
        home: view.home,
        popup: view.home.filter(|home| home.popup_origin().is_some()),
        told: if page.is_calm() { texts::TOLD } else { texts::TOLD_FAILURE },
        stay: !page.is_calm(),
    };
    respond(page.status(), Fetches::Nothing, &template)
}
