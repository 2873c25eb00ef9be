use std::time::Duration;

use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use serde_json::Value;
use url::Url;
use valetkey_sandbox::{ClientSettings, Control, Rotation, Sandbox, SandboxSettings, SeededGrant};

pub(crate) const CLIENT: &str = "sandbox-client";
pub(crate) const SECRET: &str = "sandbox-secret";
pub(crate) const REDIRECT: &str = "http://127.0.0.1:9/callback";

/// A running sandbox and an HTTP client that follows no redirects.
pub(crate) struct Bench {
    pub(crate) sandbox: Sandbox,
    pub(crate) control: Control,
    pub(crate) http: reqwest::Client,
}

/// A status and a JSON body.
pub(crate) type Reply = (u16, Value);

pub(crate) fn http_client() -> reqwest::Client {
    // Fails when another test of this process was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().redirect(Policy::none()).timeout(Duration::from_secs(20)).build().unwrap()
}

impl Bench {
    pub(crate) async fn start(settings: SandboxSettings) -> Self {
        let sandbox = Sandbox::start(settings).await.unwrap();
        Self { control: sandbox.control(), sandbox, http: http_client() }
    }

    pub(crate) async fn of_class(rotation: Rotation) -> Self {
        Self::with_client(ClientSettings::default().rotation(rotation)).await
    }

    pub(crate) async fn with_client(client: ClientSettings) -> Self {
        Self::start(SandboxSettings::automatic().client(client)).await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.sandbox.base_url())
    }

    pub(crate) fn seed(&self) -> SeededGrant {
        self.control.seed_grant(CLIENT, "user-a", &["read"]).unwrap()
    }

    pub(crate) fn post_token(&self, form: &[(&str, &str)]) -> reqwest::RequestBuilder {
        self.http.post(self.url("/token")).basic_auth(CLIENT, Some(SECRET)).form(form)
    }

    pub(crate) fn post_refresh(&self, token: &str) -> reqwest::RequestBuilder {
        self.post_token(&[("grant_type", "refresh_token"), ("refresh_token", token)])
    }

    pub(crate) async fn refresh(&self, token: &str) -> Reply {
        reply(self.post_refresh(token).send().await.unwrap()).await
    }

    /// Refreshes, expects success, and answers the access and the refresh token.
    pub(crate) async fn refreshed(&self, token: &str) -> (String, String) {
        let (status, body) = self.refresh(token).await;
        assert_eq!(status, 200, "{}", body["error"]);
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        (text("access_token"), text("refresh_token"))
    }

    pub(crate) async fn assert_dead(&self, token: &str) {
        let (status, body) = self.refresh(token).await;
        assert_eq!((status, body["error"].as_str()), (400, Some("invalid_grant")));
    }

    pub(crate) async fn whoami(&self, token: &str) -> u16 {
        let call = self.http.get(self.url("/api/whoami")).bearer_auth(token);
        call.send().await.unwrap().status().as_u16()
    }

    /// Authorizes with these further parameters and answers the location's.
    pub(crate) async fn authorize(&self, further: &[(&str, &str)]) -> Vec<(String, String)> {
        let response = self.http.get(self.authorize_url(further)).send().await.unwrap();
        assert_eq!(response.status(), 302);
        location_pairs(&response)
    }

    pub(crate) fn authorize_url(&self, further: &[(&str, &str)]) -> Url {
        let base = [("response_type", "code"), ("client_id", CLIENT), ("state", "the-state")];
        let redirect = further.iter().all(|(name, _)| *name != "redirect_uri").then_some(("redirect_uri", REDIRECT));
        let mut url = Url::parse(&self.url("/authorize")).unwrap();
        url.query_pairs_mut().extend_pairs(base).extend_pairs(redirect).extend_pairs(further);
        url
    }
}

pub(crate) async fn reply(response: reqwest::Response) -> Reply {
    let status = response.status().as_u16();
    let body = response.text().await.unwrap();
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

pub(crate) fn location_pairs(response: &reqwest::Response) -> Vec<(String, String)> {
    let location = response.headers()[LOCATION].to_str().unwrap();
    Url::parse(location).unwrap().query_pairs().into_owned().collect()
}

pub(crate) fn value_of<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    pairs.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
}
