//! The measure: bare axum routes that do the least that such an answer takes.

use std::sync::Arc;

use anyhow::Context;
use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Row, postgres::PgPoolOptions};

use crate::child::{Ready, until_closed};

/// The same request that the broker gets.
#[derive(Debug, Deserialize)]
struct Ask {
    user_id: String,
}

/// An answer of the same fields and size.
#[derive(Debug, Clone, Serialize)]
struct Answer {
    access_token: String,
    token_type: String,
    expires_at: String,
    expires_in: u64,
    scopes: Vec<String>,
    connection_id: String,
    generation: i64,
    fingerprint: String,
}

fn answer() -> Answer {
    Answer {
        access_token: "t".repeat(40),
        token_type: "Bearer".to_owned(),
        expires_at: "2030-01-01T00:00:00.000Z".to_owned(),
        expires_in: 3_600,
        scopes: vec!["read".to_owned(), "write".to_owned()],
        connection_id: "cxn_00000000000000000000000000".to_owned(),
        generation: 1,
        fingerprint: "f".repeat(44),
    }
}

/// A JSON route: reads the body, writes an answer.
pub(crate) async fn serve_json() -> anyhow::Result<()> {
    let template = Arc::new(answer());
    let app = Router::new()
        .route(
            "/bare",
            post(|State(answer): State<Arc<Answer>>, Json(_): Json<Ask>| async move { Json((*answer).clone()) }),
        )
        .with_state(template);
    serve(app).await
}

/// A JSON route that reads one row by its primary key.
pub(crate) async fn serve_read(url: &str, rows: usize) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new().max_connections(16).test_before_acquire(false).connect(url).await?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS bare_rows (id TEXT PRIMARY KEY, token BYTEA NOT NULL, expires_at BIGINT NOT NULL)",
    )
    .execute(&pool)
    .await?;
    sqlx::query("INSERT INTO bare_rows SELECT 'u-' || n, decode(repeat('ab', 126), 'hex'), 0 FROM generate_series(0, $1) n ON CONFLICT DO NOTHING")
        .bind(i64::try_from(rows)?)
        .execute(&pool)
        .await?;
    sqlx::query("ANALYZE bare_rows").execute(&pool).await?;
    let app = Router::new().route("/bare", post(read_one)).with_state((pool, Arc::new(answer())));
    serve(app).await
}

async fn read_one(
    State((pool, template)): State<(PgPool, Arc<Answer>)>,
    Json(ask): Json<Ask>,
) -> Result<Json<Answer>, StatusCode> {
    let row = sqlx::query("SELECT token, expires_at FROM bare_rows WHERE id = $1")
        .bind(ask.user_id)
        .fetch_one(&pool)
        .await
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let token: &[u8] = row.try_get("token").map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let mut answer = (*template).clone();
    answer.generation = i64::try_from(token.len()).unwrap_or_default();
    Ok(Json(answer))
}

async fn serve(app: Router) -> anyhow::Result<()> {
    use axum::serve::ListenerExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("no port is free")?;
    let address = listener.local_addr()?;
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    tokio::spawn(async move { axum::serve(listener, app).await });
    until_closed(&Ready { address, path: "/bare".to_owned(), key: "none".to_owned() }).await
}
