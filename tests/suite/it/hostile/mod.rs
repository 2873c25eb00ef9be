//! The published attacks on products of this kind, variant by variant, and none of them works.
//!
//! The names in the comments are those of the sources:
//! - *cross-app*: "Cross-app OAuth attacks" on integration platforms, USENIX Security 2025: COAT (cross-app OAuth
//!   account takeover) and CORF (cross-app OAuth request forgery);
//! - *connectors*: the study of connector platforms and token vaults, IEEE S&P 2026: COSF (cross-user OAuth session
//!   fixation) and cross-tenant confusion;
//! - *draft*: draft-ietf-oauth-security-topics-update, which asks clients for the same defences;
//! - RFC 9700, RFC 9207 and RFC 7636 where the attack is older.
//!
//! The honest provider is the app's sandbox. The attacker has a [`Sink`]: an HTTP server that poses as an authorization
//! server and keeps every request that reaches it. Whoever holds a connector and keys in a space is a [`Tenant`].

mod coat;
mod coat_bait;
mod corf;
mod cosf;
mod cosf_page;
mod edits;
mod encodings;
mod finishing;
mod forgery;
mod injection;
mod mix_up;
mod pages;
mod pkce;
mod redirects;
mod sink;
mod state;
mod targets;
mod tenant;

pub(crate) use sink::{Reply, Sink};
pub(crate) use tenant::Tenant;

use std::collections::BTreeMap;

use serde_json::Value;
use url::Url;
use valetkey_suite::{Browser, Client, Started, TestApp, TestConnector, extra::items_of};

/// A person's way through a flow up to the provider's answer, which the browser has not followed yet.
pub(crate) struct Walk {
    pub(crate) started: Started,
    pub(crate) browser: Browser,
    /// The provider's consent page, as Valetkey named it.
    pub(crate) location: String,
    /// The provider's answer.
    pub(crate) callback: String,
}

impl Walk {
    /// Starts a popup flow and consents.
    pub(crate) async fn of(app: &TestApp, connector: &TestConnector, person: &str) -> Self {
        let started = app.start_flow(connector, &connector.popup(person)).await;
        Self::from(started, app.browser(person)).await
    }

    /// Opens a started flow in this browser and consents.
    pub(crate) async fn from(started: Started, browser: Browser) -> Self {
        let location = browser.open(&started.start_url).await;
        let callback = browser.consent(&location).await;
        Self { started, browser, location, callback }
    }

    /// What of this flow nobody else may ever hold.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let mut secrets = vec![param(&self.callback, "code"), param(&self.callback, "state")];
        secrets.push(self.started.start_url.rsplit('/').next().unwrap().to_owned());
        secrets.extend(self.cookie().map(|(_, value)| value));
        secrets.retain(|secret| !secret.is_empty());
        secrets
    }

    /// The cookie that binds the browser.
    pub(crate) fn cookie(&self) -> Option<(String, String)> {
        self.browser.cookie(&format!("vk_{}", self.started.flow_id))
    }

    /// The right person goes on as if nothing had happened, and gets their own grant.
    pub(crate) async fn ends_well(&self, app: &TestApp, connector: &TestConnector, person: &str) {
        let home = self.browser.come_home(&self.callback).await;
        app.finish(connector, &home, person).await.expect(200).done();
        holds_own_grant(app, connector, person).await;
    }
}

/// The person's connection gives a token of the person's own account at the provider.
pub(crate) async fn holds_own_grant(app: &TestApp, connector: &TestConnector, person: &str) {
    let token = app.fetch(connector, person).await.expect(200).text_of("access_token");
    let grant = app.provider().grant_of_token(&token).expect("a token of the honest provider");
    assert_eq!(grant.user, person, "the grant of {person} is another's");
}

/// Nothing was redeemed and nothing is stored.
pub(crate) async fn nothing_came_of_it(app: &TestApp) {
    assert!(app.provider().token_requests().is_empty(), "{:?}", app.provider().token_requests());
    assert_eq!(app.number("SELECT CAST(COUNT(*) AS BIGINT) FROM connections").await, 0);
}

/// A parameter of an address; empty if absent.
pub(crate) fn param(address: &str, name: &str) -> String {
    let url: Url = address.parse().unwrap();
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// The same address with another value of a parameter; none takes it out.
pub(crate) fn with_param(address: &str, name: &str, value: Option<&str>) -> String {
    let mut url: Url = address.parse().unwrap();
    let mut pairs: Vec<(String, String)> = url.query_pairs().into_owned().filter(|(key, _)| key != name).collect();
    pairs.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    url.query_pairs_mut().clear().extend_pairs(pairs);
    url.into()
}

/// The address that a callback comes to, without its parameters.
pub(crate) fn callback_address(app: &TestApp, connector: &TestConnector) -> String {
    app.url(&format!("/oauth/callback/{}", connector.id))
}

/// A number of the server's own.
pub(crate) fn metric(app: &TestApp, name: &str, label: &str) -> u64 {
    let text = app.broker().metrics().encode();
    let start = format!("valetkey_{name}_total{{{label}}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |number| number.parse().unwrap())
}

/// The reasons on record for which browsers were turned away from a flow.
pub(crate) async fn refusals(operator: &Client, flow_id: &str) -> Vec<String> {
    reasons(operator, flow_id, "flow.callback_refused", "reason").await
}

/// The reasons on record for which calls to finish a flow were refused.
pub(crate) async fn finish_refusals(app: &TestApp, flow_id: &str) -> Vec<String> {
    reasons(&app.operator(), flow_id, "flow.finish_refused", "reason").await
}

/// Why a flow failed, as the record says.
pub(crate) async fn failures(app: &TestApp, flow_id: &str) -> Vec<String> {
    reasons(&app.operator(), flow_id, "flow.failed", "code").await
}

async fn reasons(operator: &Client, flow_id: &str, action: &str, member: &str) -> Vec<String> {
    let page = operator.get(&format!("/v1/audit?limit=200&action={action}")).await.expect(200);
    let of_flow = items_of(&page).into_iter().filter(|event| event["flow_id"] == flow_id);
    of_flow.map(|event| event["detail"][member].as_str().unwrap_or_default().to_owned()).collect()
}

/// The refusal is on record with this reason, and was counted.
pub(crate) async fn refused_for(app: &TestApp, flow_id: &str, reason: &str) {
    let seen = refusals(&app.operator(), flow_id).await;
    assert!(seen.iter().any(|seen| seen == reason), "{reason} is not among {seen:?}");
    assert!(metric(app, "callbacks_refused", &format!("reason=\"{reason}\"")) > 0, "{reason} was not counted");
}

/// The flow failed for this reason, on record and counted.
pub(crate) async fn failed_for(app: &TestApp, flow_id: &str, reason: &str) {
    assert_eq!(failures(app, flow_id).await, [reason]);
    assert!(metric(app, "flows", &format!("outcome=\"{reason}\"")) > 0, "{reason} was not counted");
}

/// The members of a form or a query.
pub(crate) fn members(text: &str) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

/// No member of an answer, however deep, is or holds one of these texts.
pub(crate) fn holds_none_of(value: &Value, secrets: &[String]) {
    let text = value.to_string();
    for secret in secrets {
        assert!(!text.contains(secret.as_str()), "an answer holds a secret: {text}");
    }
}
