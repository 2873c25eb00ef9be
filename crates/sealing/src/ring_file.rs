//! The key ring's file: how it is read, written and refused.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use rustix::{
    fs::{CWD, Mode, OFlags, RenameFlags},
    io::Errno,
};
use valetkey_core::Entropy;
use zeroize::{Zeroize, Zeroizing};

/// A key ring of a dozen keys has 3 KiB; what is larger than this is something else.
const SIZE_MAX: u64 = 64 * 1024;

/// Why a key ring could not be used or made. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// There is no such file.
    #[error("there is no key ring at {path}; restore it from its backup: what is stored cannot be opened without it")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A key ring was to be made where a file is.
    #[error("there is already a file at {path}; a key ring is never overwritten: move the file away, or use it")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A directory, link, pipe or device.
    #[error("the key ring {path} is not a regular file; name the file itself, links are not followed")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may read or write it.
    #[error(
        "the key ring {path} has mode {mode:04o} and is open to others than its owner; run `chmod 600 {path}`, \
         and replace its keys if others may have read them"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The operating system refused to read.
    #[error("the key ring {path} cannot be read; check that it belongs to the user that runs the service")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The operating system refused to write.
    #[error("the key ring {path} cannot be written; check space and permissions of its directory")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Written by another version.
    #[error("the key ring {path} has format {format}, and this version knows format 1; use the version that wrote it")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// Not what was written.
    #[error("the key ring {path} is damaged or was edited: {detail}; restore it from its backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, without any of the content.
        detail: String,
    },
    /// The key ring of another database.
    #[error(
        "the key ring {path} belongs to instance `{ring}`, and the database to instance `{database}`; \
         use the key ring and the database of one instance together"
    )]
    ForeignInstance {
        /// The file.
        path: PathBuf,
        /// The instance in the key ring.
        ring: String,
        /// The instance in the database.
        database: String,
    },
    /// A key that was given as text is none.
    #[error("a key-encryption key is 32 bytes in base64, as `openssl rand -base64 32` prints them")]
    NotAKey,
}

/// Reads the whole file, if it is one that only its owner may read.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<String>, KeyRingError> {
    let failed = |source: io::Error| match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => KeyRingError::Missing { path: path.to_owned() },
        Some(Errno::LOOP) => KeyRingError::NotAFile { path: path.to_owned() },
        _ => KeyRingError::Read { path: path.to_owned(), source },
    };
    // NONBLOCK: opening a pipe must not wait for its writer. What was opened is what is checked and read.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(KeyRingError::NotAFile { path: path.to_owned() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyRingError::Exposed { path: path.to_owned(), mode });
    }
    let damaged = |detail: &str| KeyRingError::Damaged { path: path.to_owned(), detail: detail.to_owned() };
    let length = metadata.len();
    if length > SIZE_MAX {
        return Err(damaged("it is far longer than any key ring"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    (&file).take(SIZE_MAX).read_to_end(&mut bytes).map_err(failed)?;
    String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|error| {
        error.into_bytes().zeroize();
        damaged("it is not text")
    })
}

/// Writes a new file with mode 0600 that is there whole or not at all, also after a power cut.
pub(crate) fn create(path: &Path, content: &[u8], entropy: &dyn Entropy) -> Result<(), KeyRingError> {
    let failed = |source: io::Error| KeyRingError::Write { path: path.to_owned(), source };
    if path.symlink_metadata().is_ok() {
        return Err(KeyRingError::Exists { path: path.to_owned() });
    }
    let (directory, temporary) = beside(path, entropy);
    let result = write_new(&temporary, content)
        .and_then(|()| rename_new(&temporary, path))
        .and_then(|()| File::open(directory)?.sync_all());
    result.map_err(|source| {
        // Nothing to say if it is not there: it may have failed to be made, or have its name already.
        let _ = fs::remove_file(&temporary);
        if source.kind() == io::ErrorKind::AlreadyExists {
            KeyRingError::Exists { path: path.to_owned() }
        } else {
            failed(source)
        }
    })
}

/// Writes the file in place of the one that is there, whole or not at all, also after a power cut.
pub(crate) fn replace(path: &Path, content: &[u8], entropy: &dyn Entropy) -> Result<(), KeyRingError> {
    let (directory, temporary) = beside(path, entropy);
    let result = write_new(&temporary, content)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| File::open(directory)?.sync_all());
    result.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        KeyRingError::Write { path: path.to_owned(), source }
    })
}

/// The directory of a file, and a name in it that nothing has.
fn beside<'p>(path: &'p Path, entropy: &dyn Entropy) -> (&'p Path, PathBuf) {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut random = [0; 8];
    entropy.fill(&mut random);
    (directory, directory.join(format!(".key-ring-{}.new", HEXLOWER.encode(&random))))
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(content)?;
    file.sync_all()
}

/// Renames without replacing: two processes that start at once must not each go on with keys of their own.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without this flag: a second name never replaces anything either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}
