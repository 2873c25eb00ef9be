//! The operator's verbs about keys, with and without a running server.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use serde_json::Value;

use crate::support::{Home, Serving};

fn add_connector(home: &Home, name: &str) {
    let arguments = ["connectors", "add", "--name", name, "--provider", "github", "--client-id", "c"];
    let rest = ["--client-secret-file", "-", "--scope", "repo", "--return-url", "https://app.example/connected"];
    home.run_with(&[&arguments[..], &rest[..]].concat(), &[], "hunter2").ok();
}

fn both_ways(check: impl Fn(&Home)) {
    check(&Home::new());
    let home = Home::new();
    let serving: Serving = home.serve();
    check(&home);
    serving.stop();
}

fn keys(status: &Value) -> Vec<(u64, &str, u64)> {
    let keys = status["keys"].as_array().unwrap().iter();
    keys.map(|key| (key["id"].as_u64().unwrap(), key["state"].as_str().unwrap(), key["fields"].as_u64().unwrap()))
        .collect()
}

#[test]
fn a_rotation_seals_everything_anew_and_tells_its_progress_beside_the_data() {
    both_ways(|home| {
        for name in ["A", "B", "C"] {
            add_connector(home, name);
        }
        let status = home.run(&["keyring", "status", "--json"]).ok();
        assert_eq!(keys(&status.json()), [(1, "active", 3)]);
        assert_eq!(status.json()["keys"][0]["by_column"]["connectors.secrets"], 3);

        let rotated = home.run(&["keyring", "rotate"]).ok();
        assert!(rotated.err.contains("data key 2 is the new one"), "{}", rotated.err);
        assert!(rotated.err.contains("3 of 3 fields sealed anew: done"), "{}", rotated.err);
        let lines: Vec<Vec<&str>> = rotated.out.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!((lines[0][1], lines[0][4]), ("retired", "0"));
        assert_eq!((lines[1][1], lines[1][4]), ("active", "3"));

        let again = home.run(&["keyring", "rotate", "--json"]).ok();
        assert_eq!(keys(&again.json()), [(1, "retired", 0), (2, "retired", 0), (3, "active", 3)]);
        assert!(again.err.is_empty(), "{}", again.err);
        let checked = home.run(&["keyring", "status", "--check", "--json"]).ok().json();
        assert_eq!((&checked["check"]["fields"], &checked["check"]["unreadable"]), (&3.into(), &0.into()));
    });
}

#[test]
fn a_rotation_that_is_killed_anywhere_is_taken_up_again() {
    let home = Home::new();
    for number in 0..12 {
        add_connector(&home, &format!("C{number}"));
    }
    for number in 0..15 {
        home.kill_after(&["keyring", "rotate"], Duration::from_millis(20 + 15 * number));
    }
    let rotated = home.run(&["keyring", "rotate", "--json"]).ok().json();
    let keys = keys(&rotated);
    let (last, others) = keys.split_last().unwrap();
    assert_eq!((last.1, last.2), ("active", 12));
    assert!(others.iter().all(|(_, state, fields)| (*state, *fields) == ("retired", 0)), "{keys:?}");
    home.run(&["keyring", "status", "--check"]).ok();
}

