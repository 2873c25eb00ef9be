//! Tells the service manager how this process stands (`sd_notify(3)`), where one listens.

use std::os::unix::net::UnixDatagram;

use crate::Environment;

/// The variable that names the manager's socket.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// A way to the service manager.
#[derive(Debug, Default)]
pub(crate) struct Notify(Option<UnixDatagram>);

impl Notify {
    /// The manager that the environment names, if any.
    pub(crate) fn from_environment(environment: &Environment) -> Self {
        Self(environment.get(SOCKET_VARIABLE).and_then(|name| connect(name).ok()))
    }

    /// Tells a state, as `READY=1`. A manager that does not listen is none.
    pub(crate) fn tell(&self, state: &str) {
        if let Some(socket) = &self.0 {
            let _ = socket.send(state.as_bytes());
        }
    }
}

fn connect(name: &str) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match name.strip_prefix('@') {
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)?;
        }
        _ => socket.connect(name)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_the_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let environment = Environment::of([(SOCKET_VARIABLE, path.to_str().unwrap())]);
        Notify::from_environment(&environment).tell("READY=1");
        let mut heard = [0; 32];
        let length = manager.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"READY=1");
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        Notify::from_environment(&Environment::default()).tell("READY=1");
        Notify::from_environment(&Environment::of([(SOCKET_VARIABLE, "/nowhere/notify")])).tell("READY=1");
    }
}
