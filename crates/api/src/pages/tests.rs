use std::collections::BTreeSet;

use axum::{
    body::to_bytes,
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use url::Url;
use valetkey_core::{FlowFailure, Secret};

use super::{assets::asset, *};

const ORIGIN: &str = "https://app.example";
const HOSTILE: &str = "\"><script>alert(1)</script>&'`{{";

/// A page's status, headers and text.
struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    html: String,
}

async fn seen(response: Response) -> Seen {
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.expect("a body");
    Seen { status: parts.status, headers: parts.headers, html: String::from_utf8(bytes.to_vec()).expect("text") }
}

fn relay() -> Url {
    Url::parse("https://app.example/relay").expect("an address")
}

fn popup_home<'a>(return_url: &'a Url, brought: Brought<'a>) -> Home<'a> {
    Home { flow_id: "flw_one", brought, return_url, window: Window::Popup { origin: ORIGIN } }
}

/// Every page there is, with `name` wherever someone else's words can stand.
fn every_page(name: &str) -> Vec<(&'static str, Response)> {
    let (relay, secret) = (relay(), Secret::from("hnd_two"));
    let home = popup_home(&relay, Brought::Handle(&secret));
    let whole = Home { window: Window::Page, ..home };
    let connect = ConnectView { connector: name, provider: name, space: name };
    let confirm = ConfirmView {
        connector: name,
        provider: name,
        space: name,
        user_display: Some(name),
        action: "/oauth/confirm/flw_one",
        token: &secret,
    };
    let result = ResultView { connector: name, home };
    let mut pages = vec![
        ("connect", connect_page(&connect)),
        ("leaving", leaving_page(name, &relay)),
        ("confirm", confirm_page(&confirm)),
        ("result", home_page(&result)),
        ("continue", home_page(&ResultView { home: whole, ..result })),
        ("redirect", redirect_home(&whole)),
    ];
    for page in FailurePage::ALL {
        let view = FailureView {
            page,
            subject: Some(Subject { connector: name, space: name }),
            home: Some(popup_home(&relay, Brought::Code(page.code()))),
        };
        pages.push((page.code(), failure_page(&view)));
    }
    pages
}

#[tokio::test]
async fn every_page_carries_the_headers_of_a_popup_page() {
    for (name, page) in every_page("Issues") {
        let Seen { headers, .. } = seen(page).await;
        let connect = if name == "connect" { "'self'" } else { "'none'" };
        let expected = [
            (
                "content-security-policy",
                format!(
                    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src {connect}; \
                     form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
                ),
            ),
            ("referrer-policy", "no-referrer".to_owned()),
            ("cache-control", "no-store".to_owned()),
            ("x-content-type-options", "nosniff".to_owned()),
            ("x-frame-options", "DENY".to_owned()),
            ("content-type", "text/html; charset=utf-8".to_owned()),
        ];
        for (header, value) in expected {
            assert_eq!(headers[header], value, "{header} of {name}");
        }
        assert!(!headers.contains_key("cross-origin-opener-policy"), "{name} would cut its opener");
    }
}

#[tokio::test]
async fn a_hostile_name_is_text_on_every_page() {
    for (name, page) in every_page(HOSTILE) {
        let Seen { html, .. } = seen(page).await;
        assert!(!html.contains("<script>"), "{name}: {html}");
        assert!(!html.contains("&'`"), "{name} leaves a quote unescaped");
    }
}

#[tokio::test]
async fn no_page_has_inline_script_or_style() {
    for (name, page) in every_page("Issues") {
        let Seen { html, .. } = seen(page).await;
        assert!(!html.contains(" style="), "{name} has a style attribute");
        assert!(!html.contains("<style"), "{name} has a style element");
        assert!(!html.contains(" onclick="), "{name} has a handler");
        for tag in html.split("<script").skip(1) {
            assert!(tag.starts_with(" type=\"module\" src=\"/assets/"), "{name} has a script of its own: {tag}");
        }
    }
}

#[tokio::test]
async fn every_page_has_one_heading_a_landmark_and_a_title() {
    for (name, page) in every_page("Issues") {
        let Seen { html, .. } = seen(page).await;
        for part in ["<h1", "<main", "<footer", "<title>", "<html lang=\"en\">"] {
            assert_eq!(html.matches(part).count(), 1, "{part} on {name}");
        }
        assert!(!html.contains("<title></title>"), "{name} has no title");
    }
}

