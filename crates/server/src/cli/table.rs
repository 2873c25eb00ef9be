//! Tables: for a terminal with headings and short values, for a pipe with tabs and full values.

use comfy_table::{ContentArrangement, presets};
use serde_json::Value;
use valetkey_core::Timestamp;

/// How a table looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Headings, aligned, shortened.
    Short,
    /// Headings, aligned, whole.
    Wide,
    /// One row a line, fields between tabs, no headings, whole.
    Tabs,
}

/// How long a value may be in a short table.
const SHORT: usize = 48;

/// What stands in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text, numbers, lists.
    Plain,
    /// Text that is never shortened.
    Whole,
    /// An instant; in a short table, how long ago or until then.
    Time,
}

/// A column: its heading, where its value is in the object, and what it is.
pub(crate) type Column = (&'static str, &'static str, Kind);

/// Rows of objects, seen through columns.
#[derive(Debug)]
pub(crate) struct Table {
    columns: &'static [Column],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// The objects as rows.
    pub(crate) fn of<'a>(columns: &'static [Column], objects: impl IntoIterator<Item = &'a Value>) -> Self {
        let rows = objects
            .into_iter()
            .map(|object| columns.iter().map(|(_, path, _)| cell(find(object, path))).collect())
            .collect();
        Self { columns, rows }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text that ends with a line end.
    pub(crate) fn render(&self, look: Look, now: Timestamp) -> String {
        if look == Look::Tabs {
            return self.rows.iter().map(|row| row.join("\t") + "\n").collect();
        }
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.columns.iter().map(|(heading, ..)| *heading));
        for row in &self.rows {
            let cells = row.iter().zip(self.columns).map(|(text, (_, _, kind))| match (look, kind) {
                (Look::Short, Kind::Time) => relative(text, now),
                (Look::Short, Kind::Plain) => shortened(text),
                _ => text.clone(),
            });
            table.add_row(cells);
        }
        table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

fn find<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(object, |value, name| &value[name])
}

/// A value as one line without anything that a terminal would obey: names come from people and from providers.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    text.replace(|letter: char| letter.is_control(), "\u{fffd}")
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHORT) {
        Some(_) => text.chars().take(SHORT - 1).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

fn relative(text: &str, now: Timestamp) -> String {
    let Some(at) = Timestamp::from_rfc3339(text) else {
        return text.to_owned();
    };
    let (span, is_past) = if at <= now { (now.since(at), true) } else { (at.since(now), false) };
    let seconds = span.as_secs();
    let amount = match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    };
    if is_past { format!("{amount} ago") } else { format!("in {amount}") }
}
