//! The witness: everything that left the server in this run, in one file, and the secrets that must not be in it.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

struct Witness {
    path: PathBuf,
    file: Mutex<File>,
    planted: Mutex<BTreeMap<String, String>>,
}

/// The file of this process. Log lines go to it from its making on.
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
        let _ = tracing_subscriber::fmt()
            .json()
            .with_env_filter(EnvFilter::new("info,valetkey=trace"))
            .with_writer(LogLines)
            .try_init();
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

/// Keeps what left the server. `kind` says by which way: `log`, `answer POST /v1/…`, `page GET /connect/…`.
pub fn record(kind: &str, text: &str) {
    let mut file = witness().file.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(file, "[{kind}] {}", text.trim_end()).expect("the target folder takes files");
}

/// Everything kept so far.
pub fn witnessed() -> String {
    String::from_utf8_lossy(&fs::read(&witness().path).expect("the witness's file")).into_owned()
}

/// Names a secret that must never leave the server by any way that the witness sees.
pub fn plant(secret: &str, what: &str) {
    let mut planted = witness().planted.lock().unwrap_or_else(PoisonError::into_inner);
    planted.insert(secret.to_owned(), what.to_owned());
}

/// All secrets planted so far, and what they are.
pub fn planted() -> BTreeMap<String, String> {
    witness().planted.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
