//! What stands before the router: token calls go to their handler at once, everything else to the router.
//!
//! Matching, path parameters, extensions and boxed services cost a token call more than its own work does. The router knows
//! the token call too, and answers it alike: whatever is not plainly one goes there.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    http::Method,
    response::Response,
    routing::future::RouteFuture,
    serve::{IncomingStream, Listener},
};
use futures::future::{BoxFuture, Either, FutureExt};
use tower::Service;
use valetkey_core::ConnectorId;

use crate::{Api, routes};

/// The service of the network, for [`axum::serve`]: makes one [`Served`] for each connection.
#[derive(Debug, Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    api: Api,
    router: Router,
}

impl Network {
    pub(crate) fn new(api: Api) -> Self {
        let router = routes::network(&api);
        Self { shared: Arc::new(Shared { api, router }) }
    }
}

impl<L: Listener<Addr = SocketAddr>> Service<IncomingStream<'_, L>> for Network {
    type Response = Served;
    type Error = Infallible;
    type Future = Ready<Result<Served, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, stream: IncomingStream<'_, L>) -> Self::Future {
        ready(Ok(Served { shared: Arc::clone(&self.shared), peer: *stream.remote_addr() }))
    }
}

/// What answers the requests of one connection.
#[derive(Debug, Clone)]
pub struct Served {
    shared: Arc<Shared>,
    peer: SocketAddr,
}

impl Service<Request> for Served {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<BoxFuture<'static, Result<Response, Infallible>>, RouteFuture<Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // As the router, whose routes are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if let Some(connector) = token_call(&request) {
            let answer = routes::token_call(self.shared.api.clone(), connector, request);
            return Either::Left(Box::pin(answer.map(Ok)));
        }
        request.extensions_mut().insert(ConnectInfo(self.peer));
        Either::Right(self.shared.router.clone().call(request))
    }
}

/// The connector of what is plainly a token call.
fn token_call(request: &Request) -> Option<ConnectorId> {
    let path = request.uri().path();
    let id = path.strip_prefix("/v1/connectors/")?.strip_suffix("/token")?;
    (request.method() == Method::POST).then(|| id.parse().ok())?
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn found(method: Method, path: &str) -> Option<ConnectorId> {
        token_call(&Request::builder().method(method).uri(path).body(Body::empty()).unwrap())
    }

    #[test]
    fn only_a_plain_token_call_passes_the_router_by() {
        let id: ConnectorId = "ctr_06h02e1319rmd4hc12fr72tg5k".parse().unwrap();
        assert_eq!(found(Method::POST, &format!("/v1/connectors/{id}/token")), Some(id));
        assert_eq!(found(Method::POST, &format!("/v1/connectors/{id}/token?x=1")), Some(id));
        assert_eq!(found(Method::POST, &format!("http://host/v1/connectors/{id}/token")), Some(id));
        for (method, path) in [
            (Method::GET, format!("/v1/connectors/{id}/token")),
            (Method::OPTIONS, format!("/v1/connectors/{id}/token")),
            (Method::POST, format!("/v1/connectors/{id}/token/")),
            (Method::POST, format!("/v1/connectors/{id}/tokens")),
            (Method::POST, format!("/v1/connectors//{id}/token")),
            (Method::POST, format!("/v1/connectors/%63{}/token", &id.to_string()[1..])),
            (Method::POST, "/v1/connectors/ctr_x/token".to_owned()),
            (Method::POST, "/v1/connectors/token".to_owned()),
            (Method::POST, format!("/v1/connectors/{id}/x/token")),
        ] {
            assert_eq!(found(method.clone(), &path), None, "{method} {path}");
        }
    }
}
