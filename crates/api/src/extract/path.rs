//! The one parameter of a path.

use std::{fmt::Display, str::FromStr};

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};

use crate::problem::{Problem, ProblemCode};

/// The path's only parameter, parsed; what does not parse is a problem that says what fits.
#[derive(Debug)]
pub(crate) struct PathParam<T>(pub(crate) T);

impl<S, T> FromRequestParts<S> for PathParam<T>
where
    S: Send + Sync,
    T: FromStr<Err: Display>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::with(ProblemCode::InvalidPath, "The path is not UTF-8."))?;
        let Some((name, text)) = params.iter().next() else { return Err(Problem::new(ProblemCode::NotFound)) };
        match text.parse() {
            Ok(value) => Ok(Self(value)),
            Err(error) => Err(Problem::fault(ProblemCode::InvalidPath, name, format!("{error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, body::Body, extract::Request, routing::get};
    use tower::ServiceExt;
    use valetkey_core::ConnectorId;

    async fn status(path: &str) -> u16 {
        let handler = get(async |PathParam(id): PathParam<ConnectorId>| id.to_string());
        let router: Router = Router::new().route("/connectors/{id}", handler);
        let request = Request::get(path).body(Body::empty()).expect("a request");
        router.oneshot(request).await.expect("an answer").status().as_u16()
    }

    #[tokio::test]
    async fn an_id_of_another_kind_is_refused() {
        assert_eq!(status("/connectors/ctr_00000000000000000000000000").await, 200);
        for path in [
            "/connectors/cxn_00000000000000000000000000",
            "/connectors/ctr_",
            "/connectors/%ff",
            "/connectors/..%2f..%2fx",
        ] {
            assert_eq!(status(path).await, 400, "{path}");
        }
    }
}
