//! What a proof says: progress for people, a table, and one last line for machines.

use std::fmt::Write as _;

use serde_json::Value;

/// A line about how it goes, on standard error.
#[expect(clippy::print_stderr, reason = "progress is for whoever watches")]
pub(crate) fn progress(line: &str) {
    eprintln!("{line}");
}

/// The last line of a proof.
#[expect(clippy::print_stdout, reason = "the line is what the command is for")]
pub(crate) fn last_line(line: &Value) {
    println!("{line}");
}

/// A table on standard output, its first column to the left, the others to the right.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    #[expect(clippy::print_stdout, reason = "the table is what the command is for")]
    pub(crate) fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                let _ = if column == 0 { write!(line, "{cell:<width$}") } else { write!(line, "  {cell:>width$}") };
            }
            println!("{}", line.trim_end());
        }
    }
}
