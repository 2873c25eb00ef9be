//! Which database a test runs on, and the tests themselves on both.

use std::fmt;

use crate::{Setup, TestApp};

/// A database engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// A file of its own.
    Sqlite,
    /// A database of its own at the server of `VALETKEY_TEST_POSTGRES_URL`.
    Postgres,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        })
    }
}

/// Runs the body of a test against an app of its own. For [`engine_tests!`](crate::engine_tests).
pub fn run_test<F: Future<Output = ()>>(setup: Setup, body: impl FnOnce(TestApp) -> F) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let app = TestApp::start(setup).await;
        body(app).await;
    });
}

/// Makes each function a test on SQLite (`sqlite::name`) and one on PostgreSQL (`postgres::name`).
///
/// The app is the function's own. `setup = |setup: Setup| …` changes what it is started with. One call to a module.
#[macro_export]
macro_rules! engine_tests {
    ($(
        $(#[$meta:meta])*
        async fn $name:ident($app:ident: TestApp $(, setup = $setup:expr)? $(,)?) $body:block
    )+) => {
        $(
            $(#[$meta])*
            fn $name(setup: $crate::Setup) {
                $(let setup = ($setup)(setup);)?
                $crate::run_test(setup, |$app: $crate::TestApp| async move $body);
            }
        )+

        mod sqlite {
            $(
                #[test]
                fn $name() {
                    super::$name($crate::Setup::on($crate::Engine::Sqlite));
                }
            )+
        }

        mod postgres {
            $(
                #[test]
                #[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
                fn $name() {
                    super::$name($crate::Setup::on($crate::Engine::Postgres));
                }
            )+
        }
    };
}
