//! The hold: over the socket in the data directory alone, since it concerns all spaces.

use axum::extract::State;
use valetkey_broker::HoldReport;

use crate::{
    Api,
    answer::{Answered, ok},
    auth::CommandLine,
    extract::JsonBody,
    wire::{HoldIn, HoldOut, ReleasedOut},
};

/// Shows the hold in force and what waits for its end.
pub(super) async fn show_hold(_: CommandLine, State(api): State<Api>) -> Answered<HoldReport> {
    ok(api.broker().hold_report().await?)
}

/// Begins a hold, or leaves the one in force as it is.
pub(super) async fn begin_hold(
    CommandLine(caller): CommandLine,
    State(api): State<Api>,
    JsonBody(new): JsonBody<HoldIn>,
) -> Answered<HoldOut> {
    ok(HoldOut { hold: api.broker().begin_hold(&caller.actor(), new.reason.as_deref()).await? })
}

/// Ends the hold in force.
pub(super) async fn release_hold(CommandLine(caller): CommandLine, State(api): State<Api>) -> Answered<ReleasedOut> {
    ok(ReleasedOut { released: api.broker().release_hold(&caller.actor()).await? })
}
