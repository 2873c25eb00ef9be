//! What all rounds came to.

use std::collections::BTreeMap;

use super::plan::{Cell, Point};
use crate::{
    oracle::{Fate, Finding},
    report::{self, Table},
    world::Class,
};

/// How many findings are told in words.
const TOLD: usize = 20;

/// What was counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) kills: usize,
    pub(crate) kept: usize,
    pub(crate) taken_back: usize,
    pub(crate) unavoidable: usize,
    pub(crate) stopped: usize,
    pub(crate) avoidable: usize,
    pub(crate) unexplained: usize,
    pub(crate) stuck: usize,
    pub(crate) second_presentations: usize,
    pub(crate) unrecorded: i64,
    /// Refreshes that never came to the boundary.
    pub(crate) missed: usize,
}

impl Counts {
    /// Whether what has to be zero is zero.
    pub(crate) fn holds(&self) -> bool {
        self.failures() == 0 && self.unrecorded == 0
    }

    fn failures(&self) -> usize {
        self.avoidable + self.unexplained + self.stuck + self.second_presentations
    }

    fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.kept += other.kept;
        self.taken_back += other.taken_back;
        self.unavoidable += other.unavoidable;
        self.stopped += other.stopped;
        self.avoidable += other.avoidable;
        self.unexplained += other.unexplained;
        self.stuck += other.stuck;
        self.second_presentations += other.second_presentations;
        self.unrecorded += other.unrecorded;
        self.missed += other.missed;
    }
}

/// The counts of each cell.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    by_cell: BTreeMap<(&'static str, Class), Counts>,
    told: usize,
}

impl Tally {
    fn cell(&mut self, cell: Cell) -> &mut Counts {
        self.by_cell.entry((cell.point.as_str(), cell.class)).or_default()
    }

    pub(crate) fn killed(&mut self, cell: Cell) {
        self.cell(cell).kills += 1;
    }

    pub(crate) fn missed_it(&mut self, cell: Cell) {
        self.cell(cell).missed += 1;
    }

    pub(crate) fn stuck(&mut self, cell: Cell, why: &str) {
        self.cell(cell).stuck += 1;
        self.tell(cell, &format!("stuck: {why}"));
    }

    /// Counts what was found out about a connection, of the cell's class, that was there when the broker died.
    pub(crate) fn found(&mut self, cell: Cell, finding: &Finding) {
        let counts = self.cell(cell);
        counts.second_presentations += finding.second_presentations.len();
        counts.unrecorded += finding.unrecorded;
        let mut told: Vec<String> =
            finding.second_presentations.iter().map(|what| format!("second presentation: {what}")).collect();
        match &finding.fate {
            Fate::Kept => counts.kept += 1,
            Fate::TakenBack => counts.taken_back += 1,
            Fate::Unavoidable => counts.unavoidable += 1,
            Fate::Stopped => counts.stopped += 1,
            Fate::Avoidable(why) => {
                counts.avoidable += 1;
                told.push(format!("avoidable loss: {why}"));
            }
            Fate::Unexplained(why) => {
                counts.unexplained += 1;
                told.push(format!("unexplained: {why}"));
            }
        }
        if finding.unrecorded > 0 {
            told.push(format!("{} presentations without a record", finding.unrecorded));
        }
        for what in told {
            self.tell(cell, &what);
        }
    }

    fn tell(&mut self, cell: Cell, what: &str) {
        if self.told < TOLD {
            report::progress(&format!("{} at {}: {what}", cell.class.as_str(), cell.point.as_str()));
        }
        self.told += 1;
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (cell, counts) in other.by_cell {
            self.by_cell.entry(cell).or_default().add(&counts);
        }
    }

    pub(crate) fn sums(&self) -> Counts {
        let mut sums = Counts::default();
        self.by_cell.values().for_each(|counts| sums.add(counts));
        sums
    }

    pub(crate) fn kills(&self) -> usize {
        self.sums().kills
    }

    pub(crate) fn missed(&self) -> usize {
        self.sums().missed
    }

    /// A line for each boundary and class: kills that waited for a connection of that class, and how all connections of
    /// that class came out of kills at that boundary.
    pub(crate) fn print(&self) {
        let mut table = Table::new(&[
            "killed at",
            "class",
            "kills",
            "kept",
            "taken back",
            "unavoidable",
            "stopped",
            "avoidable",
            "unexplained",
            "stuck",
            "second",
        ]);
        for point in Point::all() {
            for class in Class::ALL {
                let Some(counts) = self.by_cell.get(&(point.as_str(), class)) else { continue };
                table.row(cells(point.as_str(), class.as_str(), counts));
            }
        }
        table.row(cells("all", "", &self.sums()));
        table.print();
    }
}

fn cells(point: &str, class: &str, counts: &Counts) -> Vec<String> {
    let numbers = [
        counts.kills,
        counts.kept,
        counts.taken_back,
        counts.unavoidable,
        counts.stopped,
        counts.avoidable,
        counts.unexplained,
        counts.stuck,
        counts.second_presentations,
    ];
    let names = [point.to_owned(), class.to_owned()];
    names.into_iter().chain(numbers.iter().map(ToString::to_string)).collect()
}
