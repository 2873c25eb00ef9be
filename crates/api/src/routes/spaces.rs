//! Spaces: over the socket in the data directory alone.

use axum::extract::State;

use crate::{
    Api,
    answer::{Answered, created, ok},
    auth::CommandLine,
    extract::JsonBody,
    wire::{Page, SpaceIn, SpaceOut},
};

/// Makes a space.
pub(super) async fn create_space(
    CommandLine(caller): CommandLine,
    State(api): State<Api>,
    JsonBody(new): JsonBody<SpaceIn>,
) -> Answered<SpaceOut> {
    api.broker().create_space(&caller, &new.id).await?;
    created(SpaceOut { id: new.id, created_at: None })
}

/// Lists the spaces.
pub(super) async fn list_spaces(CommandLine(caller): CommandLine, State(api): State<Api>) -> Answered<Page<SpaceOut>> {
    let spaces = api.broker().list_spaces(&caller).await?;
    ok(Page { items: spaces.into_iter().map(SpaceOut::from).collect(), next: None })
}
