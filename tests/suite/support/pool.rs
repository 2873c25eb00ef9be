//! Databases at the PostgreSQL server, used again: making and migrating one takes longer than most tests.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Databases that were used and may be used again, the longest unused first.
#[derive(Debug, Default)]
struct Pool {
    free: VecDeque<String>,
    lent: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: VecDeque::new(), lent: 0 });

/// So many are left alone, so that nothing of the test before can still be on its way to the one that is taken.
const RESTING: usize = 2;

/// Deletes every row, whatever refers to whatever. What the migrations themselves put there stays.
const EMPTY: &str = "DO $$
    DECLARE
        name text;
        again boolean := true;
    BEGIN
        WHILE again LOOP
            again := false;
            FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
                AND tablename NOT IN ('_sqlx_migrations', 'revisions')
            LOOP
                BEGIN
                    EXECUTE format('DELETE FROM %I', name);
                EXCEPTION WHEN foreign_key_violation THEN
                    again := true;
                END;
            END LOOP;
        END LOOP;
    END $$";

/// Writes the one statement that reads all there is: each row as text, in which bytes are hexadecimal, and what stands in
/// columns of bytes as it is.
const CONTENTS: &str = "SELECT string_agg(branch, ' UNION ALL ') FROM (
        SELECT format('SELECT %L, convert_to(CAST(t AS TEXT), ''UTF8'') FROM %I t', tablename, tablename) AS branch
            FROM pg_tables WHERE schemaname = 'public'
        UNION ALL
        SELECT format('SELECT %L, %I FROM %I WHERE %I IS NOT NULL',
                table_name || '.' || column_name, column_name, table_name, column_name)
            FROM information_schema.columns WHERE table_schema = 'public' AND data_type = 'bytea'
    ) branches";

/// A database at the server, for one test.
#[derive(Debug)]
pub(crate) struct Lent {
    server: String,
    name: String,
}

impl Lent {
    /// An empty database: one that was used before, or a new one.
    pub(crate) async fn take(server: String) -> Self {
        let found = {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            pool.lent += 1;
            if pool.free.len() > RESTING { pool.free.pop_front() } else { None }
        };
        let Some(name) = found else { return Self::make(server).await };
        let lent = Self { server, name };
        let mut connection = connect(&lent.url()).await;
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        run(&mut connection, others).await;
        run(&mut connection, EMPTY).await;
        connection.close().await.expect("closed");
        lent
    }

    async fn make(server: String) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("valetkey_suite_{}_{number}", std::process::id());
        let mut connection = connect(&server).await;
        // Left by a process of the same number that was killed.
        run(&mut connection, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        run(&mut connection, &format!("CREATE DATABASE {name}")).await;
        connection.close().await.expect("closed");
        Self { server, name }
    }

    /// Everything in its tables: where it stands, and what it is.
    pub(crate) fn contents(&self) -> Vec<(String, Vec<u8>)> {
        static STATEMENT: OnceLock<String> = OnceLock::new();
        let url = self.url();
        apart(async move {
            let mut connection = connect(&url).await;
            let statement = if let Some(statement) = STATEMENT.get() {
                statement
            } else {
                let found = sqlx::query_scalar(CONTENTS).fetch_one(&mut connection).await.expect("tables");
                // Every database has the same.
                STATEMENT.get_or_init(|| found)
            };
            let rows = sqlx::query_as(AssertSqlSafe(statement.as_str())).fetch_all(&mut connection).await;
            connection.close().await.expect("closed");
            rows.expect("rows")
        })
        .unwrap_or_default()
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        let mut url: url::Url = self.server.parse().expect("VALETKEY_TEST_POSTGRES_URL is an address");
        url.set_path(&self.name);
        url.into()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let over = {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            pool.lent -= 1;
            let name = std::mem::take(&mut self.name);
            // After a test that failed nobody knows what state it is in.
            let mut over = if std::thread::panicking() {
                vec![name]
            } else {
                pool.free.push_back(name);
                Vec::new()
            };
            // Nobody uses any: the run may be over, and leaves nothing behind.
            if pool.lent == 0 {
                over.extend(pool.free.drain(..));
            }
            over
        };
        if over.is_empty() {
            return;
        }
        let server = self.server.clone();
        apart(async move {
            let mut connection = connect(&server).await;
            for name in over {
                run(&mut connection, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
            }
            connection.close().await.expect("closed");
        });
    }
}

/// Does this in a thread of its own, since whoever waits for it may stand inside a runtime, even one that is ending. A
/// failure fails the test, unless that has failed already.
fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work)
    });
    let done = thread.join().ok();
    assert!(done.is_some() || std::thread::panicking(), "the test's database could not be looked at or dropped");
    done
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("the server answers")
}

async fn run(connection: &mut PgConnection, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.expect("the statement works");
}
