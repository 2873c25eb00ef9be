//! The operator's socket: a way in for the user that runs the service, and for nobody else.

use std::{
    fs, io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use axum::serve::Listener;
use tokio::net::{UnixListener, UnixStream, unix::SocketAddr};

use crate::{DataDir, data_dir::socket_path};

/// How long an address of a socket may be, less some room.
const ADDRESS_MAX: usize = 100;

/// A socket that takes connections of this user and of root alone.
#[derive(Debug)]
pub(crate) struct OperatorSocket {
    listener: UnixListener,
    path: PathBuf,
    user: u32,
}

impl OperatorSocket {
    /// Listens in a directory that this process holds: what lies there under the name was left by one that is gone.
    pub(crate) fn listen(data_dir: &DataDir) -> io::Result<Self> {
        let path = socket_path(data_dir.path());
        match fs::symlink_metadata(&path) {
            Ok(left) if left.file_type().is_socket() => fs::remove_file(&path)?,
            Ok(_) => return Err(io::Error::other("something that is no socket has its name")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = with_short_path(&path, |short| UnixListener::bind(short))?;
        // The directory is closed to others anyway, so nobody was faster.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path, user: rustix::process::geteuid().as_raw() })
    }

    fn is_welcome(&self, stream: &UnixStream) -> bool {
        match stream.peer_cred() {
            Ok(peer) => peer.uid() == self.user || peer.uid() == 0,
            Err(_) => false,
        }
    }
}

impl Listener for OperatorSocket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            if self.is_welcome(&stream) {
                return (stream, address);
            }
            tracing::warn!("refused a connection of another user at the operator's socket");
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Drop for OperatorSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Connects to whoever serves from a data directory; `None` if nobody does.
pub(crate) fn connect(data_dir: &Path) -> io::Result<Option<UnixStream>> {
    let path = socket_path(data_dir);
    let stream = match with_short_path(&path, |short| std::os::unix::net::UnixStream::connect(short)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream).map(Some)
}

/// An address has room for about a hundred bytes; a longer path is said by its open directory.
fn with_short_path<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return act(path);
    };
    if path.as_os_str().len() <= ADDRESS_MAX {
        return act(path);
    }
    let directory = fs::File::open(directory)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    act(&short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_private_and_leaves_nothing_behind_even_under_a_long_path() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["short".to_owned(), "long".repeat(50)] {
            let data_dir = DataDir::hold(&parent.path().join(name), "serve").unwrap();
            assert!(connect(data_dir.path()).unwrap().is_none());
            let mut socket = OperatorSocket::listen(&data_dir).unwrap();
            let path = socket_path(data_dir.path());
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let accepted = tokio::spawn(async move {
                Listener::accept(&mut socket).await;
            });
            assert!(connect(data_dir.path()).unwrap().is_some());
            tokio::time::timeout(std::time::Duration::from_secs(10), accepted).await.unwrap().unwrap();
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn what_a_killed_server_left_behind_is_replaced_and_anything_else_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = DataDir::hold(&parent.path().join("data"), "serve").unwrap();
        let path = socket_path(data_dir.path());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(connect(data_dir.path()).unwrap().is_none());
        drop(OperatorSocket::listen(&data_dir).unwrap());
        fs::write(&path, "mine").unwrap();
        assert!(OperatorSocket::listen(&data_dir).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
