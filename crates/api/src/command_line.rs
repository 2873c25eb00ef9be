//! The command line as a caller: whoever reaches the socket in the data directory is the operator of this machine.

use std::task::{Context, Poll};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName},
    response::{IntoResponse, Response},
};
use futures::future::{Either, Ready, ready};
use tower::{Layer, Service};
use valetkey_core::{Caller, CallerKind, Role, SpaceId};

use crate::problem::{Problem, ProblemCode};

/// The header that names the space; `default` if it is absent.
pub const X_VALETKEY_SPACE: HeaderName = HeaderName::from_static("x-valetkey-space");

/// Makes every request that of the command line. It belongs around [`Api::local_router`](crate::Api::local_router), never
/// around what the network reaches: no key is asked for.
pub fn as_command_line() -> AsCommandLineLayer {
    AsCommandLineLayer(())
}

/// The layer of [`as_command_line`].
#[derive(Debug, Clone, Copy)]
pub struct AsCommandLineLayer(());

/// A service whose callers are the command line.
#[derive(Debug, Clone)]
pub struct AsCommandLine<S>(S);

impl<S> Layer<S> for AsCommandLineLayer {
    type Service = AsCommandLine<S>;

    fn layer(&self, inner: S) -> AsCommandLine<S> {
        AsCommandLine(inner)
    }
}

impl<S> Service<Request> for AsCommandLine<S>
where
    S: Service<Request, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        match space_of(request.headers()) {
            Ok(space) => {
                request.extensions_mut().insert(caller(space));
                Either::Left(self.0.call(request))
            }
            Err(problem) => Either::Right(ready(Ok(refusal(&problem)))),
        }
    }
}

/// Outside the edge nobody else writes the body.
fn refusal(problem: &Problem) -> Response {
    let mut response = problem.clone().into_response();
    *response.body_mut() = Body::from(problem.write(None));
    response
}

fn caller(space: SpaceId) -> Caller {
    Caller { kind: CallerKind::CommandLine, space, roles: vec![Role::Admin], connectors: None }
}

fn space_of(headers: &HeaderMap) -> Result<SpaceId, Problem> {
    let Some(value) = headers.get(X_VALETKEY_SPACE) else { return Ok(SpaceId::default_space()) };
    let text = value.to_str().unwrap_or_default();
    text.parse::<SpaceId>()
        .map_err(|error| Problem::fault(ProblemCode::InvalidRequest, X_VALETKEY_SPACE.as_str(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Extension, Router, body::to_bytes, routing::get};
    use tower::ServiceExt;

    async fn ask(space: Option<&str>) -> (u16, String) {
        let handler = async |Extension(caller): Extension<Caller>| format!("{:?} {}", caller.kind, caller.space);
        let router: Router = Router::new().route("/", get(handler)).layer(as_command_line());
        let mut request = Request::get("/");
        if let Some(space) = space {
            request = request.header(X_VALETKEY_SPACE, space);
        }
        let response = router.oneshot(request.body(Body::empty()).expect("a request")).await.expect("an answer");
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1_000).await.expect("a body");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn the_command_line_is_a_caller_of_the_space_it_names() {
        assert_eq!(ask(None).await, (200, "CommandLine default".to_owned()));
        assert_eq!(ask(Some("team-a")).await, (200, "CommandLine team-a".to_owned()));
        let (status, body) = ask(Some("Team A")).await;
        assert_eq!(status, 422);
        assert!(body.contains("\"field\":\"x-valetkey-space\""), "{body}");
    }

    #[test]
    fn the_command_line_may_not_fetch_tokens() {
        assert!(!caller(SpaceId::default_space()).may(valetkey_core::Operation::TokenFetch));
    }
}
