//! The service as a process.

use std::{
    fs,
    os::unix::{fs::MetadataExt, net::UnixDatagram},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::support::Home;

#[test]
fn without_any_configuration_it_serves_on_loopback_and_keeps_its_files_to_itself() {
    let home = Home::new();
    let serving = home.serve();
    assert!(serving.address.ip().is_loopback());
    assert_eq!(serving.get("/health/ready", None).0, 200);
    assert_eq!(fs::metadata(home.data_dir()).unwrap().mode() & 0o777, 0o700);
    let names: Vec<_> = home.files().into_iter().map(|(name, mode, _)| (name, mode)).collect();
    assert!(names.iter().any(|(name, _)| name == "valetkey.db"), "{names:?}");
    assert!(names.iter().any(|(name, _)| name == "keyring.json"), "{names:?}");
    for (name, mode) in names {
        assert_eq!(mode, 0o600, "{name}");
    }
    let socket = fs::metadata(home.data_dir().join("valetkey.sock")).unwrap();
    assert_eq!(socket.mode() & 0o777, 0o600);
    serving.stop();
}

#[test]
fn a_signal_stops_it_cleanly_and_leaves_no_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = Home::new();
        let serving = home.serve();
        let asked = Instant::now();
        serving.signal(signal);
        let (status, log) = serving.wait();
        assert!(status.success(), "{status}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert!(log.iter().any(|line| line.contains("\"stopped\"")), "{log:#?}");
        assert!(!home.data_dir().join("valetkey.sock").exists());
    }
}

#[test]
fn a_second_signal_stops_it_at_once() {
    let home = Home::new();
    let mut serving = home.serve();
    // A request that never ends keeps the clean way waiting.
    let mut slow = std::net::TcpStream::connect(serving.address).unwrap();
    std::io::Write::write_all(&mut slow, b"POST /v1/keys HTTP/1.1\r\nHost: test\r\nContent-Le").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    serving.signal(Signal::TERM);
    serving.wait_for("stopping");
    serving.signal(Signal::TERM);
    let asked = Instant::now();
    let (status, _) = serving.wait();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_ne!(status.code(), Some(0), "what was left unfinished is no success");
}

#[test]
fn a_second_server_is_refused_by_the_name_of_the_first_which_goes_on() {
    let home = Home::new();
    let serving = home.serve();
    let second = home.run(&["serve"]);
    assert_eq!(second.code, 6, "{second:#?}");
    let holder = format!("process {} (valetkey serve)", serving.process_id());
    assert!(second.err.contains(&holder), "{}", second.err);
    assert_eq!(serving.get("/health/live", None).0, 200);
    let keys = home.run(&["keys", "list"]).ok();
    assert!(keys.out.is_empty());
    serving.stop();
}

#[test]
fn a_killed_server_is_followed_by_another() {
    let home = Home::new();
    let key = home.run(&["keys", "create", "--name", "app", "--role", "app"]).ok().out;
    let serving = home.serve();
    serving.signal(Signal::KILL);
    serving.wait();
    assert!(home.data_dir().join("valetkey.sock").exists(), "a killed process cannot clean up");
    assert!(home.run(&["keys", "list"]).ok().out.contains("app"));
    let serving = home.serve();
    assert_eq!(serving.get("/v1/providers", Some(key.trim())).0, 200);
    serving.stop();
}

#[test]
fn an_address_that_is_taken_is_said_and_nothing_stays_held() {
    let home = Home::new();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let refused = home.run_with(&["serve"], &[("VALETKEY__SERVER__LISTEN", &address)], "");
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains(&address), "{}", refused.err);
    home.serve().stop();
}

#[test]
fn the_service_manager_is_told() {
    let home = Home::new();
    let manager = UnixDatagram::bind(home.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let socket = home.path().join("notify");
    let serving = home.serve_with(&[("NOTIFY_SOCKET", socket.to_str().unwrap())]);
    let mut heard = [0; 64];
    let length = manager.recv(&mut heard).unwrap();
    assert_eq!(&heard[..length], b"READY=1");
    serving.stop();
    let length = manager.recv(&mut heard).unwrap();
    assert_eq!(&heard[..length], b"STOPPING=1");
}

#[test]
fn the_log_is_lines_of_json_and_starts_with_what_was_made() {
    let home = Home::new();
    let log = home.serve().stop();
    for line in &log {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["message"].is_string() && line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
    assert!(log.iter().any(|line| line.contains("made a key ring")), "{log:#?}");
    let again = home.serve().stop();
    assert!(!again.iter().any(|line| line.contains("made a key ring")), "{again:#?}");
}
