//! `/connect/{ticket}`: a GET shows a page and changes nothing; its script's POST binds the browser.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use serde::Serialize;
use valetkey_broker::PageFailure;
use valetkey_core::Secret;

use super::{confirm::is_from_elsewhere, internal, transport, turned_away, with_cookie};
use crate::{
    Api,
    answer::json,
    client_address::ClientAddress,
    cookies::{RequestCookies, set_cookie},
    extract::PathParam,
    pages::{ConnectView, connect_page, leaving_page},
};

/// Where the page's script goes on to.
#[derive(Serialize)]
struct Onward<'a> {
    location: &'a str,
}

/// A start link's ticket: a secret of the one browser that opens it.
#[derive(Debug)]
pub(crate) struct Ticket(Secret);

impl std::str::FromStr for Ticket {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(Secret::from(text)))
    }
}

/// Shows the page.
pub(crate) async fn show_connect(
    State(api): State<Api>,
    address: ClientAddress,
    PathParam(ticket): PathParam<Ticket>,
) -> Response {
    match api.broker().connect_view(&ticket.0).await {
        Ok(Ok(view)) => connect_page(&ConnectView {
            connector: &view.connector_name,
            provider: &view.provider,
            space: view.space.as_str(),
        }),
        Ok(Err(failure)) => turned_away(&api, address, failure),
        Err(error) => internal(error),
    }
}

/// Binds this browser and says where to go on: to the page's script as JSON, to its button as a page that goes on by itself.
pub(crate) async fn open_connect(
    State(api): State<Api>,
    address: ClientAddress,
    PathParam(ticket): PathParam<Ticket>,
    headers: HeaderMap,
) -> Response {
    let broker = api.broker();
    let for_script = wants_json(&headers);
    let provider = match broker.connect_view(&ticket.0).await {
        Ok(Ok(view)) => view.provider,
        Ok(Err(failure)) => return turned_away(&api, address, failure),
        Err(error) => return internal(error),
    };
    // Another site may not press our button: the page that names what is about to happen would be skipped.
    if is_from_elsewhere(&headers, &api.settings().public_url) {
        return match broker.refuse_link(&ticket.0).await {
            Ok(()) => turned_away(&api, address, PageFailure::NotConfirmed),
            Err(error) => internal(error),
        };
    }
    let cookies = RequestCookies::of(&headers);
    let opened = match broker.open_flow(&ticket.0, &|name: &str| cookies.get(name)).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(failure)) => return turned_away(&api, address, failure),
        Err(error) => return internal(error),
    };
    let seconds = opened.expires_at.since(api.now()).as_secs();
    let cookie = set_cookie(&opened.cookie_name, &opened.cookie, seconds, transport(broker));
    let response = if for_script {
        json(StatusCode::OK, &Onward { location: opened.location.as_str() })
    } else {
        leaving_page(&provider, &opened.location)
    };
    with_cookie(response, cookie)
}

fn wants_json(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_the_script_gets_json() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(value));
            wants_json(&headers)
        };
        assert!(of("application/json"));
        assert!(of("text/html, application/json;q=0.9"));
        assert!(!of("text/html,application/xhtml+xml,*/*;q=0.8"));
        assert!(!wants_json(&HeaderMap::new()));
    }
}