#[test]
fn the_key_ring_gets_a_new_key_and_gives_up_the_old_one() {
    both_ways(|home| {
        add_connector(home, "A");
        let before = home.run(&["keyring", "status", "--json"]).ok().json();
        let ring = home.data_dir().join("keyring.json");
        let old_ring = fs::read(&ring).unwrap();

        let moved = home.run(&["keyring", "rewrap", "--new-key"]).ok();
        assert!(moved.err.contains("wrapped 1 data keys anew") && moved.err.contains("back it up"), "{}", moved.err);
        let after = home.run(&["keyring", "status", "--json"]).ok().json();
        assert_ne!(after["wrapper"], before["wrapper"]);
        assert_eq!(after["keys"][0]["wrapper"], after["wrapper"]);
        let ids = |ring: &str| ring.matches("\"local-").count();
        assert_eq!(ids(&fs::read_to_string(&ring).unwrap()), 2, "the old key stays for backups from before");

        let dropped = home.run(&["keyring", "rewrap", "--drop-old", "--json"]).ok().json();
        assert_eq!(dropped["rewrapped"]["dropped"], 1);
        let text = fs::read_to_string(&ring).unwrap();
        assert_eq!(ids(&text), 1);
        assert!(text.contains(after["wrapper"].as_str().unwrap()));
        assert_eq!(fs::metadata(&ring).unwrap().permissions().mode() & 0o777, 0o600);
        home.run(&["keyring", "rotate"]).ok();
        assert_eq!(home.run(&["connectors", "list"]).ok().out.lines().count(), 1);

        home.run(&["keyring", "status", "--check"]).ok();
        // The ring from before opens nothing any more, and says which key is lacking.
        if !home.data_dir().join("valetkey.sock").exists() {
            fs::write(&ring, &old_ring).unwrap();
            let refused = home.run(&["keyring", "status"]);
            assert_eq!(refused.code, 1);
            assert!(refused.err.contains("data key 2") && refused.err.contains("local-"), "{}", refused.err);
        }
    });
}

#[test]
fn a_key_moves_from_the_ring_to_a_file_and_on_to_the_environment() {
    let home = Home::new();
    add_connector(&home, "A");
    let key = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
    let file = home.write("kek", key);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let file = file.to_str().unwrap();
    let to_file = [("VALETKEY__KEYRING__KEY_FILE", file)];

    let refused = home.run_with(&["keyring", "rewrap"], &to_file, "");
    assert!(refused.code == 1 && refused.err.contains("which is not here"), "{refused:#?}");
    let previous = ("VALETKEY__KEYRING__PREVIOUS", "[\"file:keyring.json\"]");
    home.run_with(&["keyring", "rewrap"], &[to_file[0], previous], "").ok();
    home.run_with(&["keyring", "status", "--check"], &to_file, "").ok();
    // The same key is the same wherever it comes from.
    let from_environment = [("VALETKEY__KEYRING__KEY", key)];
    let status = home.run_with(&["keyring", "status", "--check", "--json"], &from_environment, "").ok();
    assert!(!status.out.contains(key) && !status.err.contains(key));
    let directory = std::path::Path::new(file).parent().unwrap().to_str().unwrap();
    let credential = [("CREDENTIALS_DIRECTORY", directory), ("VALETKEY__KEYRING__CREDENTIAL", "kek")];
    home.run_with(&["keyring", "status", "--check"], &credential, "").ok();

    let no_ring = home.run_with(&["keyring", "rewrap", "--new-key"], &to_file, "");
    assert!(no_ring.code == 2 && no_ring.err.contains("key ring only"), "{no_ring:#?}");
}

#[test]
fn a_key_service_that_does_not_answer_refuses_the_start_with_its_reason() {
    let home = Home::new();
    let token = home.write("token", "hvs.token");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let variables = [
        ("VALETKEY__KEYRING__TRANSIT_KEY", "valetkey"),
        ("VALETKEY__KEYRING__TRANSIT_URL", "http://127.0.0.1:9"),
        ("VALETKEY__KEYRING__TRANSIT_ALLOW_HTTP", "true"),
        ("VALETKEY__KEYRING__TRANSIT_ALLOW_NETWORKS", "[\"127.0.0.0/8\"]"),
        ("VALETKEY__KEYRING__TRANSIT_TOKEN_FILE", token.to_str().unwrap()),
    ];
    let refused = home.run_with(&["serve"], &variables, "");
    assert_eq!(refused.code, 6, "{refused:#?}");
    assert!(refused.err.contains("http://127.0.0.1:9 cannot be reached (connect_failed)"), "{}", refused.err);
    assert!(!refused.err.contains("hvs.token"));
}
