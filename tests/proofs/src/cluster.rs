//! A PostgreSQL of the proof's own, to be stopped and started at will.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

/// How often another port is tried: only the server itself can tell whether one is free.
const PORTS: u32 = 5;

/// A private cluster on loopback; it is stopped and removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    programs: PathBuf,
    directory: PathBuf,
    port: u16,
}

impl Cluster {
    /// Makes and starts one; `None` where PostgreSQL is not installed.
    pub(crate) fn start() -> anyhow::Result<Option<Self>> {
        let Some(programs) = programs() else { return Ok(None) };
        let made = as_postgres("mktemp").arg("--directory").output()?;
        anyhow::ensure!(made.status.success(), "no directory for PostgreSQL");
        let directory = PathBuf::from(String::from_utf8(made.stdout)?.trim_end());
        let mut cluster = Self { programs, directory, port: 0 };
        let data = cluster.data();
        cluster.run("initdb", |command| {
            command.arg("--pgdata").arg(&data).args(["--username=valetkey", "--auth=trust", "--encoding=UTF8"]);
            command.arg("--locale=C");
        })?;
        for _ in 0..PORTS {
            cluster.port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            if cluster.start_again().is_ok() {
                return Ok(Some(cluster));
            }
        }
        bail!("PostgreSQL does not start")
    }

    /// Its address, with a database that is always there.
    pub(crate) fn url(&self) -> String {
        format!("postgres://valetkey@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts what was stopped.
    pub(crate) fn start_again(&self) -> anyhow::Result<()> {
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories= -c fsync=on -c synchronous_commit=on",
            self.port
        );
        let (data, log) = (self.data(), self.directory.join("log"));
        self.run("pg_ctl", |command| {
            command.args(["start", "--silent", "--wait", "--pgdata"]).arg(&data).arg("--log").arg(&log);
            command.arg("--options").arg(&options);
        })
    }

    /// Ends it as a crash does: without a word to whoever is connected, and with recovery at the next start.
    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        let data = self.data();
        self.run("pg_ctl", |command| {
            command.args(["stop", "--silent", "--wait", "--mode=immediate", "--pgdata"]).arg(&data);
        })
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn run(&self, program: &str, arguments: impl FnOnce(&mut Command)) -> anyhow::Result<()> {
        let mut command = as_postgres(self.programs.join(program));
        // The server inherits what it may write to: it must not keep our output open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir(&self.directory);
        arguments(&mut command);
        let status = command.status().with_context(|| format!("{program} cannot be run"))?;
        anyhow::ensure!(status.success(), "{program}: {status}");
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It may be stopped already.
        let _ = self.stop();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if rustix::process::getuid().is_root() {
        let mut command = Command::new("runuser");
        command.args(["--user", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// The folder of the newest server programs: Debian keeps them off the path.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    let debian = newest.map(|version| Path::new("/usr/lib/postgresql").join(version.to_string()).join("bin"));
    let usual = ["/usr/local/bin", "/usr/bin"].into_iter().map(PathBuf::from);
    debian.into_iter().chain(usual).find(|folder| folder.join("initdb").exists())
}
