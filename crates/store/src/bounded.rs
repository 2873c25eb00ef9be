//! PostgreSQL within bounds: a network that swallows everything and says nothing must not hang anybody for ever.
//!
//! sqlx waits for an answer as long as its socket lives, and a cut without a reset lets that live on. Here every statement
//! has an end. When it comes the connection is closed, because whatever it says later belongs to nobody; and whether a
//! commit took place is not known, which makes it an outage like any other.

use std::{
    fmt::{self, Debug},
    io,
    str::FromStr,
    time::Duration,
};

use futures::{
    FutureExt, StreamExt, TryFutureExt, TryStreamExt,
    future::{self, BoxFuture},
    stream::{self, BoxStream},
};
use sqlx::{
    AssertSqlSafe, Either, Execute, Executor, Postgres, SqlStr,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::{
    runtime::Handle,
    time::{error::Elapsed, timeout},
};

/// After so long a connection is asked whether it still is one.
const IDLE: Duration = Duration::from_secs(2);

/// How long PostgreSQL is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection: one that is free, or a new one.
    pub connection: Duration,
    /// For what a caller waits for: a look at a few rows, which no lock holds up.
    pub look: Duration,
    /// For any other statement, and for a notice before the connection is asked whether it still is one. More than the ten
    /// seconds for which a transaction that lies idle may hold its locks.
    pub statement: Duration,
    /// For the few statements that may go through a whole table.
    pub sweep: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connection: Duration::from_secs(5),
            look: Duration::from_secs(5),
            statement: Duration::from_secs(15),
            sweep: Duration::from_secs(600),
        }
    }
}

impl Patience {
    /// What a session is told. The server gives a statement up a little earlier than this process, so that one which is
    /// merely slow costs no connection; it ends transactions whose process is frozen, so that these keep no rows from the
    /// others; and it closes sessions whose process has gone without a word.
    fn session(&self) -> String {
        let statement = self.statement.as_millis() * 9 / 10;
        format!(
            "SET idle_in_transaction_session_timeout = '10s'; SET statement_timeout = {statement}; \
             SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; \
             SET tcp_user_timeout = 20000"
        )
    }
}

/// What nobody said in time.
pub(crate) fn silence() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database did not answer in time"))
}

/// The connections of this process.
///
/// Token calls have connections of their own. They wait behind no other statement, and their sockets belong to the runtime
/// that answers calls: a connection belongs to the runtime that opened it, and the scheduled work has one of lower priority.
#[derive(Clone)]
pub(crate) struct BoundedPool {
    pool: PgPool,
    calls: PgPool,
    patience: Patience,
    /// How long a statement may take through this handle.
    within: Duration,
}

impl Debug for BoundedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedPool").field("within", &self.within).finish_non_exhaustive()
    }
}

impl BoundedPool {
    pub(crate) async fn connect(url: &str, max_connections: u32, patience: Patience) -> Result<Self, sqlx::Error> {
        let options = PgConnectOptions::from_str(url)?;
        let for_calls = (max_connections / 2).max(1);
        let for_others = max_connections.saturating_sub(for_calls).max(1);
        let pool = shared(for_others, patience).connect_with(options.clone()).await?;
        let calls = shared(for_calls, patience).connect_lazy_with(options);
        Ok(Self { pool, calls, patience, within: patience.statement })
    }

    /// For token calls alone, on the runtime that answers them.
    pub(crate) fn calling(&self) -> Self {
        Self { pool: self.calls.clone(), within: self.patience.look, ..self.clone() }
    }

    /// The same for what a caller waits for.
    pub(crate) fn looking(&self) -> Self {
        Self { within: self.patience.look, ..self.clone() }
    }

    /// A pool of one connection more, which nobody else takes; none is made before it is asked for.
    pub(crate) fn beside(&self) -> PgPool {
        settled(PgPoolOptions::new(), self.patience)
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with((*self.pool.connect_options()).clone())
    }

    /// A connection without bounds, for what may take as long as it takes. Close it afterwards.
    pub(crate) async fn unbounded(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        connection.execute("SET statement_timeout = 0").await?;
        Ok(connection)
    }

    pub(crate) fn patience(&self) -> Patience {
        self.patience
    }

    pub(crate) async fn begin(&self) -> Result<BoundedTransaction, sqlx::Error> {
        BoundedTransaction::begin(self.lease().await?, "BEGIN").await
    }

    /// A transaction whose statements look up every row by its key, however few rows there were when they were planned: a
    /// plan that reads a whole table is kept while the table grows.
    pub(crate) async fn begin_by_key(&self) -> Result<BoundedTransaction, sqlx::Error> {
        let text = "BEGIN; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; \
                    SET LOCAL random_page_cost = 0.01; SET LOCAL seq_page_cost = 10";
        BoundedTransaction::begin(self.lease().await?, text).await
    }

    /// A transaction whose statements may go through a whole table.
    pub(crate) async fn begin_sweep(&self) -> Result<BoundedTransaction, sqlx::Error> {
        let mut transaction = self.begin().await?;
        transaction.lease.within = self.patience.sweep;
        let text = format!("SET LOCAL statement_timeout = {}", self.patience.sweep.as_millis());
        (&mut transaction).execute(AssertSqlSafe(text)).await?;
        Ok(transaction)
    }

