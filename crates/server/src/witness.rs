//! The witness: a file outside of the database that repeats its instance and epoch.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, OFlags};
use serde::{Deserialize, Serialize};
use valetkey_broker::{Testimony, Witnessed};

/// The file's name in its directory.
pub(crate) const WITNESS_FILE: &str = "witness.json";

/// What is written before it takes the file's name.
const NEW_FILE: &str = "witness.json.new";

/// No witness is longer.
const LENGTH_MAX: u64 = 4096;

/// The witness could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("guard.witness_dir: the witness {path} cannot be kept; the user of the service must be able to write there")]
pub struct WitnessError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u8,
    instance: String,
    epoch: i64,
}

/// A directory in which a witness is kept. Every call blocks for the disk.
#[derive(Debug, Clone)]
pub(crate) struct WitnessFile {
    directory: PathBuf,
}

impl WitnessFile {
    /// A witness in this directory, which is made if it is not there.
    pub(crate) fn at(directory: &Path) -> Result<Self, WitnessError> {
        let witness = Self { directory: directory.to_owned() };
        make(directory, &mut |made_in| File::open(made_in)?.sync_all()).map_err(|source| witness.failed(source))?;
        Ok(witness)
    }

    /// What it says.
    pub(crate) fn read(&self) -> Result<Testimony, WitnessError> {
        let held = self.hold().map_err(|source| self.failed(source))?;
        self.read_held(&held).map_err(|source| self.failed(source))
    }

    /// Writes it durably: after a power cut it says what it said before or what is written now. One that says a later
    /// epoch of the same instance stays: another replica on this machine wrote it.
    pub(crate) fn write(&self, witnessed: &Witnessed) -> Result<(), WitnessError> {
        self.write_whole(witnessed).map_err(|source| self.failed(source))
    }

    fn write_whole(&self, witnessed: &Witnessed) -> io::Result<()> {
        let directory = self.hold()?;
        if let Testimony::Saw(saw) = self.read_held(&directory)?
            && saw.instance == witnessed.instance
            && saw.epoch >= witnessed.epoch
        {
            return Ok(());
        }
        let written = Written { version: 1, instance: witnessed.instance.clone(), epoch: witnessed.epoch };
        let new = self.directory.join(NEW_FILE);
        // One that a power cut left behind; a link with this name is removed, not followed.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        serde_json::to_writer(&mut file, &written)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, self.path())?;
        directory.sync_all()
    }

    fn read_held(&self, _directory: &File) -> io::Result<Testimony> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(self.path());
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Testimony::Absent),
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        match file.take(LENGTH_MAX).read_to_string(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Testimony::Unreadable),
            Err(error) => return Err(error),
        }
        Ok(match serde_json::from_str::<Written>(&text) {
            Ok(Written { version: 1, instance, epoch }) => Testimony::Saw(Witnessed { instance, epoch }),
            Ok(_) | Err(_) => Testimony::Unreadable,
        })
    }

    /// Opens the directory for one reader or writer at a time.
    fn hold(&self) -> io::Result<File> {
        let directory = File::open(&self.directory)?;
        rustix::fs::flock(&directory, FlockOperation::LockExclusive)?;
        Ok(directory)
    }

    fn path(&self) -> PathBuf {
        self.directory.join(WITNESS_FILE)
    }

    pub(crate) fn failed(&self, source: io::Error) -> WitnessError {
        WitnessError { path: self.path(), source }
    }
}

/// Makes a directory and those above it, and syncs each in which one was made: a witness that a power cut takes away with
/// its directory is as good as none.
fn make(directory: &Path, sync: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    if directory.exists() {
        return Ok(());
    }
    // `a/b` lies in `a`, and `a` in where the process stands.
    let parent = match directory.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    make(parent, sync)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        // Another replica on this machine was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    sync(parent)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn saw(instance: &str, epoch: i64) -> Witnessed {
        Witnessed { instance: instance.to_owned(), epoch }
    }

    #[test]
    fn it_says_what_was_written_last_in_a_private_file_and_leaves_nothing_beside_it() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a").join("b");
        let witness = WitnessFile::at(&directory).unwrap();
        assert_eq!(witness.read().unwrap(), Testimony::Absent);
        for epoch in [1, 2] {
            witness.write(&saw("one", epoch)).unwrap();
            assert_eq!(witness.read().unwrap(), Testimony::Saw(saw("one", epoch)));
        }
        assert_eq!(fs::metadata(witness.path()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn every_directory_in_which_one_was_made_is_synced() {
        let parent = tempfile::tempdir().unwrap();
        let top = parent.path().to_owned();
        let mut synced = Vec::new();
        let mut sync = |directory: &Path| {
            synced.push(directory.to_owned());
            Ok(())
        };
        make(&top.join("a/b/c"), &mut sync).unwrap();
        make(&top.join("a/b/c"), &mut sync).unwrap();
        make(&top.join("a/d"), &mut sync).unwrap();
        assert_eq!(synced, [top.clone(), top.join("a"), top.join("a/b"), top.join("a")]);
        assert!(top.join("a/b/c").is_dir() && top.join("a/d").is_dir());
    }

    #[test]
    fn it_never_goes_back_but_for_another_instance() {
        let directory = tempfile::tempdir().unwrap();
        let witness = WitnessFile::at(directory.path()).unwrap();
        witness.write(&saw("one", 9)).unwrap();
        witness.write(&saw("one", 8)).unwrap();
        assert_eq!(witness.read().unwrap(), Testimony::Saw(saw("one", 9)));
        witness.write(&saw("two", 1)).unwrap();
        assert_eq!(witness.read().unwrap(), Testimony::Saw(saw("two", 1)));
    }

    #[test]
    fn what_cannot_be_read_is_told_apart_from_what_is_not_there_and_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let witness = WitnessFile::at(directory.path()).unwrap();
        let longer = format!("{{\"version\":1,\"instance\":\"{}\",\"epoch\":1}}", "x".repeat(5_000));
        for damaged in
            [&b""[..], b"{", b"\xff\xfe", b"{\"version\":2,\"instance\":\"a\",\"epoch\":1}", longer.as_bytes()]
        {
            fs::write(witness.path(), damaged).unwrap();
            assert_eq!(witness.read().unwrap(), Testimony::Unreadable, "{damaged:?}");
        }
        witness.write(&saw("one", 1)).unwrap();
        assert_eq!(witness.read().unwrap(), Testimony::Saw(saw("one", 1)));
    }

    #[test]
    fn a_half_written_one_is_not_believed_and_no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let witness = WitnessFile::at(directory.path()).unwrap();
        witness.write(&saw("one", 1)).unwrap();
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "mine").unwrap();
        symlink(&elsewhere, directory.path().join(NEW_FILE)).unwrap();
        assert_eq!(witness.read().unwrap(), Testimony::Saw(saw("one", 1)));
        witness.write(&saw("one", 2)).unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "mine");
        fs::remove_file(witness.path()).unwrap();
        symlink(&elsewhere, witness.path()).unwrap();
        assert!(witness.read().is_err());
    }

    #[test]
    fn a_place_that_takes_no_files_is_said_by_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let refused = WitnessFile::at(&file).and_then(|witness| witness.read()).unwrap_err();
        assert!(refused.to_string().contains("guard.witness_dir"), "{refused}");
    }
}
