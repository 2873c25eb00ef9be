//! Sends a verb's requests: to the running server through its socket, or to the same router in this process.

use std::{path::Path, time::Duration};

use axum::{Router, body::Body};
use http::{Method, Request, Response, StatusCode, header};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, time::Instant};
use tower::ServiceExt;
use url::form_urlencoded;
use valetkey_broker::Broker;
use valetkey_core::SpaceId;

use super::{
    failure::{Exit, Failure},
    output::Listing,
};
use crate::{
    Config, DataDirError, StartError,
    error::chain,
    foundation::{Foundation, Means},
    server, socket,
};

/// How long to wait for another verb, or a server that starts or stops, to let go of the data directory.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest answer that is read: far above a page of the largest objects.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// A page's length: the longest that the API gives.
const PAGE: &str = "200";

/// How long revocations and the like may take that a verb of this process began.
const DRAIN: Duration = Duration::from_secs(25);

/// Who answers.
enum Way {
    /// The running server.
    Socket(SendRequest<Body>),
    /// This process.
    Here(Box<Here>),
}

struct Here {
    router: Router,
    broker: Broker,
    foundation: Foundation,
}

/// A way to the API for the operator of this machine.
pub(crate) struct Client {
    way: Way,
    space: SpaceId,
}

impl Client {
    /// Finds the running server, or opens the database itself.
    pub(crate) async fn open(config: &Config, space: SpaceId, holder: &str) -> Result<Self, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            if config.database.is_sqlite()
                && let Some(stream) = socket::connect(&config.data_dir).map_err(|error| no_entry(config, &error))?
            {
                return Ok(Self { way: Way::Socket(speak(stream).await?), space });
            }
            match Foundation::open(config, Means::default(), holder).await {
                Ok(foundation) => return Self::here(config, space, foundation),
                // Whoever holds it may be about to let go, or about to listen.
                Err(StartError::DataDir(DataDirError::Held { .. })) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn here(config: &Config, space: SpaceId, foundation: Foundation) -> Result<Self, Failure> {
        let public_url = server::public_url(config, config.server.listen)?;
        let broker = foundation.broker(config, public_url.clone());
        let router = server::local_router(config, &foundation, &broker, public_url);
        Ok(Self { way: Way::Here(Box::new(Here { router, broker, foundation })), space })
    }

    /// Whether no server runs, so that what was queued waits for one.
    pub(crate) fn is_here(&self) -> bool {
        matches!(self.way, Way::Here(_))
    }

    /// Whether nobody is served from the database meanwhile.
    pub(crate) fn is_alone(&self) -> bool {
        match &self.way {
            Way::Socket(_) => false,
            // On SQLite one process has the database; on PostgreSQL replicas may be serving.
            Way::Here(here) => here.foundation.data_dir.is_some(),
        }
    }

    /// Asks for an object.
    pub(crate) async fn get(&mut self, path: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let path = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        self.send(Method::GET, &path, None).await
    }

    /// Asks for every object of a list, page by page.
    pub(crate) async fn list(
        &mut self,
        path: &str,
        query: &[(&str, String)],
        mut listing: Listing,
    ) -> Result<(), Failure> {
        let mut after: Option<String> = None;
        loop {
            let mut query = query.to_vec();
            query.push(("limit", PAGE.to_owned()));
            query.extend(after.take().map(|after| ("after", after)));
            let mut page = self.get(path, &query).await?;
            if let Value::Array(items) = page["items"].take() {
                listing.page(items)?;
            }
            match page["next"].as_str() {
                Some(next) => after = Some(next.to_owned()),
                None => return listing.end(),
            }
        }
    }

    /// Sends an object.
    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(Method::POST, path, Some(body)).await
    }

    /// Deletes.
    pub(crate) async fn delete(&mut self, path: &str) -> Result<Value, Failure> {
        self.send(Method::DELETE, path, None).await
    }

    async fn send(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        request = server::of_operator(request, &self.space);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.body(body).map_err(unreadable)?;
        let response = match &mut self.way {
            Way::Socket(sender) => {
                sender.ready().await.map_err(unreadable)?;
                sender.send_request(request).await.map_err(unreadable)?.map(Body::new)
            }
            Way::Here(here) => match here.router.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        };
        answer(response).await
    }

    /// Lets go of what was opened.
    pub(crate) async fn close(self) {
        if let Way::Here(here) = self.way {
            here.broker.drain(DRAIN).await;
            here.foundation.store.close().await;
        }
    }
}

async fn speak(stream: UnixStream) -> Result<SendRequest<Body>, Failure> {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unreadable)?;
    // Ends with the sender, which the client owns.
    tokio::spawn(connection);
    Ok(sender)
}

async fn answer(response: Response<Body>) -> Result<Value, Failure> {
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), ANSWER_MAX).await.map_err(unreadable)?;
    if !status.is_success() {
        return Err(Failure::of_answer(status.as_u16(), &body));
    }
    if status == StatusCode::NO_CONTENT || body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&body).map_err(unreadable)
}

fn no_entry(config: &Config, error: &std::io::Error) -> Failure {
    let path = Path::new(&config.data_dir).display();
    let failure =
        Failure::local(Exit::NotAllowed, "socket-refused", format!("cannot reach the server in {path}: {error}"));
    failure.with_next("run this as the user that runs the service, or as root")
}

fn unreadable(error: impl std::error::Error) -> Failure {
    let title = format!("the server did not answer as it should: {}", chain(&error));
    Failure::local(Exit::TryLater, "no-answer", title)
}
