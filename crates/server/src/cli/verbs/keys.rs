//! API keys.

use std::time::Duration;

use serde_json::json;
use valetkey_core::{Clock, KeyId, SystemClock};

use super::Context;
use crate::cli::{
    arguments::CreateKey,
    failure::{Exit, Failure},
    output::print_json,
    table::{Column, Kind},
};

const COLUMNS: &[Column] = &[
    ("ID", "id", Kind::Plain),
    ("NAME", "name", Kind::Plain),
    ("ROLES", "roles", Kind::Plain),
    ("CONNECTORS", "connectors", Kind::Plain),
    ("CREATED", "created_at", Kind::Time),
    ("EXPIRES", "expires_at", Kind::Time),
    ("LAST USED", "last_used_at", Kind::Time),
    ("REVOKED", "revoked_at", Kind::Time),
];

pub(super) async fn create(context: &Context, new: CreateKey) -> Result<(), Failure> {
    let mut body = json!({ "name": new.name, "roles": new.roles });
    if !new.connectors.is_empty() {
        body["connectors"] = json!(new.connectors);
    }
    if let Some(days) = new.expires_in_days {
        let life = Duration::from_secs(u64::from(days) * 86_400);
        body["expires_at"] = json!(SystemClock::new().now().plus(life));
    }
    let mut client = context.client("keys create").await?;
    let made = client.post("/v1/keys", &body).await;
    client.close().await;
    let made = made?;
    let text = made["key"].as_str().unwrap_or_default();
    context.output.show_value(&made, text)?;
    let id = made["id"].as_str().unwrap_or_default();
    context.output.tell(&format!("made {id} in space {}; its text is shown this one time", context.common.space));
    Ok(())
}

pub(super) async fn list(context: &Context) -> Result<(), Failure> {
    let mut client = context.client("keys list").await?;
    let listed = client.list("/v1/keys", &[], context.output.listing(COLUMNS)).await;
    client.close().await;
    listed
}

pub(super) async fn revoke(context: &Context, id: KeyId, yes: bool) -> Result<(), Failure> {
    if !yes {
        let failure = Failure::local(
            Exit::NeedsPerson,
            "confirmation-missing",
            format!("revoking {id} cannot be undone, and whoever uses it is refused at once"),
        );
        return Err(failure.with_next("say --yes"));
    }
    let mut client = context.client("keys revoke").await?;
    let revoked = client.delete(&format!("/v1/keys/{id}")).await;
    client.close().await;
    let revoked = revoked?;
    if !revoked.is_null() && context.common.json {
        return print_json(&revoked);
    }
    context.output.tell(&format!("revoked {id}"));
    Ok(())
}
