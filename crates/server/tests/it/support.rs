//! Runs the binary against a data directory of its own.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything here may take before the test fails.
const LIMIT: Duration = Duration::from_secs(30);

/// A place for one installation.
pub(crate) struct Home {
    directory: TempDir,
}

/// What a run of the binary left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Fails the test if the run failed.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path().join("data")
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("VALETKEY_DATA_DIR", self.data_dir())
            .env("VALETKEY__SERVER__LISTEN", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, &[], "")
    }

    /// Runs the binary with variables of the environment and something to read.
    pub(crate) fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Run {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied()).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A verb that reads nothing may be gone before all is written.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let id = Pid::from_child(&child);
        let (sender, ended) = channel();
        // Ends with the child.
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        let Ok(output) = ended.recv_timeout(LIMIT) else {
            let _ = kill_process(id, Signal::KILL);
            panic!("valetkey {arguments:?} does not end");
        };
        let output = output.unwrap();
        Run {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts the binary and kills it after a while, wherever it stands.
    pub(crate) fn kill_after(&self, arguments: &[&str], life: Duration) {
        let mut child = self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(life);
        // It may have ended by itself.
        let _ = child.kill();
        child.wait().unwrap();
    }

    /// Starts the service and waits until it listens.
    pub(crate) fn serve(&self) -> Serving {
        self.serve_with(&[])
    }

    pub(crate) fn serve_with(&self, variables: &[(&str, &str)]) -> Serving {
        let mut command = self.command(&["serve"]);
        command.env("VALETKEY__LOG__FORMAT", "json").envs(variables.iter().copied());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        // Ends with the child's standard error.
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut serving = Serving { child, lines, log: Vec::new(), address: SocketAddr::from(([0, 0, 0, 0], 0)) };
        let line = serving.wait_for("listens on");
        let line: Value = serde_json::from_str(&line).unwrap();
        serving.address = line["address"].as_str().unwrap().parse().unwrap();
        serving
    }

    /// Every file of the data directory with its content, without what comes and goes with a process.
    pub(crate) fn files(&self) -> Vec<(String, u32, Vec<u8>)> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.data_dir()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_file() && name != "valetkey.lock" {
                files.push((name, metadata.mode() & 0o777, fs::read(entry.path()).unwrap()));
            }
        }
        files.sort();
        files
    }
}

/// A running service. Killed when it is dropped.
pub(crate) struct Serving {
    child: Child,
    lines: Receiver<String>,
    pub(crate) log: Vec<String>,
    pub(crate) address: SocketAddr,
}

impl Serving {
    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).unwrap();
    }

    /// Waits for a line of the log.
    pub(crate) fn wait_for(&mut self, part: &str) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.log.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line with {part:?}; the log: {:#?}", self.log)
                }
            }
        }
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let until = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "it does not end; the log: {:#?}", self.log);
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut log = std::mem::take(&mut self.log);
        log.extend(self.lines.iter());
        (status, log)
    }

    /// Stops it as a service manager does.
    pub(crate) fn stop(self) -> Vec<String> {
        self.signal(Signal::TERM);
        let (status, log) = self.wait();
        assert!(status.success(), "{status}: {log:#?}");
        log
    }

    /// A GET over the network: status and body.
    pub(crate) fn get(&self, path: &str, key: Option<&str>) -> (u16, String) {
        let authorization = key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
        self.ask(&format!("GET {path} HTTP/1.1\r\n{authorization}"), "")
    }

    /// A POST of lines of JSON over the network.
    pub(crate) fn post_lines(&self, path: &str, key: &str, lines: &str) -> (u16, String) {
        let length = lines.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nAuthorization: Bearer {key}\r\nContent-Type: application/x-ndjson\r\n\
             Content-Length: {length}\r\n"
        );
        self.ask(&head, lines)
    }

    fn ask(&self, head: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "{head}Host: test\r\nConnection: close\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        (status, body.unwrap_or_default())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
