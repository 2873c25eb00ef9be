//! Shows a scripted fault: decides when the request is processed, and what the caller gets to see.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use futures::stream::{self, Stream, StreamExt};
use serde_json::{Value, json};

use crate::answer::{Answer, Content};
use crate::client::AnswerShape;
use crate::clock::http_date;
use crate::connection::Connection;
use crate::fault::{Commit, Fault, RetryAfter, Scripted};
use crate::state::Shared;

/// What the provider does with a request, to be done at most once.
pub(crate) type Process = Box<dyn FnOnce() -> Answer + Send>;

/// Processes a request that met a fault, and shows the fault.
pub(crate) async fn show(
    shared: &Arc<Shared>,
    sequence: Option<u64>,
    scripted: Scripted,
    connection: &Connection,
    process: Process,
) -> Response {
    let Scripted { fault, commit } = scripted;
    let response = match fault {
        Fault::Delay { .. } | Fault::HoldUntilReleased { .. } => {
            late(shared, fault, commit, process).await.into_response()
        }
        fault => {
            let mut afterwards = Afterwards(None);
            let truth = match commit {
                Commit::Before => Some(process()),
                Commit::After => {
                    afterwards.0 = Some(process);
                    None
                }
                Commit::WhenReleased(gate) => {
                    process_when_released(shared, gate, process);
                    None
                }
                Commit::Never => None,
            };
            let unseen = fault == Fault::ResetBeforeAnswer;
            let response = show_at_once(shared, fault, truth, connection, afterwards).await;
            if unseen {
                return response;
            }
            response
        }
    };
    if let Some(sequence) = sequence {
        shared.lock().ledger.shown(sequence, response.status().as_u16());
    }
    response
}

/// Answers late. Runs in a task of its own, so that a caller who hangs up changes nothing.
async fn late(shared: &Arc<Shared>, fault: Fault, commit: Commit, process: Process) -> Answer {
    let shared = Arc::clone(shared);
    let task = tokio::spawn(async move {
        match commit {
            Commit::Before => {
                let answer = process();
                wait(&shared, &fault).await;
                answer
            }
            Commit::After => {
                wait(&shared, &fault).await;
                process()
            }
            Commit::WhenReleased(gate) => {
                process_when_released(&shared, gate, process);
                wait(&shared, &fault).await;
                Answer::unavailable()
            }
            Commit::Never => {
                wait(&shared, &fault).await;
                Answer::unavailable()
            }
        }
    });
    task.await.unwrap_or_else(|_| Answer::error(500, "server_error"))
}

pub(crate) async fn wait(shared: &Shared, fault: &Fault) {
    match fault {
        Fault::Delay { ms } => tokio::time::sleep(Duration::from_millis(*ms)).await,
        Fault::HoldUntilReleased { gate } => shared.gates.pass(gate).await,
        _ => {}
    }
}

fn process_when_released(shared: &Arc<Shared>, gate: String, process: Process) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        shared.gates.pass(&gate).await;
        process();
    });
}

/// Processes a request when it is dropped: once the answer was written, or its connection has gone.
pub(crate) struct Afterwards(pub(crate) Option<Process>);

impl Drop for Afterwards {
    fn drop(&mut self) {
        if let Some(process) = self.0.take() {
            process();
        }
    }
}

/// Shows every fault but the late ones; `truth` is the true answer if there is one.
pub(crate) async fn show_at_once(
    shared: &Shared,
    fault: Fault,
    truth: Option<Answer>,
    connection: &Connection,
    afterwards: Afterwards,
) -> Response {
    let mut answer =
        if fault.shows_true_answer() { truth.unwrap_or_else(Answer::decoy) } else { Answer::unavailable() };
    match fault {
        // Dropped, and `afterwards` with it, when the caller leaves.
        Fault::Hang => std::future::pending().await,
        Fault::ResetBeforeAnswer => connection.cut(),
        Fault::TruncatedBody => {
            let (content_type, text) = answer.render();
            let half = Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2]);
            let body = body(broken_after(half), afterwards);
            return answer.with_body(&content_type, Some(text.len()), body);
        }
        Fault::EndlessBody => {
            let filler = Bytes::from_static(&[b' '; 16 * 1024]);
            let endless = stream::once(async { Ok(Bytes::from_static(b"{\"access_token\":\"")) })
                .chain(stream::repeat_with(move || Ok(filler.clone())));
            answer.status = 200;
            return answer.with_body("application/json", None, body(endless, afterwards));
        }
        Fault::SlowBody { ms_per_chunk } => {
            let (content_type, text) = answer.render();
            let length = text.len();
            let pieces: Vec<_> = text.as_bytes().chunks(8).map(Bytes::copy_from_slice).collect();
            let slow = stream::iter(pieces).then(move |piece| async move {
                tokio::time::sleep(Duration::from_millis(ms_per_chunk)).await;
                Ok(piece)
            });
            return answer.with_body(&content_type, Some(length), body(slow, afterwards));
        }
        Fault::Bytes { code, base64, headers } => {
            // What is not base64 is shown as an empty body.
            let bytes = Bytes::from(BASE64.decode(base64.as_bytes()).unwrap_or_default());
            let length = bytes.len();
            let whole = stream::once(async move { Ok(bytes) });
            let mut answer = Answer::text(code, "application/octet-stream", "");
            for (name, value) in headers {
                answer = answer.header(&name, &value);
            }
            return answer.with_body("application/octet-stream", Some(length), body(whole, afterwards));
        }
        other => reshape(shared, &mut answer, other),
    }
    let (content_type, text) = answer.render();
    let length = text.len();
    let whole = stream::once(async move { Ok(Bytes::from(text)) });
    answer.with_body(&content_type, Some(length), body(whole, afterwards))
}

