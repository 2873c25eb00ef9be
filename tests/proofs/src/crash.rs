//! Crash: the broker is killed at every boundary of a refresh and at random moments, and started again.
//!
//! After each kill it is brought to rest, and what it stored is held against the provider's ledger.

mod plan;
mod round;
mod tally;

use anyhow::Context;
use futures::future::try_join_all;
use serde_json::json;

use self::{plan::plan, round::Run, tally::Tally};
use crate::{chance::Chance, database::EngineChoice, report};

/// Kills the broker at every boundary of a refresh, in every rotation class.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Crash {
    /// How many kills.
    #[arg(long, default_value_t = 300)]
    kills: usize,
    #[command(flatten)]
    engine: EngineChoice,
    /// What every choice is drawn from; a new one if absent.
    #[arg(long)]
    seed: Option<u64>,
    /// How many brokers, each with a database and a provider of its own, are killed side by side.
    #[arg(long, default_value_t = 2)]
    beside: usize,
}

/// Runs the proof; whether it held.
pub(crate) async fn prove(settings: &Crash) -> anyhow::Result<bool> {
    let seed = settings.seed.unwrap_or_else(Chance::any_seed);
    let null_control = cfg!(feature = "null-control");
    let what = if null_control { ", NULL CONTROL without attempt records: it has to report losses" } else { "" };
    report::progress(&format!(
        "crash: {} kills on {}, seed {seed}{what}",
        settings.kills,
        settings.engine.engine.as_str()
    ));
    let beside = settings.beside.clamp(1, settings.kills.max(1));
    let mut chance = Chance::new(seed);
    let cells = plan(settings.kills, &mut chance);
    let share = cells.len().div_ceil(beside).max(1);
    let started = std::time::Instant::now();
    let runs = cells.chunks(share).enumerate().map(|(number, cells)| {
        let chance = Chance::new(seed.wrapping_mul(1_000).wrapping_add(number as u64));
        async move {
            let mut run = Run::start(&settings.engine, chance).await?;
            let mut tally = Tally::default();
            for (done, cell) in cells.iter().enumerate() {
                run.round(*cell, &mut tally).await.with_context(|| format!("at {cell:?}"))?;
                if (done + 1) % 100 == 0 {
                    report::progress(&format!("run {number}: {} of {} rounds", done + 1, cells.len()));
                }
            }
            run.end().await?;
            anyhow::Ok(tally)
        }
    });
    let mut tally = Tally::default();
    for each in try_join_all(runs).await? {
        tally.add(each);
    }
    let took = started.elapsed().as_secs_f64();
    tally.print();
    let count = &tally.sums();
    let mut line = json!({
        "proof": "crash",
        "engine": settings.engine.engine.as_str(),
        "kills": tally.kills(),
        "avoidable_losses": count.avoidable,
        "unexplained": count.unexplained,
        "stuck": count.stuck,
        "second_presentations": count.second_presentations,
        "unrecorded_presentations": count.unrecorded,
        "unavoidable": count.unavoidable,
        "stopped_for_siblings": count.stopped,
        "missed_boundaries": tally.missed(),
        "kills_per_second": (f64::from(u32::try_from(tally.kills()).unwrap_or(u32::MAX)) / took * 10.0).round() / 10.0,
        "seed": seed,
    });
    if null_control {
        line["null_control"] = json!(true);
    }
    report::last_line(&line);
    // The null control proves that this run can tell: it holds if losses were found.
    Ok(count.holds() != null_control)
}
