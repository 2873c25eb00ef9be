//! Query strings of the API: every parameter known, none twice, each of its type.

use std::{fmt::Display, str::FromStr};

use axum::{extract::FromRequestParts, http::request::Parts};
use valetkey_broker::Fault;

use crate::problem::{Problem, ProblemCode};

/// The parameters of a query string, taken out one by one; what is left or wrong becomes a fault.
#[derive(Debug)]
pub(crate) struct Pairs {
    pairs: Vec<(String, String)>,
    faults: Vec<Fault>,
}

/// What can be read from a query string.
pub(crate) trait FromPairs: Sized {
    /// Takes its parameters; faults are gathered in the pairs.
    fn from_pairs(pairs: &mut Pairs) -> Self;
}

/// A query string, read whole.
#[derive(Debug)]
pub(crate) struct QueryParams<T>(pub(crate) T);

impl Pairs {
    fn parse(query: &str) -> Self {
        let pairs = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        Self { pairs, faults: Vec::new() }
    }

    /// Takes a parameter out.
    pub(crate) fn take<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        let place = self.pairs.iter().position(|(key, _)| key == name)?;
        let (_, text) = self.pairs.swap_remove(place);
        if self.pairs.iter().any(|(key, _)| key == name) {
            self.pairs.retain(|(key, _)| key != name);
            self.fault(name, "comes twice");
            return None;
        }
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(name, format!("{error}"));
                None
            }
        }
    }

    /// Takes one of the texts of an enumeration out.
    pub(crate) fn take_one_of<T: FromStr>(&mut self, name: &str, known: &[&str]) -> Option<T> {
        let text: String = self.take(name)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.fault(name, format!("expected one of: {}", known.join(", ")));
        }
        value
    }

    /// Adds a fault.
    pub(crate) fn fault(&mut self, name: &str, message: impl Into<String>) {
        self.faults.push(Fault::new(name, message));
    }

    fn end(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.pairs) {
            let plain = name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            self.fault(if plain { &name } else { "" }, "is not a parameter of this operation");
        }
        if self.faults.is_empty() { Ok(()) } else { Err(Problem::new(ProblemCode::InvalidQuery).faults(&self.faults)) }
    }
}

impl<S: Send + Sync, T: FromPairs> FromRequestParts<S> for QueryParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        read(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn read<T: FromPairs>(query: &str) -> Result<T, Problem> {
    let mut pairs = Pairs::parse(query);
    let value = T::from_pairs(&mut pairs);
    pairs.end()?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use valetkey_core::{ConnectorId, Status};

    #[derive(Debug, PartialEq)]
    struct Filter {
        connector_id: Option<ConnectorId>,
        status: Option<Status>,
        name: Option<String>,
    }

    impl FromPairs for Filter {
        fn from_pairs(pairs: &mut Pairs) -> Self {
            Self {
                connector_id: pairs.take("connector_id"),
                status: pairs.take_one_of("status", &["active", "revoked"]),
                name: pairs.take("name"),
            }
        }
    }

    fn faults(query: &str) -> Vec<String> {
        let problem = read::<Filter>(query).expect_err("refused");
        assert_eq!(problem.code(), ProblemCode::InvalidQuery);
        let value: serde_json::Value = serde_json::from_slice(&problem.write(None)).expect("json");
        let list = value["faults"].as_array().expect("faults");
        list.iter().map(|fault| format!("{}: {}", fault["field"], fault["message"])).collect()
    }

    #[test]
    fn a_good_query_is_read_with_its_encodings() {
        let filter: Filter = read("name=a%26b+c&status=active").expect("good");
        assert_eq!(filter.name.as_deref(), Some("a&b c"));
        assert_eq!(filter.status, Some(Status::Active));
        assert_eq!(read::<Filter>("").expect("good").connector_id, None);
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let faults = faults("connector_id=x&status=nope&color=red");
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[1].contains("expected one of: active, revoked"), "{faults:?}");
        assert!(faults[2].contains("color"), "{faults:?}");
    }

    #[test]
    fn a_doubled_parameter_is_refused_even_if_both_agree() {
        assert_eq!(faults("status=active&status=active").len(), 1);
        assert_eq!(faults("name=a&n%61me=a").len(), 1);
    }

    #[test]
    fn a_parameter_that_looks_like_a_value_is_not_repeated() {
        assert!(!faults("planted-secret=1")[0].contains("planted"));
    }
}
