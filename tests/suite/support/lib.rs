//! What the tests of the service stand on: a real server on a free port, a sandbox provider, clients and browsers.
//!
//! A file of tests looks like this; each test runs once on SQLite and once on PostgreSQL:
//!
//! ```ignore
//! use serde_json::json;
//! use valetkey_suite::{Browser, ConnectorSpec, Setup, engine_tests};
//!
//! engine_tests! {
//!     async fn a_connected_user_gets_a_token(app: TestApp) {
//!         let connector = app.connector(ConnectorSpec::oidc()).await;
//!         let connection = app.connect_user(&connector, "u-1").await;
//!         let answer = app.fetch(&connector, "u-1").await.expect(200);
//!         assert_eq!(answer.json["connection_id"], connection["id"]);
//!     }
//!
//!     // The settings may differ.
//!     async fn one_call_a_second_is_enough(
//!         app: TestApp,
//!         setup = |setup: Setup| setup.config(|config| config.calls.token_calls_per_second_and_key = 1),
//!     ) { /* … */ }
//! }
//! ```
//!
//! - **Engines.** PostgreSQL tests are `postgres::name`, and ignored unless `VALETKEY_TEST_POSTGRES_URL` names a
//!   server. Each app has a database of its own there, emptied before it is used again, and dropped at the end. With
//!   `VALETKEY_TEST_FULL=1` they always run.
//! - **Time.** [`TestApp::advance`] moves the server's clock and the sandbox's together. Nothing sleeps.
//! - **Scheduled work** is off: [`TestApp::run`] does one kind of it, [`TestApp::settle`] what is left of revocations.
//! - **Callers.** [`TestApp::admin`], [`TestApp::application`] (`app`), [`TestApp::administration`] (`app` and
//!   `shared`), [`TestApp::operator`], [`TestApp::connector_client`], [`TestApp::anonymous`], and any other by [`TestApp::key`].
//!   A call gives an [`Answer`]: `.expect(200)`, `.expect_problem(409, "reconnect-required")`, `.json["…"]`, and
//!   `.done()` where nothing more is looked at.
//! - **Connectors.** [`TestApp::connector`] registers a client at the sandbox and makes a connector through the API,
//!   by a [`ConnectorSpec`] that sets both sides. The sandbox itself is scripted and read through [`TestApp::provider`].
//! - **People.** A [`Browser`] has a cookie jar, follows no redirect by itself and plays the person: [`Browser::open`]
//!   the start link, [`Browser::consent`] at the provider, [`Browser::come_home`]; or [`Browser::walk`] all of it.
//!   Its person signs in at the provider under the browser's name, so that two users have two accounts there.
//! - **Short ways.** [`TestApp::connect_user`], [`TestApp::seed_import`], [`TestApp::fetch`], [`TestApp::start_flow`],
//!   [`TestApp::finish`].
//! - **The witness** keeps every answer, header and log line of the run, for the search for planted secrets.

#![expect(clippy::expect_used, clippy::panic, reason = "a helper that fails, fails its test")]
#![expect(clippy::return_self_not_must_use, reason = "a chain of expectations may end anywhere")]

mod answer;
mod app;
mod browser;
mod canary;
mod client;
mod connector;
mod database;
mod engine;
mod exempt;
pub mod extra;
pub mod faults;
mod flow;
mod home;
mod import;
pub mod network;
mod pool;
mod setup;
pub mod transit;
mod witness;

pub use answer::Answer;
pub use app::{TestApp, TestClock};
pub use browser::{Browser, Page};
pub use canary::Canaries;
pub use client::Client;
pub use connector::{ConnectorSpec, ORIGIN, RETURN_URL, TestConnector};
pub use engine::{Engine, run_test};
pub use exempt::FIELDS as EXEMPT_FIELDS;
pub use flow::Started;
pub use home::{Confirming, Home};
pub use import::Seeded;
pub use setup::Setup;
pub use witness::{plant, record, searched, until_all_is_quiet, with_planted, witnessed};

pub use valetkey_jobs::Work;
pub use valetkey_sandbox as sandbox;
