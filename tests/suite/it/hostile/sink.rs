//! The attacker's server: answers as it is told and keeps every request.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A request that reached the attacker, whole.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    /// The first line, every header and the body.
    pub(crate) text: String,
    pub(crate) body: String,
}

/// What the attacker answers at a path.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Json(String),
    /// A redirect of this status.
    Elsewhere(u16, String),
    /// A redirect of a browser.
    To(String),
}

#[derive(Debug, Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    replies: Mutex<BTreeMap<String, Reply>>,
}

/// The attacker's server on a free port of this machine; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Sink {
    base: String,
    state: Arc<State>,
    server: JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Sink {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(State::default());
        let shared = state.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { base, state, server }
    }

    /// An address at the attacker's.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// From now on this is answered at this path; elsewhere 404.
    pub(crate) fn reply(&self, path: &str, reply: Reply) {
        self.state.replies.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), reply);
    }

    /// The attacker poses as an authorization server whose metadata names these endpoints.
    pub(crate) fn pose(&self, issuer: &str, authorization: &str, token: &str) {
        let document = serde_json::json!({
            "issuer": issuer,
            "authorization_endpoint": authorization,
            "token_endpoint": token,
            "response_types_supported": ["code"],
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        });
        for path in ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"] {
            self.reply(path, Reply::Json(document.to_string()));
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The requests to one path.
    pub(crate) fn seen_at(&self, path: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.path == path).collect()
    }

    /// Nothing that reached the attacker holds one of these, plainly, percent-encoded or in base64.
    #[track_caller]
    pub(crate) fn holds_none_of(&self, secrets: &[String]) {
        assert!(secrets.iter().all(|secret| secret.len() >= 8), "a secret too short to look for");
        for seen in self.seen() {
            for secret in secrets {
                assert!(!holds(&seen.text, secret), "the attacker holds {secret}: {}", seen.text);
            }
        }
    }
}

fn holds(text: &str, secret: &str) -> bool {
    let decoded = url::form_urlencoded::parse(text.as_bytes());
    let plain = decoded.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    let mut forms = vec![text.to_owned(), plain];
    for word in text.split(|c: char| c.is_whitespace() || "&=,;".contains(c)) {
        let word = word.trim_end_matches('=');
        let standard = BASE64.decode(format!("{word}{}", "=".repeat((4 - word.len() % 4) % 4)).as_bytes());
        let bytes = standard.or_else(|_| BASE64URL_NOPAD.decode(word.as_bytes()));
        forms.extend(bytes.ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
    }
    forms.iter().any(|form| form.contains(secret))
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let Some(text) = read(&mut stream).await else { return };
    let path = text.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    let query = text.split(' ').nth(1).and_then(|target| target.split_once('?')).map(|(_, query)| query.to_owned());
    let reply = state.replies.lock().unwrap_or_else(PoisonError::into_inner).get(&path).cloned();
    state.seen.lock().unwrap_or_else(PoisonError::into_inner).push(Seen { path, text, body });
    let (status, header, body) = match reply {
        Some(Reply::Json(body)) => ("200 OK".to_owned(), "Content-Type: application/json".to_owned(), body),
        Some(Reply::Elsewhere(status, to)) => (format!("{status} Elsewhere"), format!("Location: {to}"), String::new()),
        // `{query}` stands for what the browser brought.
        Some(Reply::To(to)) => {
            let to = to.replace("{query}", &query.unwrap_or_default());
            ("302 Found".to_owned(), format!("Location: {to}"), String::new())
        }
        None => ("404 Not Found".to_owned(), "X-Nothing: here".to_owned(), String::new()),
    };
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\n{header}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    // A caller that hung up has nothing to be told.
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// A whole request: its head, and as much body as the head promises.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 8_192]);
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let promised = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= promised.unwrap_or(0) {
                return Some(text.into_owned());
            }
        }
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

#[test]
fn what_reached_the_attacker_is_found_in_every_form() {
    let secret = "planted/secret+1";
    for form in [
        "GET /?code=planted/secret+1 HTTP/1.1".to_owned(),
        "POST /token HTTP/1.1\r\n\r\ncode=planted%2Fsecret%2B1&x=y".to_owned(),
        format!("GET / HTTP/1.1\r\nAuthorization: Basic {}\r\n\r\n", BASE64.encode(b"client:planted/secret+1")),
    ] {
        assert!(holds(&form, secret), "{form}");
    }
    assert!(!holds("GET /?code=another HTTP/1.1", secret));
}

#[test]
fn the_attacker_keeps_what_it_is_sent() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let sink = Sink::start().await;
        sink.reply("/authorize", Reply::To("http://127.0.0.1:1/?{query}".to_owned()));
        let mut stream = TcpStream::connect(sink.base.trim_start_matches("http://")).await.unwrap();
        stream.write_all(b"POST /authorize?a=b HTTP/1.1\r\nContent-Length: 12\r\n\r\nplanted-code").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("Location: http://127.0.0.1:1/?a=b\r\n"), "{answer}");
        assert_eq!(sink.seen_at("/authorize")[0].body, "planted-code");
        let found = std::panic::catch_unwind(|| sink.holds_none_of(&["planted-code".to_owned()]));
        assert!(found.is_err(), "a planted hit is found");
    });
}
