//! Import connections: lines in, reports out, each line a transaction of its own.

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::{Extension, Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, channel::mpsc};
use tracing::Instrument;
use valetkey_broker::{ImportReport, with_request_id};
use valetkey_core::Caller;

use crate::{
    Api,
    auth::{Permit, op},
    extract::{Lines, parse},
    problem::{Problem, ProblemCode},
    request_id::RequestId,
    wire::{ImportLineIn, ImportLineOut},
};

const NDJSON: &str = "application/x-ndjson";

/// Import connections.
///
/// One JSON object a line in, one report a line out, in order; each line is a transaction of its own, so that what was reported is
/// done. An active connection is refused without `replace`.
#[utoipa::path(post, path = "/v1/connections/import", operation_id = "import_connections", tag = "connections",
    request_body(content = ImportLineIn, content_type = "application/x-ndjson", description = "One object a line, at most 64 KiB each"),
    responses((status = OK, description = "One report a line", content_type = "application/x-ndjson", body = ImportLineOut)))]
pub(super) async fn import_connections(
    permit: Permit<op::Import>,
    State(api): State<Api>,
    Extension(request_id): Extension<RequestId>,
    request: Request,
) -> Result<Response, Problem> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case(NDJSON)) {
        return Err(Problem::with(ProblemCode::UnsupportedMediaType, "Send Content-Type: application/x-ndjson."));
    }
    let body = request.into_body().into_data_stream();
    let (reports, answers) = mpsc::unbounded();
    // A task of its own: a client that sends everything before it reads anything must not stop its own import.
    let work = run(api, permit.caller, body, reports).in_current_span();
    tokio::spawn(with_request_id(request_id.0, work));
    let mut response = Body::from_stream(answers.map(Ok::<Bytes, std::convert::Infallible>)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(response)
}

/// Imports line after line until the body ends, the connection breaks, or nobody listens any more.
async fn run(api: Api, caller: Caller, body: BodyDataStream, reports: mpsc::UnboundedSender<Bytes>) {
    let mut lines = Lines::of(body);
    let (mut number, mut imported) = (0_u64, 0_u64);
    while let Some(line) = lines.next().await {
        number += 1;
        let result = match line {
            Ok(line) if line.trim_ascii().is_empty() => continue,
            Ok(line) => import(&api, &caller, &line).await,
            Err(problem) => Err(problem),
        };
        let is_over = matches!(&result, Err(problem) if problem.code() == ProblemCode::RequestTimeout);
        imported += u64::from(result.is_ok());
        if let Err(problem) = &result
            && let Some(cause) = problem.cause()
        {
            tracing::error!(
                line = number,
                error = &*cause.0 as &dyn std::error::Error,
                "line {number} of an import failed"
            );
        }
        let mut report = serde_json::to_vec(&ImportLineOut::of(number, result)).unwrap_or_default();
        report.push(b'\n');
        if reports.unbounded_send(Bytes::from(report)).is_err() || is_over {
            break;
        }
    }
    tracing::info!(lines = number, imported, "an import of {number} lines ended");
}

async fn import(api: &Api, caller: &Caller, line: &[u8]) -> Result<ImportReport, Problem> {
    let line: ImportLineIn = parse(line)?;
    Ok(api.broker().import(caller, &line.into()).await?)
}
