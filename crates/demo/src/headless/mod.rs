//! The whole path without a browser: every request that a person's browser would make, and what the person would see.

mod browser;
mod html;
mod tell;

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

use crate::{application::USERS, broker_api, house::House, registration::ConnectorKey, screen};
use browser::{Browser, Page};
use tell::{calls, shorten, step};

/// The connector of the walk: the usual binding.
const CONNECTOR: &str = "connectors/finish";

/// How often and how long the page asks whether the provider has been told.
const TELLING: (Duration, u32) = (Duration::from_millis(250), 80);

/// Walks through, and ends with the line that says so.
pub(crate) async fn walk(house: &House) -> anyhow::Result<()> {
    let mut walk = Walk::begin(house).await.context("open the application")?;
    let flow = walk.click_connect().await.context("click Connect")?;
    let consent = walk.follow_start_link(&flow).await.context("open the start link")?;
    let result = walk.allow(&consent, &flow).await.context("allow it at the provider")?;
    walk.come_home(&result, &flow).await.context("come home and finish")?;
    let first = walk.fetch().await.context("fetch a token")?;
    let second = walk.refresh(&first).await.context("refresh")?;
    walk.revoke(&second).await.context("revoke")?;
    Ok(screen::say("\ndemo: connected, fetched, refreshed, revoked")?)
}

/// A started flow, as the page got it.
struct StartedFlow {
    id: String,
    start_url: Url,
}

/// What the page shows of a token.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    fingerprint: String,
    expires_in: u64,
    generation: i64,
}

struct Walk<'a> {
    house: &'a House,
    browser: Browser,
    app: Url,
}

impl<'a> Walk<'a> {
    async fn begin(house: &'a House) -> anyhow::Result<Self> {
        screen::say("Valetkey demo, without a browser. Broker, sandbox provider and application run on this machine.")?;
        let mut browser = Browser::new(broker_api::client()?);
        let app = Url::parse(&house.addresses.app)?;
        let page = browser.open(&app).await?.expect(200, "the application")?;
        step("Open the application", &[&format!("at {app}"), &sees(&page)])?;
        let mut walk = Self { house, browser, app };
        let state = walk.get(CONNECTOR).await?;
        let (user, name) = (USERS[0].id, USERS[0].name);
        ensure!(state["user"] == user, "the session is not {name}'s, but {}'s", state["user"]);
        ensure!(state["token"].is_null(), "{name} has a token before anyone has connected");
        step("Look who you are", &[&format!("you see: {name}, not connected"), &calls(&state)])?;
        Ok(walk)
    }

    async fn click_connect(&mut self) -> anyhow::Result<StartedFlow> {
        let (origin, relay) = (self.app.origin().ascii_serialization(), self.app.join("/relay")?);
        let start = json!({ "mode": "popup", "origin": origin, "return_url": relay });
        let started = self.post(&format!("{CONNECTOR}/flows"), &start).await?;
        let flow =
            StartedFlow { id: text(&started, "flow_id")?, start_url: Url::parse(&text(&started, "start_url")?)? };
        ensure!(
            flow.start_url.origin().ascii_serialization() == self.house.addresses.broker,
            "the start link leads to {}, not to the broker",
            flow.start_url.origin().ascii_serialization()
        );
        step("Click Connect", &["the backend starts a flow for the user of its session", &calls(&started)])?;
        Ok(flow)
    }

    /// The start link shows a page that changes nothing; its script binds this browser and goes on.
    async fn follow_start_link(&mut self, flow: &StartedFlow) -> anyhow::Result<Page> {
        let link = &flow.start_url;
        let page = self.browser.open(link).await?.expect(200, "the start link")?;
        ensure!(!self.browser.has_cookie(link, "vk_"), "looking at the start link has bound the browser");
        let (status, answer) = self.browser.fetch(&page.url, Method::POST, link.path(), None).await?;
        ensure!(status == 200, "the start link's script was answered with {status}");
        ensure!(self.browser.has_cookie(link, "vk_"), "the browser was not bound by a cookie");
        let provider = Url::parse(&text(&answer, "location")?)?;
        step("A window opens at Valetkey", &[&sees(&page), "a cookie binds this browser to the flow"])?;
        let consent = self.browser.open(&provider).await?.expect(200, "the provider")?;
        ensure!(
            consent.url.origin().ascii_serialization() == self.house.addresses.sandbox,
            "the window is at {}, not at the provider",
            consent.url.origin().ascii_serialization()
        );
        step("It goes on to the provider", &[&sees(&consent), "two accounts to choose from, Allow and Deny"])?;
        Ok(consent)
    }

