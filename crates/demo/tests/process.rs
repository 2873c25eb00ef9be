//! The binary as people and scripts start it.
#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::{
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

/// The demonstration with a temporary directory of its own.
fn demo(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey-demo"));
    command
        .args(arguments)
        .env("TMPDIR", temporary)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(temporary: &Path, arguments: &[&str]) -> (Output, String) {
    let output = demo(temporary, arguments).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (output, text)
}

fn is_empty(directory: &Path) -> bool {
    directory.read_dir().unwrap().next().is_none()
}

fn end(child: &mut Child) -> i32 {
    drop(child.stdin.take());
    child.wait().unwrap().code().unwrap_or(-1)
}

#[test]
fn the_walk_ends_with_its_line_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let (output, text) = run(temporary.path(), &["--headless"]);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{complaints}");
    assert_eq!(text.lines().last(), Some("demo: connected, fetched, refreshed, revoked"));
    assert!(!text.contains("sbx_") && !text.contains("vk_"), "a token or a key was printed");
    assert!(is_empty(temporary.path()));
}

#[test]
fn one_line_of_json_says_where_everything_is_until_input_ends() {
    let temporary = tempfile::tempdir().unwrap();
    let mut child = demo(temporary.path(), &["--json", "--until-eof"]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let addresses: serde_json::Value = serde_json::from_str(&line).unwrap();
    let ports: Vec<u16> = ["app", "broker", "sandbox"]
        .iter()
        .map(|name| {
            let address = addresses[name].as_str().unwrap();
            let port = address.strip_prefix("http://127.0.0.1:").unwrap().parse().unwrap();
            assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(), "{name} does not listen");
            port
        })
        .collect();
    assert_eq!(end(&mut child), 0);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    for port in ports {
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "{port} listens still");
    }
    assert!(is_empty(temporary.path()));
}

#[test]
fn people_are_told_the_one_address_to_open() {
    let temporary = tempfile::tempdir().unwrap();
    let (output, text) = run(temporary.path(), &["--until-eof"]);
    assert!(output.status.success());
    let open = text.lines().find(|line| line.trim_start().starts_with("Open ")).unwrap();
    assert!(open.contains("http://127.0.0.1:"), "{open}");
}

#[test]
fn a_failure_explains_itself() {
    let temporary = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (output, text) = run(temporary.path(), &["--headless", "--port", &port]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text, "");
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains(&format!("cannot listen at 127.0.0.1:{port}")), "{complaint}");
    assert!(is_empty(temporary.path()));
}