#[tokio::test]
async fn files_that_pages_name_exist() {
    for (name, page) in every_page("Issues") {
        let Seen { html, .. } = seen(page).await;
        for file in html.split("\"/assets/").skip(1) {
            let file = file.split('"').next().unwrap_or_default();
            assert!(asset(file).is_some(), "{name} names {file}");
        }
    }
}

#[tokio::test]
async fn connect_page_can_be_sent_without_script() {
    let view = ConnectView { connector: "Issues", provider: "GitHub", space: "default" };
    let Seen { html, .. } = seen(connect_page(&view)).await;
    assert!(html.contains("<form id=\"start\" method=\"post\""));
    assert!(html.contains("Continue to GitHub"));
    assert!(html.contains("<bdi>Issues</bdi>") && html.contains("<bdi>default</bdi>"));
}

#[tokio::test]
async fn page_after_the_connect_button_goes_on_by_itself_and_by_a_link() {
    let target = Url::parse("https://provider.example/authorize?a=1&b=2").expect("an address");
    let Seen { headers, html, .. } = seen(leaving_page("GitHub", &target)).await;
    assert_eq!(headers[header::REFRESH], "0; url=https://provider.example/authorize?a=1&b=2");
    assert!(html.contains("href=\"https://provider.example/authorize?a=1&#38;b=2\""));
}

#[tokio::test]
async fn result_page_of_a_popup_holds_what_its_script_reports() {
    let (relay, handle) = (relay(), Secret::from("hnd_two"));
    let view = ResultView { connector: "Issues", home: popup_home(&relay, Brought::Handle(&handle)) };
    let Seen { headers, html, .. } = seen(home_page(&view)).await;
    for part in [
        "data-origin=\"https://app.example\"",
        "data-flow=\"flw_one\"",
        "data-handle=\"hnd_two\"",
        "href=\"https://app.example/relay#flow_id=flw_one&#38;handle=hnd_two\"",
    ] {
        assert!(html.contains(part), "{part} in {html}");
    }
    assert!(!html.contains("data-stay") && !html.contains("data-code"));
    assert!(!headers.contains_key(header::REFRESH));
}

#[tokio::test]
async fn connection_that_exists_already_comes_home_without_a_handle() {
    let relay = relay();
    let view = ResultView { connector: "Issues", home: popup_home(&relay, Brought::Nothing) };
    let Seen { html, .. } = seen(home_page(&view)).await;
    assert!(html.contains("<h1>Connected</h1>"));
    assert!(html.contains("href=\"https://app.example/relay#flow_id=flw_one\""));
    assert!(!html.contains("data-handle") && !html.contains("data-code"));
}

#[tokio::test]
async fn whole_page_goes_home_by_refresh_after_a_form_and_by_redirect_otherwise() {
    let return_url = Url::parse("https://app.example/connected?tab=2").expect("an address");
    let handle = Secret::from("hnd_two");
    let home = Home { window: Window::Page, ..popup_home(&return_url, Brought::Handle(&handle)) };
    let target = "https://app.example/connected?tab=2&flow_id=flw_one&handle=hnd_two";
    let view = ResultView { connector: "Issues", home };
    let after_form = seen(home_page(&view)).await;
    assert_eq!(after_form.status, StatusCode::OK);
    assert_eq!(after_form.headers[header::REFRESH], format!("0; url={target}"));
    let otherwise = seen(redirect_home(&home)).await;
    assert_eq!(otherwise.status, StatusCode::SEE_OTHER);
    assert_eq!(otherwise.headers[header::LOCATION], target);
    assert!(otherwise.html.contains("Return to app.example"));
}

#[test]
fn a_load_cannot_add_parameters_of_its_own() {
    let return_url = relay();
    let home = popup_home(&return_url, Brought::Code("a&handle=b#c"));
    assert_eq!(home.address().as_str(), "https://app.example/relay#flow_id=flw_one&code=a%26handle%3Db%23c");
}

