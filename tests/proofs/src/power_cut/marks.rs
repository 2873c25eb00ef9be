//! Marks: what the writer says in the journal, in order with what it does to its files.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
};

use super::promises::Mark;

/// The name that the recorder knows: what is written to such a file is a mark.
pub(crate) const FILE: &str = "power-cut.marks";

/// An open file of marks.
#[derive(Debug)]
pub(crate) struct Marks(File);

impl Marks {
    pub(crate) fn open(root: &Path) -> std::io::Result<Self> {
        OpenOptions::new().append(true).create(true).open(root.join(FILE)).map(Self)
    }

    /// One mark is one write, and so one record.
    pub(crate) fn say(&self, mark: &Mark) -> std::io::Result<()> {
        (&self.0).write_all(&serde_json::to_vec(mark)?)
    }
}
