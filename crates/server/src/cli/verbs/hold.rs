//! The hold: what an operator says of a database that may be a restored or a copied one.

use serde_json::{Value, json};

use super::Context;
use crate::cli::{
    client::Client,
    failure::{Exit, Failure},
    output::print_json,
    table::{Column, Kind, Table},
};

const HOLD: &str = "/v1/hold";

const CLASSES: &[Column] = &[
    ("CLASS", "class", Kind::Plain),
    ("WAITS", "waits", Kind::Plain),
    ("CONNECTIONS", "connections", Kind::Plain),
    ("DUE", "due", Kind::Plain),
    ("MEANING", "meaning", Kind::Whole),
];

pub(super) async fn hold(context: &Context, reason: Option<&str>) -> Result<(), Failure> {
    let mut client = context.client("hold").await?;
    let answer = client.post(HOLD, &json!({ "reason": reason })).await;
    client.close().await;
    let answer = answer?;
    if context.common.json {
        print_json(&answer)?;
    }
    context.output.tell(&format!(
        "in hold {}: refreshes and revocations wait for `valetkey release-hold`",
        about(&answer["hold"])
    ));
    Ok(())
}

pub(super) async fn release(context: &Context, yes: bool) -> Result<(), Failure> {
    let mut client = context.client("release-hold").await?;
    let done = if yes { end(context, &mut client).await } else { explain(context, &mut client).await };
    client.close().await;
    done
}

async fn end(context: &Context, client: &mut Client) -> Result<(), Failure> {
    let answer = client.delete(HOLD).await?;
    if context.common.json {
        print_json(&answer)?;
    }
    let released = &answer["released"];
    if released.is_null() {
        context.output.tell("there was no hold to end");
    } else if client.is_here() {
        context
            .output
            .tell(&format!("ended the hold {}: the next server refreshes and revokes what waited", about(released)));
    } else {
        context.output.tell(&format!("ended the hold {}: what waited is refreshed and revoked now", about(released)));
    }
    Ok(())
}

/// What waits, and that it has to be confirmed; without a hold, what one would keep back.
async fn explain(context: &Context, client: &mut Client) -> Result<(), Failure> {
    let report = client.get(HOLD, &[]).await?;
    let classes = report["classes"].as_array().cloned().unwrap_or_default();
    context.output.show(&report, || Table::of(CLASSES, &classes))?;
    let revocations = report["revocations"].as_u64().unwrap_or_default();
    if report["hold"].is_null() {
        context.output.tell("there is no hold: this is what one would be about");
        return Ok(());
    }
    context
        .output
        .tell(&format!("{revocations} revocations wait as well: providers are told of them once the hold is over"));
    context.output.tell("see that no other copy of this database is in use: what one copy refreshes, the other loses");
    let title = format!("nothing was ended: the hold {} goes on", about(&report["hold"]));
    Err(Failure::local(Exit::NeedsPerson, "confirmation-missing", title).with_next("say --yes"))
}

/// A hold in a sentence.
fn about(hold: &Value) -> String {
    let why = match hold["reason"].as_str().unwrap_or_default() {
        "behind_witness" => "since the database is older than its witness",
        "foreign_witness" => "since the witness saw another instance",
        "unreadable_witness" => "since the witness cannot be read",
        _ => "of an operator",
    };
    let note: String =
        hold["note"].as_str().unwrap_or_default().chars().filter(|letter| !letter.is_control()).collect();
    let note = if note.is_empty() { note } else { format!(" ({note})") };
    format!("{why}{note}, begun {}", hold["since"].as_str().unwrap_or_default())
}
