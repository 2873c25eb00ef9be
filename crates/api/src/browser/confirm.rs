//! `/oauth/confirm/{flow_id}`: the button of the confirm page.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};
use url::Url;
use valetkey_broker::{ConfirmEnd, PageFailure};
use valetkey_core::{FlowId, Secret};

use super::{
    home::{Leaving, go_home},
    internal,
    query::form_fields,
    told, turned_away,
};
use crate::{
    Api,
    client_address::ClientAddress,
    cookies::RequestCookies,
    extract::{PathParam, read_body},
    pages::FailurePage,
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The form is small.
const FORM_LIMIT: usize = 4 * 1024;

/// Somebody reloads the page after the button, or opens its address: the page cannot be shown a second time.
pub(crate) async fn confirm_reloaded() -> Response {
    told(FailurePage::LinkUsed)
}

/// The person chose. Origin, cookie and one-use token must fit.
pub(crate) async fn confirm(
    State(api): State<Api>,
    address: ClientAddress,
    PathParam(flow): PathParam<String>,
    request: Request,
) -> Response {
    let Ok(flow) = flow.parse::<FlowId>() else {
        api.broker().metrics().browser_refused("unknown_flow");
        return turned_away(&api, address, PageFailure::NotFound);
    };
    if !is_from_our_page(request.headers(), &api.settings().public_url) {
        return refuse(&api, address, flow, "foreign_form").await;
    }
    let headers = request.headers().clone();
    let Some(choice) = choice_of(request).await else {
        return refuse(&api, address, flow, "malformed_form").await;
    };
    let cookies = RequestCookies::of(&headers);
    let cookies = |name: &str| cookies.get(name);
    let end = match choice {
        Choice::Connect(token) => api.broker().confirm(flow, &token, &cookies).await,
        Choice::Cancel => api.broker().cancel_on_page(flow, &cookies).await,
    };
    match end {
        Ok(ConfirmEnd::Home(home)) => go_home(&api, &home, Leaving::Page).await,
        Ok(ConfirmEnd::Page(failure)) => turned_away(&api, address, failure),
        Err(error) => internal(error),
    }
}

async fn refuse(api: &Api, address: ClientAddress, flow: FlowId, reason: &'static str) -> Response {
    match api.broker().refuse_form(flow, reason).await {
        Ok(()) => turned_away(api, address, PageFailure::NotConfirmed),
        Err(error) => internal(error),
    }
}

/// What the person chose.
enum Choice {
    Connect(Secret),
    Cancel,
}

async fn choice_of(request: Request) -> Option<Choice> {
    let content_type = request.headers().get(header::CONTENT_TYPE)?.to_str().ok()?.to_owned();
    let essence = content_type.split(';').next()?.trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return None;
    }
    let body = read_body(request, FORM_LIMIT).await.ok()?;
    let mut fields = form_fields(&body)?;
    let token = fields.remove("token").filter(|token| !token.is_empty())?;
    match fields.get("decision").map(String::as_str) {
        Some("connect") => Some(Choice::Connect(Secret::from(token))),
        Some("cancel") => Some(Choice::Cancel),
        _ => None,
    }
}

/// Whether a form came from a page of ours. Under `Referrer-Policy: no-referrer` browsers send `Origin: null`; then
/// `Sec-Fetch-Site`, which no page can set, has to say it.
fn is_from_our_page(headers: &HeaderMap, public_url: &Url) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let origin = origins.next().map(HeaderValue::as_bytes);
    if origins.next().is_some() {
        return false;
    }
    match origin {
        None | Some(b"null") => headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "same-origin"),
        Some(origin) => origin == public_url.origin().ascii_serialization().as_bytes(),
    }
}

/// Whether a form says that it came from another site. One that says nothing, as from an old browser, does not.
pub(super) fn is_from_elsewhere(headers: &HeaderMap, public_url: &Url) -> bool {
    let ours = public_url.origin().ascii_serialization();
    let origins = headers.get_all(header::ORIGIN);
    let another_origin = origins.iter().any(|origin| origin != "null" && origin.as_bytes() != ours.as_bytes());
    another_origin || headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site" || site == "same-site")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn from_ours(pairs: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        is_from_our_page(&headers, &Url::parse("https://connect.example/base/").expect("an address"))
    }

    #[test]
    fn a_form_of_another_origin_is_refused() {
        assert!(from_ours(&[("origin", "https://connect.example")]));
        assert!(from_ours(&[("origin", "https://connect.example"), ("sec-fetch-site", "same-origin")]));
        assert!(from_ours(&[("origin", "null"), ("sec-fetch-site", "same-origin")]));
        assert!(from_ours(&[("sec-fetch-site", "same-origin")]));
        for bad in [
            &[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")][..],
            &[("origin", "https://connect.example.evil.example")],
            &[("origin", "https://connect.example/")],
            &[("origin", "http://connect.example")],
            &[("origin", "null")],
            &[("origin", "null"), ("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "none")],
            &[("origin", "https://connect.example"), ("origin", "https://evil.example")],
            &[],
        ] {
            assert!(!from_ours(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_form_that_names_another_site_is_from_elsewhere() {
        let elsewhere = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            is_from_elsewhere(&headers, &Url::parse("https://connect.example/base/").expect("an address"))
        };
        for ours in [
            &[][..],
            &[("origin", "https://connect.example")],
            &[("origin", "null"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
        ] {
            assert!(!elsewhere(ours), "{ours:?}");
        }
        for bad in [
            &[("origin", "https://evil.example")][..],
            &[("origin", "https://connect.example"), ("origin", "https://evil.example")],
            &[("origin", "null"), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
        ] {
            assert!(elsewhere(bad), "{bad:?}");
        }
    }

    async fn choice(content_type: &'static str, body: &'static str) -> Option<Choice> {
        let mut request = Request::new(Body::from(body));
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        choice_of(request).await
    }

    #[tokio::test]
    async fn a_choice_is_read_from_the_form_alone() {
        const FORM: &str = "application/x-www-form-urlencoded";
        assert!(
            matches!(choice(FORM, "token=t&decision=connect").await, Some(Choice::Connect(token)) if token.expose() == "t")
        );
        assert!(matches!(choice(FORM, "decision=cancel&token=t").await, Some(Choice::Cancel)));
        for bad in [
            "decision=connect",
            "token=&decision=connect",
            "token=t",
            "token=t&decision=x",
            "token=t&token=u&decision=connect",
        ] {
            assert!(choice(FORM, bad).await.is_none(), "{bad}");
        }
        assert!(choice("text/plain", "token=t&decision=connect").await.is_none());
    }
}
