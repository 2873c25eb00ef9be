//! The data directory: private, and held by one process at a time.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, OFlags};

/// The lock's file in the data directory.
const LOCK_FILE: &str = "valetkey.lock";

/// The operator's socket in the data directory.
const SOCKET_FILE: &str = "valetkey.sock";

/// Why a data directory could not be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be made.
    #[error("the data directory {path} cannot be made; check the directory above it, or name another with --data-dir")]
    Make {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is not a directory; name another with --data-dir")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Others than its owner may enter it.
    #[error(
        "the data directory {path} has mode {mode:04o} and is open to others; run `chmod 700 {path}`, or name a \
         directory inside of it with --data-dir: it is then made as it should be"
    )]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to another user.
    #[error(
        "the data directory {path} belongs to the user with id {owner}, and this process runs as {user}; run it as \
         that user, for what it would write now the service could not read"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// Another process holds it.
    #[error(
        "the data directory {path} is held by {holder}; on SQLite one process at a time may open it: stop that one, or \
         name another directory with --data-dir"
    )]
    Held {
        /// The directory.
        path: PathBuf,
        /// Who holds it, as `process 4711 (valetkey serve)`.
        holder: String,
    },
    /// The lock could not be taken for another reason.
    #[error("the data directory {path} cannot be locked; it must be on a file system with locks, and writable")]
    Lock {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A data directory that this process holds until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The lock goes with the open file, and so with the process, however it ends.
    lock: File,
}

impl DataDir {
    /// Makes it if it is not there, checks it and takes the lock. `holder` says what for, as `serve`.
    pub fn hold(path: &Path, holder: &str) -> Result<Self, DataDirError> {
        make(path)?;
        check(path)?;
        let lock = take_lock(path, holder)?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Only so that nobody reads a name that no longer holds it; the lock itself ends with the file.
        let _ = self.lock.set_len(0);
    }
}

/// The operator's socket of whoever serves from a directory.
pub(crate) fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET_FILE)
}

/// Checks a directory that is there: a directory, private, this user's own.
pub(crate) fn check(path: &Path) -> Result<(), DataDirError> {
    let path = path.to_owned();
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(source) => return Err(DataDirError::Make { path, source }),
    };
    if !metadata.is_dir() {
        return Err(DataDirError::NotADirectory { path });
    }
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(DataDirError::Foreign { path, owner, user });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(DataDirError::Open { path, mode });
    }
    Ok(())
}

fn make(path: &Path) -> Result<(), DataDirError> {
    // Not recursive where it is there: an existing directory is checked, never changed.
    if path.exists() {
        return Ok(());
    }
    let failed = |source: io::Error| DataDirError::Make { path: path.to_owned(), source };
    let missing: Vec<&Path> =
        path.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    for made in missing {
        sync_name(made).map_err(failed)?;
    }
    Ok(())
}

/// Keeps a new directory's name through a power cut. Whatever is synced inside of it is lost with its name, and nobody
/// below syncs further up than the data directory itself.
fn sync_name(made: &Path) -> io::Result<()> {
    let above = match made.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    File::open(above)?.sync_all()
}

fn take_lock(path: &Path, holder: &str) -> Result<File, DataDirError> {
    let failed = |source: io::Error| DataDirError::Lock { path: path.to_owned(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed())
        .open(path.join(LOCK_FILE))
        .map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = read_holder(&mut file);
            return Err(DataDirError::Held { path: path.to_owned(), holder });
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    let name = format!("{} valetkey {holder}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all(name.as_bytes())).map_err(failed)?;
    Ok(file)
}

fn read_holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(200).read_to_string(&mut text);
    let line = text.lines().next().unwrap_or_default();
    match line.split_once(' ') {
        Some((process, what)) if read.is_ok() && process.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("process {process} ({})", what.replace(|letter: char| letter.is_control(), " "))
        }
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn it_is_made_private_with_all_above_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a").join("b");
        let held = DataDir::hold(&path, "serve").unwrap();
        for made in [held.path(), path.parent().unwrap()] {
            assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700, "{}", made.display());
        }
        assert_eq!(fs::metadata(path.join(LOCK_FILE)).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o755, 0o750, 0o701] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            let refused = DataDir::hold(directory.path(), "serve").unwrap_err();
            assert!(matches!(refused, DataDirError::Open { .. }), "{refused}");
            assert!(refused.to_string().contains(&format!("{mode:04o}")), "{refused}");
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_second_holder_is_refused_by_the_name_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let first = DataDir::hold(directory.path(), "serve").unwrap();
        let refused = DataDir::hold(directory.path(), "keys list").unwrap_err().to_string();
        let name = format!("process {} (valetkey serve)", std::process::id());
        assert!(refused.contains(&name), "{refused}");
        drop(first);
        DataDir::hold(directory.path(), "keys list").unwrap();
    }

    #[test]
    fn a_file_or_a_link_in_the_way_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(DataDir::hold(&file, "serve"), Err(DataDirError::NotADirectory { .. })));
        let inner = directory.path().join("inner");
        DirBuilder::new().mode(0o700).create(&inner).unwrap();
        symlink(&file, inner.join(LOCK_FILE)).unwrap();
        assert!(matches!(DataDir::hold(&inner, "serve"), Err(DataDirError::Lock { .. })));
    }
}
