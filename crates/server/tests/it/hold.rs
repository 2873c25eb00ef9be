//! The restore guard and the hold, as an operator meets them.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Home, Serving};

fn ready(serving: &Serving) -> Value {
    let (status, body) = serving.get("/health/ready", None);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["hold"].clone()
}

/// A copy of the database, made while nobody has it open.
fn back_up(home: &Home) -> Vec<u8> {
    fs::read(home.data_dir().join("valetkey.db")).unwrap()
}

fn restore(home: &Home, copy: &[u8]) {
    for name in ["valetkey.db-wal", "valetkey.db-shm"] {
        let _ = fs::remove_file(home.data_dir().join(name));
    }
    fs::write(home.data_dir().join("valetkey.db"), copy).unwrap();
}

#[test]
fn a_restored_file_starts_in_hold_and_says_so_until_an_operator_ends_it() {
    let home = Home::new();
    home.serve().stop();
    let copy = back_up(&home);
    let serving = home.serve();
    assert_eq!(ready(&serving), Value::Null);
    serving.signal(Signal::KILL);
    serving.wait();
    restore(&home, &copy);

    let mut serving = home.serve();
    assert_eq!(ready(&serving)["reason"], "behind_witness");
    let asked = home.run(&["release-hold"]);
    assert_eq!(asked.code, 5, "{asked:#?}");
    assert!(asked.err.contains("older than its witness") && asked.err.contains("say --yes"), "{}", asked.err);
    assert_eq!(ready(&serving)["reason"], "behind_witness", "to ask changes nothing");
    home.run(&["release-hold", "--yes"]).ok();
    serving.wait_for("the hold is over");
    assert_eq!(ready(&serving), Value::Null);
    let log = serving.stop();
    assert!(log.iter().any(|line| line.contains("a hold begins") && line.contains("behind_witness")), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("starts in hold")), "{log:#?}");
    let serving = home.serve();
    assert_eq!(ready(&serving), Value::Null);
    serving.stop();
}

#[test]
fn a_copy_can_be_put_in_hold_before_it_is_served_and_released_without_a_server() {
    let home = Home::new();
    let held = home.run(&["hold", "--reason", "a copy of Sunday", "--json"]).ok().json();
    assert_eq!((&held["hold"]["reason"], &held["hold"]["note"]), (&json!("operator"), &json!("a copy of Sunday")));
    let again = home.run(&["hold", "--json"]).ok().json();
    assert_eq!(again, held, "the hold in force stays as it is");
    let serving = home.serve();
    assert_eq!(ready(&serving)["reason"], "operator");
    assert!(!ready(&serving).to_string().contains("Sunday"), "the note is not for everybody");
    serving.stop();
    let report = home.run(&["release-hold", "--json"]);
    assert_eq!(report.code, 5);
    assert_eq!(report.json()["hold"], held["hold"]);
    let released = home.run(&["release-hold", "--yes", "--json"]).ok().json();
    assert_eq!(released["released"], held["hold"]);
    assert_eq!(home.run(&["release-hold", "--yes", "--json"]).ok().json()["released"], Value::Null);
    assert!(home.run(&["release-hold"]).ok().err.contains("there is no hold"));
}

#[test]
fn a_note_that_is_no_line_of_text_is_refused() {
    let home = Home::new();
    for reason in ["", "two\nlines", &"x".repeat(201)] {
        let refused = home.run(&["hold", "--reason", reason]);
        assert_eq!(refused.code, 2, "{refused:#?}");
    }
    assert_eq!(home.run(&["release-hold", "--json"]).ok().json()["hold"], Value::Null);
}

#[test]
fn a_witness_elsewhere_is_kept_there_and_one_that_cannot_be_kept_refuses_the_start() {
    let home = Home::new();
    let elsewhere = home.path().join("witness");
    home.serve_with(&[("VALETKEY__GUARD__WITNESS_DIR", elsewhere.to_str().unwrap())]).stop();
    assert!(elsewhere.join("witness.json").exists());
    assert!(!home.data_dir().join("witness.json").exists());
    let file = home.write("file", "");
    let refused = home.run_with(&["serve"], &[("VALETKEY__GUARD__WITNESS_DIR", file.to_str().unwrap())], "");
    assert_eq!(refused.code, 1, "{refused:#?}");
    assert!(refused.err.contains("guard.witness_dir"), "{}", refused.err);
}

#[test]
fn a_witness_that_is_lost_is_missed() {
    let home = Home::new();
    let first = home.serve().stop();
    assert!(!first.iter().any(|line| line.contains("no witness was kept here")), "{first:#?}");
    fs::remove_file(home.data_dir().join("witness.json")).unwrap();
    let log = home.serve().stop();
    assert!(log.iter().any(|line| line.contains("no witness was kept here")), "{log:#?}");
}

#[test]
fn a_hangup_changes_nothing_and_is_answered_in_the_log() {
    let home = Home::new();
    let mut serving = home.serve();
    for _ in 0..2 {
        serving.signal(Signal::HUP);
        serving.wait_for("SIGHUP is ignored");
    }
    assert_eq!(serving.get("/health/ready", None).0, 200);
    let log = serving.stop();
    assert!(log.iter().any(|line| line.contains("\"stopped\"")), "{log:#?}");
}