#[tokio::test]
async fn confirm_page_names_all_three_and_its_button_sleeps() {
    let token = Secret::from("tok_three");
    let view = ConfirmView {
        connector: "Issues",
        provider: "GitHub",
        space: "team-a",
        user_display: Some("u-17"),
        action: "/oauth/confirm/flw_one",
        token: &token,
    };
    let Seen { html, .. } = seen(confirm_page(&view)).await;
    for part in [
        "<bdi>Issues</bdi>",
        "<bdi>team-a</bdi>",
        "<bdi>u-17</bdi>",
        "action=\"/oauth/confirm/flw_one\"",
        "name=\"token\" value=\"tok_three\"",
        "value=\"cancel\"",
    ] {
        assert!(html.contains(part), "{part} in {html}");
    }
    let button = html.split("<button id=\"confirm\"").nth(1);
    let button = button.and_then(|rest| rest.split('>').next());
    assert!(button.is_some_and(|tag| tag.contains("disabled")));
}

#[tokio::test]
async fn every_failure_says_what_why_and_what_next_with_its_code() {
    let mut codes = BTreeSet::new();
    for page in FailurePage::ALL {
        let view = FailureView { page, subject: None, home: None };
        let Seen { status, html, .. } = seen(failure_page(&view)).await;
        let code = page.code();
        assert_eq!(status, page.status(), "{code}");
        assert!(html.contains(&format!("<code>{code}</code>")));
        assert!(code.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{code}");
        assert!(codes.insert(code), "{code} stands for two failures");
        let text = texts::failure(page);
        for sentence in [text.happened, text.why, text.next] {
            assert!(sentence.ends_with('.'), "{code}: {sentence}");
        }
        let escaped = html.replace("&#39;", "'");
        assert!(escaped.contains(text.happened) && escaped.contains(text.next));
        assert!(!html.contains("<script"), "{code} has nobody to report to");
    }
}

#[test]
fn failed_flow_has_one_code_in_its_status_and_on_its_page() {
    for failure in [
        FlowFailure::AccessDenied,
        FlowFailure::ProviderError,
        FlowFailure::ClientRefused,
        FlowFailure::ProviderUnavailable,
        FlowFailure::IssuerMismatch,
        FlowFailure::CodeRefused,
        FlowFailure::IdTokenInvalid,
        FlowFailure::AccountChanged,
        FlowFailure::UserMismatch,
        FlowFailure::BindingMismatch,
        FlowFailure::HandleExpired,
        FlowFailure::ConnectorChanged,
        FlowFailure::Interrupted,
    ] {
        let code = FailurePage::from(failure).code();
        assert_eq!(code, failure.as_str().replace('_', "-"));
    }
}

#[tokio::test]
async fn failure_stays_to_be_read_and_a_choice_goes_home_at_once() {
    let relay = relay();
    for page in FailurePage::ALL {
        let view = FailureView { page, subject: None, home: Some(popup_home(&relay, Brought::Code(page.code()))) };
        let Seen { html, .. } = seen(failure_page(&view)).await;
        assert!(html.contains(&format!("data-code=\"{}\"", page.code())));
        assert_eq!(html.contains("data-stay"), !page.is_calm());
        assert_eq!(html.contains("role=\"alert\""), !page.is_calm());
    }
}

#[tokio::test]
async fn only_the_applications_module_may_be_loaded_from_elsewhere() {
    for (name, content_type, open) in [
        ("valetkey.js", "text/javascript; charset=utf-8", true),
        ("connect.js", "text/javascript; charset=utf-8", false),
        ("result.js", "text/javascript; charset=utf-8", false),
        ("confirm.js", "text/javascript; charset=utf-8", false),
        ("page.css", "text/css; charset=utf-8", false),
    ] {
        let Seen { headers, .. } = seen(asset_response(name).expect("a file")).await;
        assert_eq!(headers[header::CONTENT_TYPE], content_type, "{name}");
        assert_eq!(headers[header::CACHE_CONTROL], "public, max-age=300");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        let allowed = headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        assert_eq!(allowed.is_some_and(|value| value == "*"), open, "{name}");
    }
    assert!(asset_response("../Cargo.toml").is_none());
}

#[test]
fn page_scripts_write_text_only() {
    for name in ["valetkey.js", "connect.js", "result.js", "confirm.js"] {
        let file = asset(name).expect("a file");
        let script = std::str::from_utf8(file.bytes).expect("text");
        for banned in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
            assert!(!script.contains(banned), "{name} uses {banned}");
        }
    }
}
