//! Connections.

use serde_json::{Map, Value, json};
use valetkey_core::ConnectionId;

use super::Context;
use crate::cli::{
    arguments::{Filter, RevokeConnections},
    client::Client,
    failure::{Exit, Failure},
    output::print_json,
    table::{Column, Kind, Table},
};

const COLUMNS: &[Column] = &[
    ("ID", "id", Kind::Plain),
    ("CONNECTOR", "connector_id", Kind::Plain),
    ("PROVIDER", "provider", Kind::Plain),
    ("OWNER", "owner.kind", Kind::Plain),
    ("USER", "owner.user_id", Kind::Plain),
    ("LABEL", "label", Kind::Plain),
    ("STATUS", "status", Kind::Plain),
    ("REASON", "needs_reauth.reason", Kind::Plain),
    ("ACCOUNT", "account.name", Kind::Plain),
    ("EXPIRES", "expires_at", Kind::Time),
    ("LAST USED", "last_used_at", Kind::Time),
];

const REVOCATIONS: &[Column] =
    &[("ID", "id", Kind::Plain), ("TOKEN", "token_kind", Kind::Plain), ("STATE", "state", Kind::Plain)];

/// What to do with revocations that wait.
const WAITING: &str = "no server runs: providers are told once one does";

impl Filter {
    /// The members of the filter, as the API names them.
    fn members(&self) -> Vec<(&'static str, String)> {
        let members = [
            ("connector_id", self.connector.map(|id| id.to_string())),
            ("user_id", self.user.as_ref().map(|user| user.as_str().to_owned())),
            ("owner", self.shared.then(|| "shared".to_owned())),
            ("status", self.status.clone()),
            ("provider", self.provider.clone()),
            ("label", self.label.as_ref().map(|label| label.as_str().to_owned())),
            ("reason", self.reason.clone()),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

pub(super) async fn list(context: &Context, filter: &Filter) -> Result<(), Failure> {
    let mut client = context.client("connections list").await?;
    let listed = client.list("/v1/connections", &filter.members(), context.output.listing(COLUMNS)).await;
    client.close().await;
    listed
}

pub(super) async fn revoke(context: &Context, revoke: RevokeConnections) -> Result<(), Failure> {
    if let Some(id) = revoke.id {
        if !revoke.yes {
            let title =
                format!("revoking {id} ends the grant here at once, and at the provider as soon as it can be told");
            return Err(Failure::local(Exit::NeedsPerson, "confirmation-missing", title).with_next("say --yes"));
        }
        let mut client = context.client("connections revoke").await?;
        let revoked = one(context, &mut client, id).await;
        client.close().await;
        return revoked;
    }
    let members = revoke.filter.members();
    if members.is_empty() && !revoke.all {
        let title = "name a connection by its id, or several by a filter";
        let failure = Failure::local(Exit::WrongUse, "wrong-use", title);
        return Err(
            failure.with_next("see `valetkey connections revoke --help`; --all is every connection of the space")
        );
    }
    let mut client = context.client("connections revoke").await?;
    let revoked = many(context, &mut client, &members, &revoke).await;
    client.close().await;
    revoked
}

async fn one(context: &Context, client: &mut Client, id: ConnectionId) -> Result<(), Failure> {
    let revoked = client.delete(&format!("/v1/connections/{id}")).await?;
    let revocations = revoked["revocations"].as_array().cloned().unwrap_or_default();
    if context.common.json {
        print_json(&revoked)?;
    } else if !revocations.is_empty() {
        context.output.show(&revocations, || Table::of(REVOCATIONS, &revocations))?;
    }
    context.output.tell(&format!("revoked {id}: its tokens are given to nobody any more"));
    if let Some(url) = revoked["manual_url"].as_str() {
        context.output.tell(&format!("the user can remove access at the provider: {url}"));
    }
    if client.is_here() && !revocations.is_empty() {
        context.output.tell(WAITING);
    }
    Ok(())
}

async fn many(
    context: &Context,
    client: &mut Client,
    members: &[(&'static str, String)],
    revoke: &RevokeConnections,
) -> Result<(), Failure> {
    let filter: Map<String, Value> = members.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let plan = client.post("/v1/connections/revoke", &json!({ "dry_run": true, "filter": filter })).await?;
    let count = plan["count"].as_i64().unwrap_or_default();
    if count == 0 && revoke.confirm.is_none_or(|said| said == 0) {
        if context.common.json {
            print_json(&plan)?;
        }
        context.output.tell("no connection that is not revoked already matches");
        return Ok(());
    }
    let confirmed = revoke.confirm == Some(count);
    if !confirmed {
        show_plan(context, &plan)?;
        if revoke.dry_run {
            return Ok(());
        }
        let title = match revoke.confirm {
            Some(said) => format!("nothing was revoked: {count} connections match, and {said} were confirmed"),
            None => format!("nothing was revoked: {count} connections match, and their number is not confirmed"),
        };
        let failure = Failure::local(Exit::NeedsPerson, "confirmation-missing", title);
        return Err(failure.with_next(format!("say --confirm {count}")));
    }
    context.output.tell_at_terminal(&format!("revoking {count} connections …"));
    let body = json!({ "plan_id": plan["plan_id"], "expected_count": count });
    let done = client.post("/v1/connections/revoke", &body).await?;
    if context.common.json {
        print_json(&done)?;
    }
    let revoked = done["revoked"].as_u64().unwrap_or_default();
    context.output.tell(&format!("revoked {revoked} connections: their tokens are given to nobody any more"));
    if client.is_here() && revoked > 0 {
        context.output.tell(WAITING);
    }
    Ok(())
}

/// The plan: how many at which provider, and what their providers can be told.
fn show_plan(context: &Context, plan: &Value) -> Result<(), Failure> {
    const COLUMNS: &[Column] = &[("PROVIDER", "provider", Kind::Plain), ("CONNECTIONS", "count", Kind::Plain)];
    if context.common.json {
        return print_json(plan);
    }
    let by_provider: Vec<Value> = plan["by_provider"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(provider, count)| json!({ "provider": provider, "count": count }))
        .collect();
    context.output.show(&by_provider, || Table::of(COLUMNS, &by_provider))?;
    let outcome = &plan["by_outcome"];
    context.output.tell(&format!(
        "{} in all: {} at providers that confirm a revocation, {} at providers that cannot be told",
        plan["count"], outcome["confirmable"], outcome["unsupported"]
    ));
    Ok(())
}