    /// Closes what is idle now and the others as they come back, but waits for no connection that is dead.
    pub(crate) async fn close(&self) {
        let all = future::join(self.pool.close(), self.calls.close());
        if timeout(self.patience.connection, all).await.is_err() {
            tracing::debug!("connections to the database were left behind");
        }
    }

    async fn lease(&self) -> Result<Lease, sqlx::Error> {
        let connection = self.pool.acquire().await?;
        Ok(Lease { connection: Some(connection), within: self.within, back_within: self.patience.connection })
    }
}

/// Connections that many use in turn.
fn shared(max_connections: u32, patience: Patience) -> PgPoolOptions {
    let ping = patience.connection / 2;
    settled(PgPoolOptions::new(), patience)
        .max_connections(max_connections)
        .max_lifetime(Duration::from_secs(600))
        // After an outage nobody meets the ends of connections that lay idle. Busy ones cost no round trip.
        .before_acquire(move |connection, meta| {
            Box::pin(async move {
                if meta.idle_for > IDLE {
                    timeout(ping, sqlx::Connection::ping(connection)).await.unwrap_or_else(|_| Err(silence()))?;
                }
                Ok(true)
            })
        })
}

fn settled(options: PgPoolOptions, patience: Patience) -> PgPoolOptions {
    let session = patience.session();
    options.acquire_timeout(patience.connection).test_before_acquire(false).after_connect(move |connection, _| {
        let session = AssertSqlSafe(session.clone());
        Box::pin(async move {
            connection.execute(session).await?;
            Ok(())
        })
    })
}

/// A connection out of the pool. It goes back when this is dropped, unless it fell silent.
struct Lease {
    connection: Option<PoolConnection<Postgres>>,
    within: Duration,
    back_within: Duration,
}

impl Lease {
    fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.connection.as_deref_mut().ok_or_else(silence)
    }

    /// Keeps the connection if it answered at all.
    fn judge<T>(&mut self, answer: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, sqlx::Error> {
        answer.unwrap_or_else(|_| {
            self.hang_up();
            Err(silence())
        })
    }

    /// Closes the socket without a word. What was not committed is rolled back at the server.
    fn hang_up(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }

    async fn fetch_many<'q, E: 'q + Execute<'q, Postgres>>(
        &mut self,
        query: E,
    ) -> Result<Vec<Either<PgQueryResult, PgRow>>, sqlx::Error> {
        let within = self.within;
        let answer = timeout(within, self.connection()?.fetch_many(query).try_collect()).await;
        self.judge(answer)
    }

    async fn fetch_optional<'q, E: 'q + Execute<'q, Postgres>>(
        &mut self,
        query: E,
    ) -> Result<Option<PgRow>, sqlx::Error> {
        let within = self.within;
        let answer = timeout(within, self.connection()?.fetch_optional(query)).await;
        self.judge(answer)
    }

    async fn prepare_with(&mut self, text: SqlStr, parameters: &[PgTypeInfo]) -> Result<PgStatement, sqlx::Error> {
        let within = self.within;
        let answer = timeout(within, self.connection()?.prepare_with(text, parameters)).await;
        self.judge(answer)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => {
                // The pool asks a connection that comes back whether it lives, and would wait for that for ever.
                let back = timeout(self.back_within, connection.return_to_pool());
                runtime.spawn(back.map(drop));
            }
            Err(_) => drop(connection.detach()),
        }
    }
}

/// A transaction within bounds. Dropped without a commit it is rolled back.
pub(crate) struct BoundedTransaction {
    lease: Lease,
    open: bool,
}

impl Debug for BoundedTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedTransaction").field("open", &self.open).finish_non_exhaustive()
    }
}

impl BoundedTransaction {
    async fn begin(lease: Lease, text: &'static str) -> Result<Self, sqlx::Error> {
        let mut begun = Self { lease, open: true };
        begun.lease.fetch_many(text).await?;
        Ok(begun)
    }

    /// After a failure to hear the end of it, whether it took place is not known.
    pub(crate) async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.lease.fetch_many("COMMIT").await?;
        self.open = false;
        Ok(())
    }
}

impl Drop for BoundedTransaction {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let Some(connection) = self.lease.connection.take() else { return };
        let within = self.lease.back_within;
        let mut lease = Lease { connection: Some(connection), within, back_within: within };
        match Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    if lease.fetch_many("ROLLBACK").await.is_err() {
                        lease.hang_up();
                    }
                });
            }
            Err(_) => lease.hang_up(),
        }
    }
}

/// The rows of one statement, which are there all together.
fn rows<'e>(
    fetched: impl Future<Output = Result<Vec<Either<PgQueryResult, PgRow>>, sqlx::Error>> + Send + 'e,
) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>> {
    fetched.map_ok(|all| stream::iter(all).map(Ok)).try_flatten_stream().boxed()
}

impl<'p> Executor<'p> for &'_ BoundedPool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        rows(async move { pool.lease().await?.fetch_many(query).await })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let pool = self.clone();
        async move { pool.lease().await?.fetch_optional(query).await }.boxed()
    }

    fn prepare_with<'e>(
        self,
        text: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        async move { pool.lease().await?.prepare_with(text, parameters).await }.boxed()
    }
}

impl<'c> Executor<'c> for &'c mut BoundedTransaction {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        rows(self.lease.fetch_many(query))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.lease.fetch_optional(query).boxed()
    }

    fn prepare_with<'e>(
        self,
        text: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.lease.prepare_with(text, parameters).boxed()
    }
}
