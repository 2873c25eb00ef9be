//! No redirect of any call is followed, not even to a server that we may speak to.

use valetkey_providers::HttpAuthorizationServer;

use crate::{
    calls::{every_call, exchange, granted},
    support::{Act, PROFILE_HEAD, Server, loopback, provider_with_profile_at, quirky},
};

/// A provider that is asked for the account by its own address.
const ACCOUNT: &str = r#"
[endpoints]
source = "https://docs.example/"
authorization = "{origin}/authorize"
token = "{origin}/token"
[revocation]
source = "https://docs.example/"
manual_url = "https://docs.example/"
[[account]]
source = "https://docs.example/"
from = "userinfo"
url = "{origin}/me"
subject = ["id"]
"#;

/// One that may speak to both.
fn provider(server: &Server, sink: &Server) -> HttpAuthorizationServer {
    let mut settings = loopback(server.address);
    settings.allow_http_hosts.push(sink.address.to_string());
    provider_with_profile_at(settings, "quirky", &format!("{PROFILE_HEAD}{ACCOUNT}"))
}

fn elsewhere(status: u16, sink: &Server) -> Act {
    Act::answer(status, &format!("location: {}\r\n", sink.url("/taken")), "")
}

#[tokio::test]
async fn no_redirect_of_any_call_reaches_the_sink() {
    let mut calls = 0;
    for status in [300, 301, 302, 303, 305, 307, 308] {
        let sink = Server::start(vec![Act::json(200, r#"{"access_token":"of the sink"}"#)]).await;
        let server = Server::start(vec![elsewhere(status, &sink)]).await;
        let provider = provider(&server, &sink);
        for call in every_call(&provider, &server).await {
            assert!(!call.went_well, "{status} {}", call.name);
            calls += 1;
        }
        assert!(server.seen().len() >= 6, "{status}: each call arrived");
        assert_eq!(sink.connections(), 0, "{status}");
        // It is not for want of a permission.
        assert!(every_call(&provider, &sink).await.iter().any(|call| call.went_well), "{status}");
    }
    assert_eq!(calls, 42);
}

#[tokio::test]
async fn the_account_is_not_looked_for_behind_a_redirect() {
    for status in [301, 302, 303, 307, 308] {
        let sink = Server::start(vec![Act::json(200, r#"{"id":42}"#)]).await;
        let server = Server::start(vec![Act::json(200, r#"{"access_token":"a-1"}"#), elsewhere(status, &sink)]).await;
        let tokens = granted(exchange(&provider(&server, &sink), &quirky(&server)).await);
        assert_eq!(tokens.account, None, "{status}");
        assert_eq!(server.seen().len(), 2, "{status}: the account was asked for");
        assert_eq!(sink.connections(), 0, "{status}");
    }
}
