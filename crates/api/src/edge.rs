//! The edge: the one layer around every route.
//!
//! It gives each request its id, catches panics, writes problems out and counts them, logs what was our fault once, and sets
//! the headers that every answer has. Around the token call it is no layer but a function, because each layer costs allocations.

use std::{
    convert::Infallible,
    error::Error,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request},
    http::{HeaderValue, Method, header},
    response::{IntoResponse, Response},
};
use futures::{FutureExt, future::BoxFuture};
use tower::{Layer, Service};
use tracing::Instrument;
use valetkey_broker::{Metrics, with_request_id};

use crate::{
    problem::{Cause, Problem, ProblemCode},
    request_id::{RequestId, RequestIds, X_REQUEST_ID},
};

/// Wraps routes with the edge.
#[derive(Debug, Clone)]
pub(crate) struct EdgeLayer {
    ids: Arc<RequestIds>,
    metrics: Arc<Metrics>,
}

impl EdgeLayer {
    pub(crate) fn new(ids: Arc<RequestIds>, metrics: Arc<Metrics>) -> Self {
        Self { ids, metrics }
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { inner, ids: self.ids.clone(), metrics: self.metrics.clone() }
    }
}

/// A route with its edge.
#[derive(Debug, Clone)]
pub(crate) struct Edge<S> {
    inner: S,
    ids: Arc<RequestIds>,
    metrics: Arc<Metrics>,
}

impl<S> Service<Request> for Edge<S>
where
    S: Service<Request, Error = Infallible> + Clone + Send + 'static,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let id = self.ids.of(request.headers());
        request.extensions_mut().insert(RequestId(id.clone()));
        let method = request.method().clone();
        // The template, never the path itself: a start link's ticket is a secret.
        let route = request.extensions().get::<MatchedPath>().cloned();
        let span = tracing::info_span!("request", request.id = id);
        let answer = span.in_scope(|| self.inner.call(request));
        let metrics = self.metrics.clone();
        Box::pin(
            async move {
                let started = Instant::now();
                let response = guarded(id.clone(), answer).await;
                let response = finished(response, &id, &metrics);
                tell(&method, route.as_ref(), &response, started);
                Ok(response)
            }
            .instrument(span),
        )
    }
}

/// The same edge around the answer to one request, with no more than a line for who debugs: for the hot path, whose handler
/// calls it itself.
///
/// No `async fn`, as [`guarded`]: each would keep a second copy of the future that it is given, and all of it is moved to
/// the heap with each call.
pub(crate) fn lean<F, R>(id: String, metrics: Arc<Metrics>, answer: F) -> impl Future<Output = Response>
where
    F: Future<Output = R>,
    R: IntoResponse,
{
    guarded(id.clone(), answer.map(Ok)).map(move |response| {
        tracing::debug!(request.id = id, http.status = response.status().as_u16(), "answered a token call");
        finished(response, &id, &metrics)
    })
}

/// Runs the route; a panic becomes a problem.
fn guarded<F, R>(id: String, answer: F) -> impl Future<Output = Response>
where
    F: Future<Output = Result<R, Infallible>>,
    R: IntoResponse,
{
    with_request_id(id, AssertUnwindSafe(answer).catch_unwind()).map(|answer| match answer {
        Ok(Ok(response)) => response.into_response(),
        // The panic itself was told on standard error by the panic hook, with its place.
        Err(_) => Problem::internal(Panicked).into_response(),
    })
}

#[derive(Debug, thiserror::Error)]
#[error("the handler panicked")]
struct Panicked;

/// Counts a problem, writes its body, logs its cause; sets the headers of every answer.
fn finished(mut response: Response, id: &str, metrics: &Metrics) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        metrics.problem_answered(problem.code().as_str());
        if let Some(cause) = problem.cause() {
            log_cause(id, problem.code().as_str(), cause);
        }
        *response.body_mut() = Body::from(problem.write(Some(id)));
    }
    if let Some(cause) = response.extensions_mut().remove::<Cause>() {
        log_cause(id, ProblemCode::InternalError.as_str(), &cause);
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(X_REQUEST_ID, value);
    }
    response
}

fn log_cause(id: &str, code: &'static str, cause: &Cause) {
    let error: &(dyn Error + 'static) = &*cause.0;
    tracing::error!(request.id = id, code, error, "request {id} failed: {code}");
}

fn tell(method: &Method, route: Option<&MatchedPath>, response: &Response, started: Instant) {
    let route = route.map_or("(none)", MatchedPath::as_str);
    let status = response.status().as_u16();
    let took = started.elapsed();
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if method.is_safe() {
        tracing::debug!(http.method = %method, http.route = route, http.status = status, micros, "{method} {route} {status}");
    } else {
        tracing::info!(http.method = %method, http.route = route, http.status = status, micros, "{method} {route} {status}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, body::to_bytes, routing::get};
    use tower::ServiceExt;
    use valetkey_core::SystemEntropy;

    async fn boom() -> Response {
        panic!("planted: vk_secret_in_a_panic")
    }

    async fn limited() -> Problem {
        Problem::with(ProblemCode::LimitReached, "slow down")
    }

    async fn read(response: Response) -> (Response<()>, serde_json::Value) {
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 10_000).await.expect("a body");
        (Response::from_parts(parts, ()), serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn ask(path: &str) -> (Response<()>, serde_json::Value) {
        let router: Router = Router::new()
            .route("/boom", get(boom))
            .route("/limited", get(limited))
            .route("/fine", get(async || "fine"))
            .layer(EdgeLayer::new(Arc::new(RequestIds::new(&SystemEntropy)), Arc::new(Metrics::new())));
        let request = Request::get(path).header(X_REQUEST_ID, "mine").body(Body::empty()).expect("a request");
        read(router.oneshot(request).await.expect("an answer")).await
    }

    /// The answer of the hot path's edge, and whether it counted one problem of this code.
    async fn lean_answer<R: IntoResponse>(
        code: ProblemCode,
        answer: impl Future<Output = R>,
    ) -> ((Response<()>, serde_json::Value), bool) {
        let metrics = Arc::new(Metrics::new());
        let answer = read(lean("mine".to_owned(), Arc::clone(&metrics), answer).await).await;
        let line = format!("valetkey_problems_total{{code=\"{}\"}} 1", code.as_str());
        (answer, metrics.encode().contains(&line))
    }

    #[tokio::test]
    async fn a_panic_becomes_a_problem_that_tells_nothing() {
        let (lean, counted) = lean_answer(ProblemCode::InternalError, boom()).await;
        assert!(counted);
        for (response, body) in [ask("/boom").await, lean] {
            assert_eq!(response.status(), 500);
            assert_eq!(body["code"], "internal-error");
            assert_eq!(body["request_id"], "mine");
            assert!(!body.to_string().contains("planted"));
        }
    }

    #[tokio::test]
    async fn a_problem_carries_the_id_of_its_request() {
        let (lean, counted) = lean_answer(ProblemCode::LimitReached, limited()).await;
        assert!(counted);
        for (response, body) in [ask("/limited").await, lean] {
            assert_eq!(response.status(), 429);
            assert_eq!(response.headers()[X_REQUEST_ID], "mine");
            assert_eq!(body["request_id"], "mine");
            assert_eq!(body["detail"], "slow down");
        }
    }

    #[tokio::test]
    async fn every_answer_forbids_sniffing_and_keeping() {
        let (lean, _) = lean_answer(ProblemCode::InternalError, async { "fine" }).await;
        for (response, _) in [ask("/fine").await, lean] {
            assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        }
    }
}
