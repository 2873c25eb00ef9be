//! Nothing that was acknowledged is lost when the power goes, on SQLite.
//!
//! The real service runs once as a child process under a recorder that writes down every change to its files, every sync and
//! every acknowledgement, in order. The proof then cuts the power at many places of that record, builds what a disk may
//! hold there (`disk`), opens it with the real service and looks for everything that had been acknowledged. With
//! `--synchronous normal` the same run is the null control: SQLite then acknowledges before it syncs, and the proof has to
//! find losses.

mod disk;
mod inspect;
mod journal;
mod marks;
mod operator;
mod promises;
mod provider;
mod recorder;
mod writer;

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::task::JoinSet;

pub(crate) use self::writer::{PowerCutWriter, run as write};
use self::{
    disk::{Disk, Manner},
    inspect::{Findings, inspect},
    journal::Record,
    promises::{Mark, Promises},
};
use crate::{
    chance::Chance,
    report::{Table, last_line, progress},
};

/// How many rebuilt services are inspected at once.
const AT_ONCE: usize = 4;

/// How many findings are told in words.
const TOLD: usize = 10;

/// Cuts the power at many places of a recorded run.
#[derive(Debug, Args)]
pub(crate) struct PowerCut {
    /// How many cuts.
    #[arg(long, default_value_t = 500)]
    cuts: usize,
    /// What the places, and what remains, are drawn from; a new one if absent.
    #[arg(long)]
    seed: Option<u64>,
    /// How SQLite commits; `normal` is the null control, which has to lose something.
    #[arg(long, value_enum, default_value_t = Synchronous::Full)]
    synchronous: Synchronous,
    /// How many acknowledged operations are recorded; as many as suit the cuts if absent.
    #[arg(long)]
    operations: Option<usize>,
}

/// SQLite's `synchronous`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Synchronous {
    /// A commit is synced before it is acknowledged: what the service sets.
    Full,
    /// Only checkpoints are synced.
    Normal,
}

impl Synchronous {
    fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Normal => "normal",
        }
    }
}

/// What came of the cuts of one manner.
#[derive(Debug, Default)]
struct Row {
    cuts: usize,
    unsynced: usize,
    acknowledged: usize,
    lost: usize,
    unreadable: usize,
    damaged: usize,
}

impl Row {
    fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.unsynced += other.unsynced;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.unreadable += other.unreadable;
        self.damaged += other.damaged;
    }

    fn cells(&self, name: &str) -> Vec<String> {
        let numbers = [self.cuts, self.unsynced, self.acknowledged, self.lost, self.unreadable, self.damaged];
        std::iter::once(name.to_owned()).chain(numbers.map(|number| number.to_string())).collect()
    }
}

/// Runs the proof, prints its table and its last line.
pub(crate) async fn prove(settings: &PowerCut) -> anyhow::Result<bool> {
    let seed = settings.seed.unwrap_or_else(Chance::any_seed);
    let operations = settings.operations.unwrap_or_else(|| (settings.cuts * 3).clamp(80, 1_200));
    let Some(recording) = recorder::record(operations, seed, settings.synchronous).await? else {
        return skip();
    };
    let records = journal::parse(&recording.journal)?;
    recording.check(&records)?;
    let marks = read_marks(&records)?;
    tell_recording(&records, &marks, operations, settings.synchronous);
    let rows = cut_all(&records, &marks, settings.cuts, seed).await?;
    Ok(report(&rows, settings, seed))
}

#[expect(clippy::disallowed_methods, reason = "a test run says so in its environment alone")]
fn skip() -> anyhow::Result<bool> {
    if std::env::var_os("VALETKEY_TEST_FULL").is_some_and(|value| value == "1") {
        bail!("there is no C compiler `cc` to build the recorder with, and this run may leave nothing out");
    }
    progress("skipped: there is no C compiler `cc` to build the recorder with");
    last_line(&json!({ "proof": "power-cut", "skipped": "no cc" }));
    Ok(true)
}

