//! What handlers take out of a request; each refusal is a problem.

mod body;
mod lines;
mod object;
mod path;
mod query;

pub(crate) use body::{JsonBody, parse, read_body};
pub(crate) use lines::Lines;
pub(crate) use object::{object, optional_object};
pub(crate) use path::PathParam;
pub(crate) use query::{FromPairs, Pairs, QueryParams};
