//! The HTTP surface: routes, permissions, problems, OpenAPI, the popup pages.
//!
//! [`Api`] makes the routers. A handler extracts, authorizes, calls one use case of the broker, converts and returns; what goes
//! wrong is a [`Problem`], and [`ProblemCode`] holds the one table of statuses.

mod answer;
mod auth;
mod browser;
mod client_address;
mod command_line;
mod cookies;
mod edge;
mod extract;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hot;
mod openapi;
mod pages;
mod problem;
mod reference;
mod request_id;
mod routes;
mod state;
mod wire;

pub use command_line::{AsCommandLine, AsCommandLineLayer, X_VALETKEY_SPACE, as_command_line};
pub use hot::{Network, Served};
pub use openapi::openapi;
pub use problem::{Problem, ProblemCode};
pub use state::{Api, ApiSettings, router};
