//! The witness: everything that left the server in this run, in one file, and the secrets that must not be in it.
//!
//! The secrets are learned where they belong: what the exempt fields of answers carry must be nowhere else. They are taken out
//! before anything is written down.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use reqwest::header::HeaderMap;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{
    canary::{self, Canaries},
    exempt,
};

struct Witness {
    path: PathBuf,
    file: Mutex<File>,
    planted: Mutex<Canaries>,
}

/// The file of this process. Log lines and panics go to it from its making on.
fn witness() -> &'static Witness {
    static WITNESS: OnceLock<Witness> = OnceLock::new();
    WITNESS.get_or_init(|| {
        let executable = std::env::current_exe().expect("the path of this program");
        // target/debug/deps/it-…
        let target = executable.ancestors().nth(3).expect("a target folder");
        let directory = target.join("tmp");
        fs::create_dir_all(&directory).expect("the target folder takes files");
        forget_earlier_runs(&directory);
        let path = directory.join(format!("witness-{}.log", std::process::id()));
        let file = OpenOptions::new().create(true).append(true).open(&path).expect("the target folder takes files");
        let witness = Witness { path, file: Mutex::new(file), planted: Mutex::default() };
        // More than the server itself ever logs: of others it lets only warnings through, at any setting.
        let _ = tracing_subscriber::fmt()
            .json()
            .with_env_filter(EnvFilter::new("info,valetkey=trace"))
            .with_writer(LogLines)
            .try_init();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            record("panic", &panic.to_string());
            before(panic);
        }));
        witness
    })
}

/// Removes the files of programs that are no longer there.
fn forget_earlier_runs(directory: &Path) {
    for file in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = file.file_name().into_string().unwrap_or_default();
        let program = name.strip_prefix("witness-").and_then(|rest| rest.strip_suffix(".log"));
        if program.is_some_and(|program| !Path::new("/proc").join(program).exists()) {
            let _ = fs::remove_file(file.path());
        }
    }
}

struct LogLines;

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine
    }
}

struct LogLine;

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        record("log", &String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts to keep what is logged, if nothing did so before.
pub(crate) fn listen() {
    witness();
}

/// Keeps what left the server. `kind` says by which way: `log`, `panic`, `answer POST /v1/…`, `page GET /connect/…`.
pub fn record(kind: &str, text: &str) {
    let mut file = witness().file.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(file, "[{kind}] {}", text.trim_end()).expect("the target folder takes files");
}

/// Keeps an answer of the API, and learns what its exempt fields carry.
pub(crate) fn record_answer(method: &str, path: &str, status: u16, headers: &HeaderMap, body: &str) {
    let mut left = body.to_owned();
    plant_all(exempt::take_from_answer(method, path, &mut left));
    record(&format!("answer {method} {path}"), &format!("{status} {headers:?}\n{left}"));
}

/// Keeps what a browser was shown, and learns what belongs there.
pub(crate) fn record_page(method: &str, path: &str, status: u16, headers: &HeaderMap, html: &str) {
    let mut left = format!("{status} {headers:?}\n{html}");
    plant_all(exempt::take_from_page(method, path, &mut left));
    record(&format!("page {method} {path}"), &left);
}

fn plant_all(secrets: Vec<(String, &'static str)>) {
    for (secret, what) in secrets {
        plant(&secret, what);
    }
}

/// Everything kept so far.
pub fn witnessed() -> String {
    String::from_utf8_lossy(&fs::read(&witness().path).expect("the witness's file")).into_owned()
}

/// Names a secret that must never leave the server by any way that the witness sees. One that is so short that it is met by
/// chance is left out.
pub fn plant(secret: &str, what: &str) {
    if secret.len() < canary::LEAST {
        return;
    }
    witness().planted.lock().unwrap_or_else(PoisonError::into_inner).plant(secret, what);
}

/// Looks at all secrets planted so far.
pub fn with_planted<T>(look: impl FnOnce(&Canaries) -> T) -> T {
    look(&witness().planted.lock().unwrap_or_else(PoisonError::into_inner))
}

/// How many directories and how many values of tables were searched when their servers had gone.
static SEARCHED: (AtomicUsize, AtomicUsize) = (AtomicUsize::new(0), AtomicUsize::new(0));

/// Searches the files and rows that a server leaves, and keeps what was found.
pub(crate) fn search_left(folder: &Path, rows: &[(String, Vec<u8>)]) {
    for (place, hit) in with_planted(|planted| planted.find_stored(folder, rows)) {
        record("file", &format!("{place}: {hit}"));
    }
    SEARCHED.0.fetch_add(1, Ordering::Relaxed);
    SEARCHED.1.fetch_add(rows.len(), Ordering::Relaxed);
}

/// How many directories of servers, and how many values of tables on PostgreSQL, were searched when their servers had gone.
pub fn searched() -> (usize, usize) {
    (SEARCHED.0.load(Ordering::Relaxed), SEARCHED.1.load(Ordering::Relaxed))
}

/// An app that is running; the last search waits until there is none.
#[derive(Debug)]
pub(crate) struct Running;

static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Running {
    pub(crate) fn new() -> Self {
        *RUNNING.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *RUNNING.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        RUNNING.1.notify_all();
    }
}

/// Waits until no app runs.
pub fn until_all_is_quiet() {
    let running = RUNNING.0.lock().unwrap_or_else(PoisonError::into_inner);
    drop(RUNNING.1.wait_while(running, |running| *running > 0));
}
