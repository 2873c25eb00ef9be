//! Key ring and database that do not belong together, or to anybody: refused, and left as they are.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::support::Home;

/// An installation with a key in it.
fn used() -> Home {
    let home = Home::new();
    home.run(&["keys", "create", "--name", "app", "--role", "app"]).ok();
    home
}

/// The service and a verb refuse for a reason, and change no file.
fn refuses(home: &Home, reason: &str) {
    let before = home.files();
    for verb in [&["serve"][..], &["keys", "list"], &["migrate"]] {
        let run = home.run(verb);
        assert_eq!(run.code, 1, "{verb:?}: {run:#?}");
        assert!(run.err.contains(reason), "{verb:?}: {}", run.err);
        assert!(run.out.is_empty(), "{verb:?}: {}", run.out);
    }
    let after = home.files();
    let names = |files: &[(String, u32, Vec<u8>)]| files.iter().map(|file| file.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after));
    assert!(before == after, "the content of a file changed");
}

#[test]
fn a_foreign_key_ring_is_refused_and_nothing_is_touched() {
    let (home, other) = (used(), used());
    fs::copy(other.data_dir().join("keyring.json"), home.data_dir().join("keyring.json")).unwrap();
    let before = home.files();
    for verb in [&["serve"][..], &["keys", "list"]] {
        let run = home.run(verb);
        assert_eq!(run.code, 1, "{run:#?}");
        assert!(run.err.contains("instance"), "{}", run.err);
    }
    assert!(before == home.files(), "the content of a file changed");
}

#[test]
fn a_missing_key_ring_beside_a_database_is_refused_and_never_made_anew() {
    let home = used();
    fs::remove_file(home.data_dir().join("keyring.json")).unwrap();
    refuses(&home, "there is no key ring");
    assert!(!home.data_dir().join("keyring.json").exists());
}

#[test]
fn a_damaged_key_ring_is_refused() {
    let home = used();
    let path = home.data_dir().join("keyring.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"epoch\": 0", "\"epoch\": 1", 1)).unwrap();
    refuses(&home, "damaged or was edited");
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    refuses(&home, "damaged or was edited");
}

#[test]
fn a_key_ring_that_others_can_read_is_refused() {
    let home = used();
    let path = home.data_dir().join("keyring.json");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    refuses(&home, "mode 0640");
}

#[test]
fn a_data_directory_that_others_may_enter_is_refused() {
    let home = used();
    fs::set_permissions(home.data_dir(), fs::Permissions::from_mode(0o750)).unwrap();
    refuses(&home, "mode 0750");
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let home = used();
    fs::write(home.data_dir().join("valetkey.db"), "not a database, and long enough to be read as one".repeat(100))
        .unwrap();
    refuses(&home, "database");
}

#[test]
fn another_key_than_the_one_that_sealed_is_refused() {
    let home = Home::new();
    let key = |name: &str, text: &str| {
        let path = home.write(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let first = key("first", "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=");
    let second = key("second", "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=");
    let run = |key: &str| home.run_with(&["keys", "list"], &[("VALETKEY__KEYRING__KEY_FILE", key)], "");
    run(&first).ok();
    assert!(!home.data_dir().join("keyring.json").exists());
    let before = home.files();
    assert_eq!(run(&second).code, 1);
    assert!(before == home.files(), "the content of a file changed");
    run(&first).ok();
}
