//! The one place that prints. Standard output carries data and nothing else; what people are told goes to standard
//! error.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use serde::Serialize;
use serde_json::Value;
use valetkey_core::{Clock, SystemClock};

use super::{
    arguments::Common,
    failure::{Exit, Failure},
    table::{Column, Look, Table},
};
use crate::Environment;

/// How this run prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    look: Look,
    err_is_terminal: bool,
}

impl Output {
    pub(crate) fn new(common: &Common, environment: &Environment) -> Self {
        let is_dumb = environment.get("TERM") == Some("dumb");
        let look = match (io::stdout().is_terminal() && !is_dumb, common.wide) {
            (false, _) => Look::Tabs,
            (true, false) => Look::Short,
            (true, true) => Look::Wide,
        };
        Self { json: common.json, look, err_is_terminal: io::stderr().is_terminal() && !is_dumb }
    }

    /// Prints what the API answered: as it is with `--json`, else as a table.
    pub(crate) fn show<T: Serialize>(self, value: &T, table: impl FnOnce() -> Table) -> Result<(), Failure> {
        if self.json {
            return print_json(value);
        }
        let table = table();
        if table.is_empty() {
            self.tell("nothing found");
            return Ok(());
        }
        print(&table.render(self.look, SystemClock::new().now()))
    }

    /// A list that is printed as its pages come.
    pub(crate) fn listing(self, columns: &'static [Column]) -> Listing {
        Listing { output: self, columns, printed: false, kept: Vec::new() }
    }

    /// Prints one value that is the whole answer, as a new key, or its object with `--json`.
    pub(crate) fn show_value<T: Serialize>(self, object: &T, value: &str) -> Result<(), Failure> {
        if self.json {
            return print_json(object);
        }
        print(&format!("{value}\n"))
    }

    /// Tells people something, beside the data.
    pub(crate) fn tell(self, text: &str) {
        if !self.json {
            complain(text);
        }
    }

    /// Tells people at a terminal something that no program reads.
    pub(crate) fn tell_at_terminal(self, text: &str) {
        if self.err_is_terminal {
            self.tell(text);
        }
    }

    /// Reports a failure, and gives the exit status for it.
    pub(crate) fn fail(self, failure: &Failure) -> ExitCode {
        if failure.exit == Exit::Done {
            return failure.exit.into();
        }
        if self.json {
            complain(&failure.problem.to_string());
        } else {
            complain(&failure.to_text());
        }
        failure.exit.into()
    }
}

/// A list on its way out. A pipe gets each page at once, so that a long list needs no room; a table is aligned, so it
/// waits for the last one.
#[derive(Debug)]
pub(crate) struct Listing {
    output: Output,
    columns: &'static [Column],
    printed: bool,
    kept: Vec<Value>,
}

impl Listing {
    /// Takes a page.
    pub(crate) fn page(&mut self, objects: Vec<Value>) -> Result<(), Failure> {
        if self.output.json {
            for object in &objects {
                let text = serde_json::to_string_pretty(object).map_err(io::Error::other)?;
                let before = if self.printed { ",\n" } else { "[\n" };
                self.printed = true;
                print(&format!("{before}{text}"))?;
            }
        } else if self.output.look == Look::Tabs {
            self.printed |= !objects.is_empty();
            let now = SystemClock::new().now();
            print(&Table::of(self.columns, &objects).render(Look::Tabs, now))?;
        } else {
            self.kept.extend(objects);
        }
        Ok(())
    }

    /// There are no more pages.
    pub(crate) fn end(self) -> Result<(), Failure> {
        match (self.output.json, self.printed) {
            (true, true) => print("\n]\n"),
            (true, false) => print("[]\n"),
            (false, true) => Ok(()),
            (false, false) => self.output.show(&(), || Table::of(self.columns, &self.kept)),
        }
    }
}

/// Prints JSON, whatever was asked for.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    text.push('\n');
    print(&text)
}

/// Prints a text as it is.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::nobody_reads()),
        other => Ok(other?),
    }
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