/// The marks by their place in the journal.
fn read_marks(records: &[Record<'_>]) -> anyhow::Result<BTreeMap<usize, Mark>> {
    let marked = records.iter().enumerate().filter_map(|(place, record)| match record {
        Record::Marked { text } => Some((place, *text)),
        _ => None,
    });
    marked.map(|(place, text)| Ok((place, serde_json::from_str(text).context("a mark that cannot be read")?))).collect()
}

/// Where the power is cut: behind how many records. Most cuts are near an acknowledgement, where a missing sync shows, and
/// some before the first one: a service that was being founded has to start, too.
fn places(records: &[Record<'_>], marks: &BTreeMap<usize, Mark>, cuts: usize, chance: &mut Chance) -> Vec<usize> {
    let promises: Vec<usize> = marks.iter().filter(|(_, mark)| mark.is_promise()).map(|(place, _)| *place).collect();
    let founded = promises.first().copied().unwrap_or(records.len());
    let mut places: Vec<usize> = (0..cuts)
        .map(|_| {
            let after = chance.one_of(&promises).map_or(0, |place| place + 1);
            match chance.below(10) {
                0..5 => after,
                5..7 => (after + chance.index(24)).saturating_sub(12).min(records.len()),
                7..9 => chance.index(records.len() + 1),
                _ => chance.index(founded + 1),
            }
        })
        .collect();
    places.sort_unstable();
    places
}

async fn cut_all(
    records: &[Record<'_>],
    marks: &BTreeMap<usize, Mark>,
    cuts: usize,
    seed: u64,
) -> anyhow::Result<BTreeMap<Manner, Row>> {
    let mut chance = Chance::new(seed);
    let mut disk = Disk::default();
    let mut promises = Promises::default();
    let mut tally = Tally::default();
    let mut under_way: JoinSet<anyhow::Result<(usize, Manner, Findings)>> = JoinSet::new();
    let mut applied = 0;
    for place in places(records, marks, cuts, &mut chance) {
        for (number, record) in records.iter().enumerate().take(place).skip(applied) {
            disk.apply(*record);
            if let Some(mark) = marks.get(&number) {
                promises.note(mark);
            }
        }
        applied = place;
        let manner = chance.one_of(&Manner::ALL).copied().unwrap_or(Manner::Dropped);
        tally.cut(manner, disk.unsynced());
        let image = disk.cut(manner, &mut chance);
        let promises = promises.clone();
        under_way.spawn(async move { Ok((place, manner, inspect(image, promises).await?)) });
        if under_way.len() >= AT_ONCE
            && let Some(ended) = under_way.join_next().await
        {
            let (place, manner, findings) = ended??;
            tally.note(place, manner, &findings);
        }
    }
    while let Some(ended) = under_way.join_next().await {
        let (place, manner, findings) = ended??;
        tally.note(place, manner, &findings);
    }
    Ok(tally.rows)
}

/// What came of the cuts so far.
#[derive(Debug, Default)]
struct Tally {
    rows: BTreeMap<Manner, Row>,
    told: usize,
}

impl Tally {
    fn cut(&mut self, manner: Manner, unsynced: usize) {
        let row = self.rows.entry(manner).or_default();
        row.cuts += 1;
        row.unsynced += unsynced;
    }

    fn note(&mut self, place: usize, manner: Manner, findings: &Findings) {
        let row = self.rows.entry(manner).or_default();
        row.acknowledged += findings.checked;
        row.lost += findings.lost.len();
        row.unreadable += findings.unreadable.len();
        row.damaged += usize::from(!findings.damaged.is_empty());
        for what in findings.all().take(TOLD.saturating_sub(self.told)) {
            self.told += 1;
            progress(&format!("after record {place}, {}: {what}", manner.name()));
        }
    }
}

fn tell_recording(records: &[Record<'_>], marks: &BTreeMap<usize, Mark>, operations: usize, synchronous: Synchronous) {
    let syncs = records.iter().filter(|record| matches!(record, Record::Synced { .. })).count();
    let promises = marks.values().filter(|mark| mark.is_promise()).count();
    progress(&format!(
        "recorded {operations} operations with synchronous={}: {} records, {syncs} syncs, {promises} acknowledgements",
        synchronous.name(),
        records.len(),
    ));
    if synchronous == Synchronous::Normal {
        progress("this is the null control: it has to find losses");
    }
}

fn report(rows: &BTreeMap<Manner, Row>, settings: &PowerCut, seed: u64) -> bool {
    let header = ["what was not synced", "cuts", "its bytes", "acknowledged", "lost", "unreadable", "damaged"];
    let mut table = Table::new(&header);
    let mut total = Row::default();
    for (manner, row) in rows {
        total.add(row);
        table.row(row.cells(manner.name()));
    }
    table.row(total.cells("all"));
    table.print();
    let is_null_control = settings.synchronous == Synchronous::Normal;
    let mut last = json!({
        "proof": "power-cut",
        "cuts": total.cuts,
        "acknowledged": total.acknowledged,
        "lost": total.lost,
        "unreadable": total.unreadable,
        "damaged_databases": total.damaged,
        "seed": seed,
    });
    if is_null_control {
        last["null_control"] = true.into();
    }
    last_line(&last);
    if is_null_control {
        total.lost > 0
    } else {
        total.acknowledged > 0 && total.lost == 0 && total.unreadable == 0 && total.damaged == 0
    }
}
