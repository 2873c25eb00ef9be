//! A transit service as Vault and OpenBao are one, on loopback: it encrypts and decrypts for whoever has the token, and
//! can be away.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use valetkey_core::Secret;
use valetkey_providers::OutboundSettings;
use valetkey_server::{KeyringConfig, TransitConfig, TransitTokenConfig};

/// The token that it takes.
const TOKEN: &str = "hvs.transit-token-of-the-suite";

#[derive(Debug, Default)]
struct State {
    away: bool,
    calls: u64,
    /// By ciphertext: plaintext, associated data, context, key.
    sealed: HashMap<String, [String; 4]>,
}

/// A running service; it ends with its value.
#[derive(Debug)]
pub struct Transit {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for Transit {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Transit {
    /// Starts one.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state, task }
    }

    /// Answers 503 from now on, or no longer.
    pub fn is_away(&self, away: bool) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).away = away;
    }

    /// How often it was asked.
    pub fn calls(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).calls
    }

    /// The configuration of a key of it.
    pub fn key(&self, name: &str) -> KeyringConfig {
        KeyringConfig::Transit(Box::new(TransitConfig {
            url: format!("http://{}", self.address).parse().expect("an address"),
            mount: "transit".to_owned(),
            key: name.to_owned(),
            namespace: None,
            token: TransitTokenConfig::Value(Secret::from(TOKEN)),
            outbound: OutboundSettings {
                allow_networks: vec!["127.0.0.0/8".parse().expect("a network")],
                allow_http_hosts: vec!["127.0.0.1".to_owned()],
                ca_files: Vec::new(),
            },
        }))
    }
}

/// One request to a connection.
async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) -> std::io::Result<()> {
    let mut read = Vec::new();
    let (head, body) = loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= length(head)
        {
            break (head.to_owned(), body.to_owned());
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    };
    let (status, answer) = answer(&head, &body, &mut state.lock().unwrap_or_else(PoisonError::into_inner));
    let answer = answer.to_string();
    let text = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{answer}",
        answer.len()
    );
    stream.write_all(text.as_bytes()).await
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn length(head: &str) -> usize {
    header(head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn answer(head: &str, body: &str, state: &mut State) -> (u16, Value) {
    state.calls += 1;
    let refused = |status, error: &str| (status, json!({ "errors": [error] }));
    if state.away {
        return refused(503, "Vault is sealed");
    }
    if header(head, "x-vault-token") != Some(TOKEN) {
        return refused(403, "permission denied");
    }
    let asked: Value = serde_json::from_str(body).unwrap_or_default();
    let text = |name: &str| asked[name].as_str().unwrap_or_default().to_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let data = match path.strip_prefix("/v1/transit/").and_then(|path| path.split_once('/')) {
        Some(("encrypt", key)) => {
            let ciphertext = format!("vault:v1:{:08}", state.sealed.len());
            let kept = [text("plaintext"), text("associated_data"), text("context"), key.to_owned()];
            state.sealed.insert(ciphertext.clone(), kept);
            json!({ "ciphertext": ciphertext, "key_version": 1 })
        }
        Some(("decrypt", key)) => match state.sealed.get(&text("ciphertext")) {
            Some([plaintext, associated, context, sealed_by])
                if *associated == text("associated_data") && *context == text("context") && sealed_by == key =>
            {
                json!({ "plaintext": plaintext })
            }
            _ => return refused(400, "cipher: message authentication failed"),
        },
        _ => return refused(404, "no handler for route"),
    };
    (200, json!({ "request_id": "r", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data }))
}
