//! The one HTTP client for everything outside: guarded, bounded, without redirects, proxies, cookies or repeats.

use std::{
    convert::Infallible,
    error::Error,
    io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body::{Frame, SizeHint};
use ipnet::IpNet;
use tokio::time::Instant;
use url::Url;

use crate::{
    Guard, NotSent, UnknownOutcome,
    resolver::{GuardedResolver, Lookup, ResolveFailed, ResolveRefused, SystemLookup},
    trust::{CaFile, tls_config},
};

/// How much of an answer is read.
pub const ANSWER_LIMIT: usize = 64 * 1024;

/// How long one call may take, its second client secret included.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// How long a name may take to resolve, connect and shake hands.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// How long an idle connection is kept. Servers close theirs after 5 s and more, so that a request hardly ever meets a
/// connection that is just being closed: such a request counts as unknown, because its bytes were written.
const IDLE: Duration = Duration::from_secs(2);

/// The operator's exceptions to "HTTPS and public addresses only".
#[derive(Debug, Clone, Default)]
pub struct OutboundSettings {
    /// Networks that may be spoken to although they are not public.
    pub allow_networks: Vec<IpNet>,
    /// Hosts, as `name` or `name:port`, that may be spoken to over plain HTTP.
    pub allow_http_hosts: Vec<String>,
    /// Further certificate authorities.
    pub ca_files: Vec<CaFile>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// A file of certificate authorities cannot be used.
    #[error("cannot read certificates from `{}`", file.display())]
    CaFile {
        /// The file.
        file: PathBuf,
        /// What went wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The TLS library refuses its settings.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The HTTP library refuses its settings.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// Why there is no whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendFault {
    NotSent(NotSent),
    Unknown(UnknownOutcome),
}

/// The client.
#[derive(Debug, Clone)]
pub(crate) struct Outbound {
    client: reqwest::Client,
    guard: Guard,
}

impl Outbound {
    pub(crate) fn new(settings: OutboundSettings) -> Result<Self, OutboundError> {
        Self::with_lookup(settings, Arc::new(SystemLookup))
    }

    pub(crate) fn with_lookup(settings: OutboundSettings, lookup: Arc<dyn Lookup>) -> Result<Self, OutboundError> {
        let tls = tls_config(&settings.ca_files)?;
        let guard = Guard::new(settings.allow_networks, settings.allow_http_hosts);
        // HTTP/1.1 only: with HTTP/2, one broken connection would leave the outcome of many requests unknown at once.
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(GuardedResolver { guard: guard.clone(), lookup })
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .user_agent(concat!("valetkey/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_DEADLINE)
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(OutboundError::Client)?;
        Ok(Self { client, guard })
    }

    pub(crate) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Sends one request once, and reads its answer until `deadline`.
    pub(crate) async fn send(&self, request: Request<Vec<u8>>, deadline: Instant) -> Result<Answer, SendFault> {
        if deadline <= Instant::now() {
            return Err(SendFault::NotSent(NotSent::Deadline));
        }
        let (parts, body) = request.into_parts();
        let begun = Begun::new(&body);
        let body = begun.watch(body);
        let request = reqwest::Request::try_from(Request::from_parts(parts, body))
            .map_err(|_| SendFault::NotSent(NotSent::Misconfigured))?;
        self.guard.check_url(request.url()).map_err(|_| SendFault::NotSent(NotSent::AddressRefused))?;
        let exchange = async {
            let response = self.client.execute(request).await.map_err(|error| classify(&error, &begun))?;
            read(response).await
        };
        match tokio::time::timeout_at(deadline, exchange).await {
            Ok(result) => result,
            Err(_) if begun.is_set() => Err(SendFault::Unknown(UnknownOutcome::Timeout)),
            Err(_) => Err(SendFault::NotSent(NotSent::Deadline)),
        }
    }

    /// Fetches a document.
    pub(crate) async fn get(&self, url: &Url, deadline: Instant) -> Result<Answer, SendFault> {
        let request = Request::get(url.as_str())
            .header(http::header::ACCEPT, "application/json")
            .body(Vec::new())
            .map_err(|_| SendFault::NotSent(NotSent::Misconfigured))?;
        self.send(request, deadline).await
    }
}

async fn read(mut response: reqwest::Response) -> Result<Answer, SendFault> {
    let too_large = Err(SendFault::Unknown(UnknownOutcome::TooLarge));
    let announced = response.content_length().unwrap_or(0);
    if usize::try_from(announced).is_ok_and(|length| length > ANSWER_LIMIT) {
        return too_large;
    }
    let status = response.status();
    let headers = std::mem::take(response.headers_mut());
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > ANSWER_LIMIT => return too_large,
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(_) => return Err(SendFault::Unknown(UnknownOutcome::Truncated)),
        }
    }
    Ok(Answer { status, headers, body })
}

/// Whether a request may have left: set when the connection asks for the body, which it does before it writes anything.
/// A request without a body cannot be watched and counts as begun.
#[derive(Debug, Clone)]
struct Begun(Arc<AtomicBool>);

impl Begun {
    fn new(body: &[u8]) -> Self {
        Self(Arc::new(AtomicBool::new(body.is_empty())))
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn watch(&self, body: Vec<u8>) -> reqwest::Body {
        reqwest::Body::wrap(Watched { bytes: (!body.is_empty()).then(|| Bytes::from(body)), begun: self.clone() })
    }
}

/// A body that tells when it is asked for.
#[derive(Debug)]
struct Watched {
    bytes: Option<Bytes>,
    begun: Begun,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.begun.0.store(true, Ordering::SeqCst);
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Where a request failed, and so whether it may have left.
fn classify(error: &reqwest::Error, begun: &Begun) -> SendFault {
    if !error.is_connect() && begun.is_set() {
        return SendFault::Unknown(if error.is_timeout() {
            UnknownOutcome::Timeout
        } else {
            UnknownOutcome::ConnectionLost
        });
    }
    SendFault::NotSent(connect_fault(error))
}

/// Which step of connecting failed.
fn connect_fault(error: &(dyn Error + 'static)) -> NotSent {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if current.is::<ResolveRefused>() {
            return NotSent::AddressRefused;
        }
        if current.is::<ResolveFailed>() {
            return NotSent::Dns;
        }
        if is_tls(current) {
            return NotSent::Tls;
        }
        cause = current.source();
    }
    NotSent::Connect
}

/// The TLS library's error travels inside I/O errors, which do not name what they hold as their source.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let held = error.downcast_ref().and_then(io::Error::get_ref);
    error.is::<rustls::Error>() || held.is_some_and(|held| is_tls(held))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AddressFault;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Box<dyn Error + Send + Sync>);

    fn fault(inner: impl Error + Send + Sync + 'static) -> NotSent {
        connect_fault(&Outer(Box::new(Outer(Box::new(inner)))))
    }

    #[test]
    fn the_step_that_failed_is_found_inside_the_errors() {
        let io = |inner: Box<dyn Error + Send + Sync>| io::Error::other(inner);
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let tls = || rustls::Error::HandshakeNotComplete;
        assert_eq!(fault(ResolveFailed(refused())), NotSent::Dns);
        assert_eq!(fault(ResolveRefused(AddressFault::NotPublic)), NotSent::AddressRefused);
        assert_eq!(fault(refused()), NotSent::Connect);
        assert_eq!(fault(tls()), NotSent::Tls);
        assert_eq!(fault(io(Box::new(io(Box::new(tls()))))), NotSent::Tls);
    }

    #[tokio::test]
    async fn the_client_itself_refuses_what_the_guard_refuses() {
        let outbound = Outbound::new(OutboundSettings::default()).unwrap();
        for url in
            ["http://example.com/", "https://127.0.0.1:9/", "https://[::1]:9/", "https://metadata.google.internal/"]
        {
            let request = Request::post(url).body(b"x".to_vec()).unwrap();
            let answer = outbound.send(request, Instant::now() + DEADLINE).await;
            assert_eq!(answer.err(), Some(SendFault::NotSent(NotSent::AddressRefused)), "{url}");
        }
    }
}
