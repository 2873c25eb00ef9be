//! The keys that everything stored is sealed under.

use std::time::Duration;

use serde_json::{Value, json};

use super::Context;
use crate::{
    cli::{
        arguments::Keyring,
        client::Client,
        failure::{Exit, Failure},
        table::{Column, Kind, Table},
    },
    keyring as paths,
};

const COLUMNS: &[Column] = &[
    ("DATA KEY", "id", Kind::Plain),
    ("STATE", "state", Kind::Plain),
    ("WRAPPED BY", "wrapper", Kind::Whole),
    ("MADE", "created_at", Kind::Time),
    ("FIELDS", "fields", Kind::Plain),
];

/// How often a rotation that waits is looked at, and how often progress is told.
const LOOK: Duration = Duration::from_secs(2);

pub(super) async fn run(context: &Context, verb: Keyring) -> Result<(), Failure> {
    match verb {
        Keyring::Status { check } => status(context, check).await,
        Keyring::Rotate { full_speed } => rotate(context, full_speed).await,
        Keyring::Rewrap { new_key, drop_old, all } => rewrap(context, new_key, drop_old, all).await,
    }
}

async fn status(context: &Context, check: bool) -> Result<(), Failure> {
    let mut client = context.client("keyring status").await?;
    let asked: Result<Value, Failure> = async {
        let mut status = client.get(paths::KEYRING, &[]).await?;
        if check {
            context.output.tell("opening every sealed field");
            let alone = json!({ "alone": client.is_alone() });
            status["check"] = client.post(paths::CHECK, &alone).await?;
        }
        Ok(status)
    }
    .await;
    client.close().await;
    let status = asked?;
    show(context, &status)?;
    match status["check"]["unreadable"].as_u64() {
        Some(0) => context.output.tell(&format!("opened {} fields: all can be read", status["check"]["fields"])),
        Some(count) => {
            return Err(Failure::local(
                Exit::Failed,
                "unreadable-fields",
                format!("{count} sealed fields do not open"),
            )
            .with_next("the log names each of them; restore their rows from a backup, or connect their users again"));
        }
        None => {}
    }
    Ok(())
}

fn show(context: &Context, status: &Value) -> Result<(), Failure> {
    context.output.show(status, || Table::of(COLUMNS, status["keys"].as_array().into_iter().flatten()))?;
    context.output.tell(&format!("new data keys are wrapped by {}", status["wrapper"].as_str().unwrap_or_default()));
    for key in status["keys"].as_array().into_iter().flatten() {
        if let Some(reason) = key["missing"].as_str() {
            context.output.tell(&format!("data key {} is not here: {reason}", key["id"]));
        }
    }
    Ok(())
}

async fn rotate(context: &Context, full_speed: bool) -> Result<(), Failure> {
    let mut client = context.client("keyring rotate").await?;
    let rotated = follow(context, &mut client, full_speed).await;
    client.close().await;
    let status = rotated?;
    show(context, &status)
}

/// Begins a rotation, or takes up the one that goes on, and follows it to its end. Whoever stops following it loses
/// nothing: a server goes on with it, and so does this verb when it is said again.
async fn follow(context: &Context, client: &mut Client, full_speed: bool) -> Result<Value, Failure> {
    let before = client.get(paths::KEYRING, &[]).await?;
    let is_under_way = fields_of(&before, "decrypt_only").is_some();
    if is_under_way {
        context.output.tell("a rotation is under way already: going on with it");
    } else {
        let begun = client.post(paths::ROTATE, &json!({})).await?;
        context.output.tell(&format!("data key {} is the new one", begun["new_key"]));
    }
    let total = fields_of(&before, "decrypt_only").or_else(|| fields_of(&before, "active")).unwrap_or(0);
    let alone = json!({ "alone": full_speed || client.is_alone() });
    let (mut sealed, mut told, mut waits_for) = (0, std::time::Instant::now(), Vec::new());
    loop {
        let step = client.post(paths::STEP, &alone).await?;
        sealed += step["fields"].as_u64().unwrap_or(0);
        match step["phase"].as_str().unwrap_or_default() {
            "done" => {
                context.output.tell(&format!("{sealed} of {total} fields sealed anew: done"));
                return client.get(paths::KEYRING, &[]).await;
            }
            "stuck" => {
                let title = format!(
                    "{} sealed fields do not open, so that an older data key stays for them; all others are sealed with \
                     the new one",
                    step["unreadable"]
                );
                return Err(Failure::local(Exit::Failed, "unreadable-fields", title).with_next(
                    "the log names each of them; restore their rows from a backup, or connect their users again",
                ));
            }
            "waiting" => {
                let replicas: Vec<_> = step["replicas"].as_array().cloned().unwrap_or_default();
                if replicas != waits_for {
                    let names: Vec<_> = replicas.iter().filter_map(Value::as_str).collect();
                    context.output.tell(&format!(
                        "waiting until every replica has taken up the new data key: {}",
                        names.join(", ")
                    ));
                    waits_for = replicas;
                }
                tokio::time::sleep(LOOK).await;
            }
            "elsewhere" => {
                if waits_for.is_empty() {
                    context.output.tell("another replica goes on with the rotation: following it");
                    waits_for.push(Value::Null);
                }
                tokio::time::sleep(LOOK).await;
            }
            _ => {
                if told.elapsed() >= LOOK {
                    told = std::time::Instant::now();
                    context.output.tell(&format!("{sealed} of {total} fields sealed anew"));
                }
            }
        }
    }
}

/// The fields of all keys in a state; `None` if there is no such key.
fn fields_of(status: &Value, state: &str) -> Option<u64> {
    let keys = status["keys"].as_array()?.iter().filter(|key| key["state"] == state);
    keys.map(|key| key["fields"].as_u64().unwrap_or(0)).reduce(|sum, fields| sum + fields)
}

async fn rewrap(context: &Context, new_key: bool, drop_old: bool, all: bool) -> Result<(), Failure> {
    let mut client = context.client("keyring rewrap").await?;
    let body = json!({ "new_key": new_key, "drop_old": drop_old, "all": all });
    let asked: Result<Value, Failure> = async {
        let report = client.post(paths::REWRAP, &body).await?;
        let mut status = client.get(paths::KEYRING, &[]).await?;
        status["rewrapped"] = report;
        Ok(status)
    }
    .await;
    client.close().await;
    let status = asked?;
    show(context, &status)?;
    let report = &status["rewrapped"];
    context.output.tell(&format!("wrapped {} data keys anew", report["wrapped"]));
    if new_key {
        context
            .output
            .tell("the key ring has a new key: back it up, and bring it to every replica before it starts again");
    }
    if report["dropped"].as_u64().is_some_and(|dropped| dropped > 0) {
        context.output.tell(&format!(
            "took {} old keys out of the key ring: backups of the database from before need a backup of the ring from \
             before",
            report["dropped"]
        ));
    }
    Ok(())
}