/// Replaces or bends an answer that is then sent in one piece.
fn reshape(shared: &Shared, answer: &mut Answer, fault: Fault) {
    match fault {
        Fault::Status { code, body, headers } => {
            let content_type = if body.starts_with('{') { "application/json" } else { "text/plain" };
            *answer = Answer::text(code, content_type, body);
            for (name, value) in headers {
                *answer = answer.clone().header(&name, &value);
            }
        }
        Fault::NotJson => {
            *answer = Answer::text(200, "text/html", "<!doctype html><title>Sandbox provider</title><p>Not JSON.");
        }
        Fault::RedirectTo { url } => {
            *answer = Answer::text(307, "text/plain", "").header("location", &url);
        }
        Fault::ErrorInside200 { error } => {
            *answer = Answer::json(200, json!({ "ok": false, "error": error }));
        }
        Fault::OAuthError { status, error } => *answer = Answer::error(status, &error),
        Fault::RateLimited { retry_after } => {
            *answer = later(Answer::error(429, "slow_down"), retry_after, shared.clock.now_ms());
        }
        Fault::Unavailable { retry_after } => {
            let page = Answer::text(503, "text/html", "<!doctype html><title>Maintenance</title>");
            *answer = later(page, retry_after, shared.clock.now_ms());
        }
        Fault::OversizedBody { bytes } => {
            if let Some(members) = answer.members_mut() {
                members.insert("padding".to_owned(), Value::String("x".repeat(bytes)));
            }
        }
        Fault::DuplicateKeys => {
            let (content_type, text) = answer.render();
            if let Some(rest) = text.strip_prefix('{') {
                let doubled = format!(r#"{{"access_token":"decoy","refresh_token":"decoy",{rest}"#);
                answer.content = Content::Text { content_type, text: doubled };
            }
        }
        Fault::WithoutRefreshToken => {
            if let Some(members) = answer.members_mut() {
                members.remove("refresh_token");
            }
        }
        Fault::MissingTokenType => {
            if let Some(members) = answer.members_mut() {
                members.remove("token_type");
            }
        }
        Fault::WithMembers { members } => {
            if let Some(own) = answer.members_mut() {
                own.extend(members);
            }
        }
        Fault::WithHeaders { headers } => {
            for (name, value) in headers {
                *answer = answer.clone().header(&name, &value);
            }
        }
        Fault::ManyHeaders { count } => {
            for number in 0..count {
                *answer = answer.clone().header(&format!("x-padding-{number}"), "nobody reads this");
            }
        }
        Fault::FormEncoded => *answer = answer.clone().shaped(AnswerShape::Form),
        Fault::NestedTokens => *answer = answer.clone().shaped(AnswerShape::Nested),
        _ => {}
    }
}

/// An answer that says when to come back.
fn later(answer: Answer, retry_after: RetryAfter, now_ms: i64) -> Answer {
    let value = match retry_after {
        RetryAfter::Seconds(seconds) => seconds.to_string(),
        RetryAfter::DateIn(seconds) => {
            let ahead_ms = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000);
            http_date(now_ms.saturating_add(ahead_ms))
        }
        RetryAfter::Text(text) => text,
        RetryAfter::Absent => return answer,
    };
    answer.header("retry-after", &value)
}

fn broken_after(first: Bytes) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::once(async move { Ok(first) }).chain(stream::once(async {
        // Lets the first half leave before the connection breaks.
        tokio::time::sleep(Duration::from_millis(10)).await;
        Err(io::ErrorKind::ConnectionReset.into())
    }))
}

fn body(content: impl Stream<Item = io::Result<Bytes>> + Send + 'static, afterwards: Afterwards) -> Body {
    Body::from_stream(content.map(move |piece| {
        let _kept_as_long_as_the_body = &afterwards;
        piece
    }))
}
