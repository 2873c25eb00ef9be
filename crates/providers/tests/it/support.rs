//! A scripted server, connectors, and the authorization server under test.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use valetkey_core::{
    AuthMode, Binding, Clock, Connector, ConnectorId, Endpoints, Grant, ManualClock, ObservedRotation, Secret, SpaceId,
    SystemEntropy,
};
use valetkey_providers::{
    AuthorizationServer, Catalogue, HttpAuthorizationServer, OutboundSettings, RefreshRequest, TokenOutcome,
};

/// What the server does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Writes these bytes; the connection stays open.
    Say(String),
    /// Writes these bytes and closes.
    SayAndClose(String),
    /// Closes with a reset.
    Reset,
    /// Says nothing, ever.
    Hang,
}

impl Act {
    /// A whole answer with a body and further header lines.
    pub(crate) fn answer(status: u16, headers: &str, body: &str) -> Self {
        Self::Say(format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()))
    }

    /// A JSON answer of status 200 with further header lines.
    pub(crate) fn json_with(headers: &str, body: &str) -> Self {
        Self::answer(200, &format!("content-type: application/json\r\n{headers}"), body)
    }

    /// A whole JSON answer.
    pub(crate) fn json(status: u16, body: &str) -> Self {
        Self::answer(status, "content-type: application/json\r\n", body)
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Seen {
    /// The value of a form member.
    pub(crate) fn form(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.body.as_bytes())
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.into_owned())
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// A server that follows a script, one act for each request, the last one for all that follow. It ends with its value.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(script: Vec<Act>) -> Self {
        Self::with_script(move |_| script).await
    }

    /// A server that speaks first and does not listen.
    pub(crate) async fn greeting(text: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(text.as_bytes()).await.unwrap();
                open.push(stream);
            }
        });
        Self { address, seen: Arc::default(), connections: Arc::default(), task }
    }

    /// A server whose script knows its own address.
    pub(crate) async fn with_script(script: impl FnOnce(&str) -> Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(script(&format!("http://{address}"))));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let task = tokio::spawn(accept(listener, script, seen.clone(), connections.clone()));
        Self { address, seen, connections, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

async fn accept(
    listener: TcpListener,
    script: Arc<Mutex<Vec<Act>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
) {
    let mut serving = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        *connections.lock().unwrap() += 1;
        serving.spawn(serve(stream, script.clone(), seen.clone()));
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Vec<Act>>>, seen: Arc<Mutex<Vec<Seen>>>) {
    while let Some(request) = read(&mut stream).await {
        seen.lock().unwrap().push(request);
        let act = {
            let mut script = script.lock().unwrap();
            if script.len() > 1 { script.remove(0) } else { script[0].clone() }
        };
        match act {
            Act::Say(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Act::SayAndClose(text) => {
                stream.write_all(text.as_bytes()).await.unwrap();
                return;
            }
            Act::Reset => {
                stream.set_zero_linger().unwrap();
                return;
            }
            Act::Hang => std::future::pending().await,
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
                .unwrap_or(0);
            if body.len() >= length {
                return Some(Seen { head: head.to_owned(), body: body.to_owned() });
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// The exceptions that let tests speak to loopback.
pub(crate) fn loopback(address: SocketAddr) -> OutboundSettings {
    OutboundSettings {
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        allow_http_hosts: vec![address.to_string()],
        ca_files: Vec::new(),
    }
}

pub(crate) fn provider_with(outbound: OutboundSettings) -> HttpAuthorizationServer {
    provider_at(outbound, Arc::new(ManualClock::new()))
}

pub(crate) fn provider_at(outbound: OutboundSettings, clock: Arc<dyn Clock>) -> HttpAuthorizationServer {
    let catalogue = Arc::new(Catalogue::embedded().unwrap());
    HttpAuthorizationServer::new(catalogue, outbound, clock).unwrap().with_deadline(Duration::from_millis(1500))
}

/// The authorization server under test, allowed to speak to this scripted one.
pub(crate) fn provider(server: &Server) -> HttpAuthorizationServer {
    provider_with(loopback(server.address))
}

/// The same, with one more profile.
pub(crate) fn provider_with_profile(server: &Server, name: &str, toml: &str) -> HttpAuthorizationServer {
    provider_with_profile_at(loopback(server.address), name, toml)
}

/// One with these exceptions and one more profile.
pub(crate) fn provider_with_profile_at(outbound: OutboundSettings, name: &str, toml: &str) -> HttpAuthorizationServer {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(format!("{name}.toml")), toml).unwrap();
    let catalogue = Catalogue::load(Some(directory.path())).unwrap();
    HttpAuthorizationServer::new(Arc::new(catalogue), outbound, Arc::new(ManualClock::new()))
        .unwrap()
        .with_deadline(Duration::from_millis(1500))
}

/// The head of a profile whose addresses are on a scripted server, by the setting `origin`.
pub(crate) const PROFILE_HEAD: &str = r#"
name = "quirky"
title = "Quirky"
docs = "https://docs.example/"
reviewed_on = "2026-11-21"
[settings.origin]
source = "https://docs.example/"
title = "Origin"
pattern = "origin"
"#;

pub(crate) fn connector(provider: &str) -> Connector {
    let now = ManualClock::new().now();
    Connector {
        id: ConnectorId::new(now, &SystemEntropy),
        space: SpaceId::default_space(),
        name: "Test".to_owned(),
        provider: provider.to_owned(),
        auth_mode: AuthMode::PerUser,
        grant: Grant::AuthorizationCode,
        client_id: "client-1".to_owned(),
        secret_count: 1,
        scopes: vec!["read".to_owned()],
        optional_scopes: Vec::new(),
        settings: std::collections::BTreeMap::new(),
        issuer: None,
        endpoints: Endpoints::default(),
        rotation: None,
        observed_rotation: ObservedRotation::default(),
        binding: Binding::Finish,
        return_urls: Vec::new(),
        origins: Vec::new(),
        version: 1,
        created_at: now,
        updated_at: now,
        deleted_at: None,
    }
}

/// A connector of the generic profile whose endpoints are this scripted server's.
pub(crate) fn generic(server: &Server) -> Connector {
    let mut connector = connector("oauth2");
    connector.endpoints = Endpoints {
        authorization: Some(server.url("/authorize")),
        token: Some(server.url("/token")),
        revocation: Some(server.url("/revoke")),
        userinfo: None,
    };
    connector
}

/// A connector of a profile that starts with [`PROFILE_HEAD`].
pub(crate) fn quirky(server: &Server) -> Connector {
    let mut connector = connector("quirky");
    connector.settings.insert("origin".to_owned(), server.url(""));
    connector
}

pub(crate) fn secrets(texts: &[&str]) -> Vec<Secret> {
    texts.iter().map(|text| Secret::from(*text)).collect()
}

/// One refresh of `r-1` with the secret `s-1`.
pub(crate) async fn refresh(provider: &HttpAuthorizationServer, connector: &Connector) -> TokenOutcome {
    let token = Secret::from("r-1");
    let request =
        RefreshRequest { refresh_token: &token, redirect_uri: "https://vk.example/oauth/callback/ctr_1", scopes: &[] };
    provider.refresh(connector, &secrets(&["s-1"]), &request).await
}
