//! What is over.

use serde_json::{Value, json};

use super::Context;
use crate::cli::{
    failure::Failure,
    table::{Column, Kind, Table},
};

const COLUMNS: &[Column] = &[("WHAT", "what", Kind::Plain), ("ROWS", "rows", Kind::Plain)];

pub(super) async fn purge(context: &Context, dry_run: bool) -> Result<(), Failure> {
    let mut client = context.client("purge").await?;
    let report = client.post(crate::operator::PURGE, &json!({ "dry_run": dry_run })).await;
    client.close().await;
    let report = report?;
    let rows: Vec<Value> =
        report.as_object().into_iter().flatten().map(|(what, rows)| json!({ "what": what, "rows": rows })).collect();
    context.output.show(&report, || Table::of(COLUMNS, &rows))?;
    context.output.tell(if dry_run { "nothing was deleted: this is what would be" } else { "deleted" });
    Ok(())
}
