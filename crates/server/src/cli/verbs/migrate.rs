//! The database schema.

use serde_json::json;

use super::Context;
use crate::{
    cli::{failure::Failure, output::print_json},
    foundation::{Means, migrate_alone},
};

pub(super) async fn migrate(context: &Context) -> Result<(), Failure> {
    let config = context.load()?.config;
    context.log_warnings();
    let ran = migrate_alone(&config, &Means::default()).await?;
    if context.common.json {
        return print_json(&json!({ "migrations": ran }));
    }
    context.output.tell(&match ran {
        0 => "the schema is up to date".to_owned(),
        1 => "1 migration ran; the schema is up to date".to_owned(),
        ran => format!("{ran} migrations ran; the schema is up to date"),
    });
    Ok(())
}
