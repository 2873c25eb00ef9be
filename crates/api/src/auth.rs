//! Who calls, and whether they may: the permission stands in the handler's signature.
//!
//! `Permit<op::ConnectorCreate>` is a caller that may make connectors. A handler without a permit has no caller, so it cannot
//! call a use case that needs one. A [`Caller`] in the request's extensions comes from the socket in the data directory or
//! from the command line in this process, never from anything that a client sent over the network.

use std::marker::PhantomData;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use valetkey_broker::{BrokerError, Resource};
use valetkey_core::{Caller, CallerKind, Operation, PresentedKey};

use crate::{
    Api,
    problem::{Problem, ProblemCode, unauthenticated},
};

/// An operation as a type.
pub(crate) trait Permitted: Send + Sync + 'static {
    /// Which.
    const OPERATION: Operation;
}

/// One zero-sized type for each operation.
pub(crate) mod op {
    use super::{Operation, Permitted};

    macro_rules! operations {
        ($($name:ident),+ $(,)?) => {
            $(
                #[derive(Debug)]
                pub(crate) enum $name {}

                impl Permitted for $name {
                    const OPERATION: Operation = Operation::$name;
                }
            )+

            #[cfg(test)]
            pub(super) const ALL: &[Operation] = &[$(Operation::$name),+];
        };
    }

    operations!(
        ConnectorCreate,
        ConnectorList,
        ConnectorShow,
        ConnectorUpdate,
        ConnectorDelete,
        ProviderRead,
        FlowStart,
        FlowShow,
        FlowFinish,
        FlowCancel,
        Disconnect,
        ConnectionList,
        ConnectionShow,
        ConnectionRevoke,
        BulkRevoke,
        Import,
        RevocationList,
        KeyCreate,
        KeyList,
        KeyRevoke,
        AuditRead,
    );
}

/// A caller that may do `O`.
#[derive(Debug)]
pub(crate) struct Permit<O> {
    /// Who.
    pub(crate) caller: Caller,
    operation: PhantomData<O>,
}

impl<O: Permitted> FromRequestParts<Api> for Permit<O> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let caller = caller_of(parts, api).await?;
        if !caller.may(O::OPERATION) {
            return Err(BrokerError::Forbidden(O::OPERATION).into());
        }
        Ok(Self { caller, operation: PhantomData })
    }
}

async fn caller_of(parts: &mut Parts, api: &Api) -> Result<Caller, Problem> {
    match parts.extensions.remove::<Caller>() {
        Some(caller) => {
            if caller.kind == CallerKind::CommandLine && !api.broker().has_space(&caller.space).await? {
                return Err(BrokerError::NotFound(Resource::Space).into());
            }
            Ok(caller)
        }
        None => Ok(api.broker().authenticate(&presented(&parts.headers)?).await?),
    }
}

/// The operator at this machine, who need not name a space that exists.
#[derive(Debug)]
pub(crate) struct CommandLine(pub(crate) Caller);

impl FromRequestParts<Api> for CommandLine {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        let caller = parts.extensions.remove::<Caller>().filter(|caller| caller.kind == CallerKind::CommandLine);
        caller.map(Self).ok_or_else(unauthenticated)
    }
}

/// A key as it was presented; the token call proves it in the same read as everything else.
#[derive(Debug)]
pub(crate) struct Presented(pub(crate) PresentedKey);

impl FromRequestParts<Api> for Presented {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        if parts.extensions.get::<Caller>().is_some() {
            return Err(Problem::with(ProblemCode::Forbidden, "The command line never fetches tokens."));
        }
        presented(&parts.headers).map(Self)
    }
}

/// Reads `Authorization: Bearer vk_…` (RFC 6750, section 2.1); exactly one, since two may mean two things.
fn presented(headers: &HeaderMap) -> Result<PresentedKey, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(unauthenticated()) };
    let text = value.to_str().map_err(|_| unauthenticated())?;
    let (scheme, key) = text.split_once(' ').ok_or_else(unauthenticated)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unauthenticated());
    }
    PresentedKey::parse(key.trim()).ok_or_else(unauthenticated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use std::collections::HashSet;
    use valetkey_core::{KeyId, SystemEntropy, Timestamp};

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    #[test]
    fn every_operation_but_the_token_call_has_a_permit() {
        let with: HashSet<_> = op::ALL.iter().copied().collect();
        let without: Vec<_> = Operation::ALL.iter().filter(|operation| !with.contains(operation)).collect();
        assert_eq!(without, [&Operation::TokenFetch]);
    }

    #[test]
    fn a_bearer_key_is_read_and_nothing_else() {
        let id = KeyId::new(Timestamp::from_millis(1), &SystemEntropy);
        let (key, _) = PresentedKey::generate(id, &SystemEntropy);
        let key = key.expose();
        for good in [format!("Bearer {key}"), format!("bearer {key}")] {
            assert_eq!(presented(&headers(&[&good])).expect("read").id, id);
        }
        let broken = format!("Bearer {}x", &key[..key.len() - 1]);
        for bad in [key.to_owned(), format!("Basic {key}"), "Bearer ".to_owned(), format!("Bearer {key} {key}"), broken]
        {
            let problem = presented(&headers(&[&bad])).expect_err("refused");
            assert_eq!(problem.code(), ProblemCode::Unauthenticated, "{bad}");
        }
        assert!(presented(&headers(&[])).is_err());
        let twice = format!("Bearer {key}");
        assert!(presented(&headers(&[&twice, &twice])).is_err());
    }
}
