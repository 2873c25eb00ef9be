//! Records one run of the writer.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail};
use tokio::process::Command;

use super::{
    Synchronous,
    disk::{Disk, Manner},
    journal::Record,
    marks,
};
use crate::chance::Chance;

/// The library that records; see there.
const SOURCE: &str = include_str!("../../power-cut/recorder.c");

/// What was recorded, and what was there in the end.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) journal: Vec<u8>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Recording {
    /// The journal explains every byte that is there in the end: no write went past the recorder.
    pub(crate) fn check(&self, records: &[Record<'_>]) -> anyhow::Result<()> {
        let mut disk = Disk::default();
        for record in records {
            disk.apply(*record);
        }
        let mut replayed: BTreeMap<PathBuf, Vec<u8>> =
            disk.cut(Manner::Kept, &mut Chance::new(0)).files.into_iter().collect();
        // Marks are records of their own kind.
        replayed.remove(Path::new(marks::FILE));
        if replayed.keys().ne(self.files.keys()) {
            bail!("the journal knows the files {:?}, and there are {:?}", replayed.keys(), self.files.keys());
        }
        match self.files.iter().find(|(path, content)| replayed.get(*path) != Some(content)) {
            Some((path, _)) => bail!("the journal does not explain what is in {}", path.display()),
            None => Ok(()),
        }
    }
}

/// Builds the recorder, and runs the writer under it; `None` where there is no C compiler.
pub(crate) async fn record(
    operations: usize,
    seed: u64,
    synchronous: Synchronous,
) -> anyhow::Result<Option<Recording>> {
    let around = tempfile::tempdir()?;
    let library = around.path().join("recorder.so");
    if !build(around.path(), &library).await? {
        return Ok(None);
    }
    let root = around.path().join("disk");
    fs::create_dir(&root)?;
    let journal = around.path().join("journal");
    let ended = Command::new(std::env::current_exe()?)
        .arg("power-cut-writer")
        .arg(&root)
        .args([operations.to_string(), seed.to_string(), synchronous.name().to_owned()])
        .env("LD_PRELOAD", &library)
        .env("VALETKEY_RECORD_ROOT", &root)
        .env("VALETKEY_RECORD_JOURNAL", &journal)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .context("the writer does not start")?;
    if !ended.success() {
        bail!("the writer failed: {ended}");
    }
    let journal = fs::read(journal).context("nothing was recorded: a static binary cannot be")?;
    let mut files = BTreeMap::new();
    read_files(&root, Path::new(""), &mut files)?;
    files.remove(Path::new(marks::FILE));
    Ok(Some(Recording { journal, files }))
}

fn read_files(root: &Path, below: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> anyhow::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            read_files(root, &path, files)?;
        } else if kind.is_file() {
            files.insert(path, fs::read(entry.path())?);
        }
    }
    Ok(())
}

async fn build(around: &Path, library: &Path) -> anyhow::Result<bool> {
    let source = around.join("recorder.c");
    fs::write(&source, SOURCE)?;
    let built = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-pthread", "-o"])
        .args([library, &source])
        .stdin(Stdio::null())
        .output()
        .await;
    let built = match built {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        built => built?,
    };
    if !built.status.success() {
        bail!("the recorder does not build: {}", String::from_utf8_lossy(&built.stderr));
    }
    Ok(true)
}