    async fn allow(&mut self, consent: &Page, flow: &StartedFlow) -> anyhow::Result<Page> {
        let form = consent.form()?;
        let user = USERS[0].id;
        ensure!(
            form.fields.iter().any(|(name, value)| name == "account" && value == user),
            "the provider does not suggest the account {user}"
        );
        let allow = form.buttons.iter().find(|(_, value, _)| value == "allow");
        let (name, value, _) = allow.context("the consent page has no button to allow")?;
        let answered = self.browser.submit(consent, &form, (name, value)).await?.expect(302, "the provider")?;
        let callback = answered.location.context("the provider sends the window nowhere")?;
        let result = self.browser.open(&callback).await?.expect(200, "the broker's callback")?;
        let home = result.html.by_id("home").context("the result page does not say where home is")?;
        ensure!(home.attribute("data-flow") == Some(&flow.id), "the result page speaks of another flow");
        ensure!(home.attribute("data-code").is_none(), "the flow failed: {:?}", home.attribute("data-code"));
        step("Choose User A and press Allow", &["the provider sends the window back with a code", &sees(&result)])?;
        Ok(result)
    }

    /// The window goes home by the relay page, which works even where the provider has cut it from its opener.
    async fn come_home(&mut self, result: &Page, flow: &StartedFlow) -> anyhow::Result<()> {
        let link = result.html.by_id("return").and_then(|link| link.attribute("href"));
        let target = Url::parse(link.context("the result page has no way home")?)?;
        let relay = self.app.join("/relay")?;
        let (carried, mut plain) = (target.fragment().unwrap_or_default().to_owned(), target);
        plain.set_fragment(None);
        ensure!(plain == relay, "the way home leads to {plain}, not to the relay page");
        // The fragment stays in the browser.
        self.browser.open(&plain).await?.expect(200, "the relay page")?;
        let carried: Vec<_> = url::form_urlencoded::parse(carried.as_bytes()).collect();
        let brought = |name| carried.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_ref());
        ensure!(brought("flow_id") == Some(&flow.id), "the window brought another flow home");
        let handle = brought("handle").context("the window brought no handle home")?;
        let waiting = self.get(&format!("flows/{}", flow.id)).await?;
        ensure!(waiting["status"] == "awaiting_finish", "the flow is {} instead of awaiting_finish", waiting["status"]);
        step("The window comes home and closes", &["it carries a one-use handle, and no token", &calls(&waiting)])?;
        let finished = self.post(&format!("flows/{}/finish", flow.id), &json!({ "handle": handle })).await?;
        ensure!(finished["connection_id"].is_string(), "finish answered without a connection");
        step(
            "The backend finishes for its user",
            &["only now is the code redeemed; the grant is stored sealed", &calls(&finished)],
        )
    }

    async fn fetch(&mut self) -> anyhow::Result<Shown> {
        let answer = self.post(&format!("{CONNECTOR}/token"), &json!({})).await?;
        let token = shown(&answer)?;
        let used = self.use_token(&token).await?;
        step(
            "You see a token",
            &[
                &format!("fingerprint {}, {} s to live", shorten(&token.fingerprint), token.expires_in),
                &calls(&answer),
                &format!("Call the API: 200, this is {}'s token", used["subject"].as_str().unwrap_or("nobody")),
                &calls(&used),
            ],
        )?;
        Ok(token)
    }

    async fn refresh(&mut self, old: &Shown) -> anyhow::Result<Shown> {
        let answer = self.post(&format!("{CONNECTOR}/token"), &json!({ "rejected": old.fingerprint })).await?;
        let token = shown(&answer)?;
        ensure!(token.fingerprint != old.fingerprint, "the token is the same as before");
        ensure!(token.generation == old.generation + 1, "generation {} follows {}", token.generation, old.generation);
        self.use_token(&token).await?;
        step(
            "Click Refresh",
            &[
                "the backend says that the token was refused (`rejected`), which forces a new one",
                &format!("you see: fingerprint {}, {} s to live", shorten(&token.fingerprint), token.expires_in),
                &calls(&answer),
            ],
        )?;
        Ok(token)
    }

    async fn revoke(&mut self, last: &Shown) -> anyhow::Result<()> {
        let disconnect = format!("{CONNECTOR}/disconnect");
        let answer = self.post(&disconnect, &json!({})).await?;
        ensure!(answer["status"] != "active", "the connection is active still");
        let (status, refusal) = self.try_post(&format!("{CONNECTOR}/token"), &json!({})).await?;
        ensure!(
            status == 404 && refusal["code"] == "connection-not-found",
            "a token call after the revocation was answered with {status} {}",
            refusal["code"]
        );
        step(
            "Click Revoke",
            &[
                "ended in Valetkey at once: the next token call is answered with 404 connection-not-found",
                &calls(&answer),
                &calls(&refusal),
            ],
        )?;
        let (pause, mut tries) = TELLING;
        let connection = format!("connections/{}", text(&answer, "connection_id")?);
        while self.get(&connection).await?["status"] == "revoking" {
            ensure!(tries > 0, "the provider has not been told in time");
            tries -= 1;
            tokio::time::sleep(pause).await;
        }
        // Said again, it changes nothing and tells the outcome, token by token.
        let answer = self.post(&disconnect, &json!({})).await?;
        let told = tell::revocations(&answer);
        ensure!(answer["status"] == "revoked" && all_confirmed(&answer), "the provider was not told: {told}");
        self.ask_provider(last)?;
        step("The provider is told", &[&format!("you see: {told}"), "its own ledger agrees: the grant has ended"])
    }

    /// The provider's own account of it, which knows nothing of the broker.
    fn ask_provider(&self, last: &Shown) -> anyhow::Result<()> {
        let provider = self.house.provider();
        let grants = provider.grants_of(ConnectorKey::Finish.client_id(), USERS[0].id);
        ensure!(!grants.is_empty(), "the provider knows of no grant");
        ensure!(grants.iter().all(|grant| !grant.alive), "a grant lives on at the provider");
        let live = grants.iter().flat_map(|grant| &grant.access).filter(|access| access.live);
        ensure!(live.count() == 0, "the provider's API still accepts {}", shorten(&last.fingerprint));
        let repeated = provider.second_presentations().len();
        ensure!(repeated == 0, "a refresh token was presented a second time, {repeated} times");
        Ok(())
    }

    async fn use_token(&mut self, token: &Shown) -> anyhow::Result<Value> {
        let used = self.post(&format!("{CONNECTOR}/call"), &json!({})).await?;
        ensure!(used["status"] == 200, "the provider's API answered {}", used["status"]);
        ensure!(used["subject"] == USERS[0].id, "the token is {}'s", used["subject"]);
        ensure!(used["fingerprint"] == token.fingerprint, "the API saw another token than the page shows");
        Ok(used)
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        let (status, answer) = self.browser.fetch(&self.app, Method::GET, &format!("/api/{path}"), None).await?;
        succeeded(status, answer)
    }

    async fn post(&mut self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let (status, answer) = self.try_post(path, body).await?;
        succeeded(status, answer)
    }

    async fn try_post(&mut self, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        self.browser.fetch(&self.app, Method::POST, &format!("/api/{path}"), Some(body)).await
    }
}

fn sees(page: &Page) -> String {
    format!("you see: \"{}\"", page.heading())
}

fn succeeded(status: u16, answer: Value) -> anyhow::Result<Value> {
    if status == 200 {
        return Ok(answer);
    }
    let code = answer["flow_code"].as_str().or(answer["code"].as_str()).unwrap_or("no code");
    bail!("the application's backend was answered with {status} ({code})")
}

fn text(answer: &Value, field: &'static str) -> anyhow::Result<String> {
    answer[field].as_str().map(str::to_owned).with_context(|| format!("the answer has no `{field}`"))
}

fn shown(answer: &Value) -> anyhow::Result<Shown> {
    let expires_in = answer["expires_in"].as_u64().context("the token's life is not told")?;
    ensure!(expires_in > 0, "the token is over already");
    let generation = answer["generation"].as_i64().context("the token has no generation")?;
    Ok(Shown { fingerprint: text(answer, "fingerprint")?, expires_in, generation })
}

fn all_confirmed(answer: &Value) -> bool {
    answer["revocations"].as_array().is_some_and(|all| all.iter().all(|one| one["state"] == "confirmed"))
}
