use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use data_encoding::BASE64;
use tempfile::TempDir;
use valetkey_core::{Entropy, Secret, SystemEntropy};
use zeroize::Zeroizing;

use super::{INSTANCE, data_key, entropy, now};
use crate::{KeyRing, KeyRingError, Sealer, new_data_key};

fn new_ring() -> (TempDir, PathBuf, KeyRing) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let ring = KeyRing::create(&path, &SystemEntropy, now()).unwrap();
    (directory, path, ring)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_created_key_ring_loads_and_unwraps_what_it_wrapped() {
    let (directory, path, made) = new_ring();
    let loaded = KeyRing::load(&path).unwrap();
    assert_eq!(made.instance_id(), loaded.instance_id());
    let instance = loaded.instance_id().unwrap();
    assert_eq!(instance.len(), 32);
    let row = new_data_key(instance, 1, made.wrappers()[0].as_ref(), &SystemEntropy, now()).await.unwrap();
    assert!(Sealer::unlock(instance, &[row], &loaded.wrappers(), entropy()).await.is_ok());
    assert_eq!(mode(&path), 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "a temporary file is left");
}

#[test]
fn two_key_rings_share_nothing() {
    let ((_a, _, one), (_b, _, two)) = (new_ring(), new_ring());
    assert_ne!(one.instance_id(), two.instance_id());
    assert_ne!(one.wrappers()[0].id(), two.wrappers()[0].id());
}

#[test]
fn a_key_ring_is_never_overwritten() {
    let (directory, path, _ring) = new_ring();
    let before = fs::read(&path).unwrap();
    let error = KeyRing::create(&path, &SystemEntropy, now()).unwrap_err();
    assert!(matches!(error, KeyRingError::Exists { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn of_two_that_create_at_once_one_wins_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| KeyRing::create(&path, &SystemEntropy, now()))).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap().ok()).collect()
    });
    assert_eq!(made.len(), 1);
    assert_eq!(KeyRing::load(&path).unwrap().instance_id(), made[0].instance_id());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_key_ring_that_others_may_touch_is_refused_with_the_remedy() {
    let (_directory, path, _ring) = new_ring();
    let before = fs::read(&path).unwrap();
    for bits in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666, 0o777] {
        set_mode(&path, bits);
        let error = KeyRing::load(&path).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, KeyRingError::Exposed { .. }), "{bits:o}: {text}");
        assert!(text.contains(&format!("mode {bits:04o}")), "{text}");
        assert!(text.contains(&format!("chmod 600 {}", path.display())), "{text}");
        assert_eq!(mode(&path), bits, "the file was touched");
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    for bits in [0o600, 0o400] {
        set_mode(&path, bits);
        assert!(KeyRing::load(&path).is_ok(), "{bits:o}");
    }
}

#[test]
fn only_a_regular_file_is_a_key_ring() {
    let (directory, path, _ring) = new_ring();
    let link = directory.path().join("link.json");
    symlink(&path, &link).unwrap();
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    for path in [link.as_path(), directory.path(), &pipe] {
        let error = KeyRing::load(path).unwrap_err();
        assert!(matches!(error, KeyRingError::NotAFile { .. }), "{}: {error}", path.display());
    }
}

#[test]
fn a_missing_key_ring_is_not_made_by_loading() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    let error = KeyRing::load(&path).unwrap_err();
    assert!(matches!(error, KeyRingError::Missing { .. }), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_directory_that_is_not_there_is_said_when_creating() {
    let directory = tempfile::tempdir().unwrap();
    let error = KeyRing::create(&directory.path().join("no/keys.json"), &SystemEntropy, now()).unwrap_err();
    assert!(matches!(error, KeyRingError::Write { .. }), "{error}");
}

#[test]
fn every_flipped_byte_of_a_key_ring_is_refused_without_showing_a_key() {
    let (_directory, path, _ring) = new_ring();
    let whole = fs::read(&path).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let key = json["keys"][0]["key"].as_str().unwrap().to_owned();
    for place in 0..whole.len() {
        for mask in [0x01, 0x07, 0x20, 0x80] {
            let mut bytes = whole.clone();
            bytes[place] ^= mask;
            fs::write(&path, &bytes).unwrap();
            let error = KeyRing::load(&path).unwrap_err();
            let text = error.to_string();
            assert!(
                matches!(error, KeyRingError::Damaged { .. } | KeyRingError::UnknownFormat { .. }),
                "{place}: {text}"
            );
            assert!(!text.contains(&key[4..12]), "{place}: {text}");
        }
    }
    fs::write(&path, &whole).unwrap();
    assert!(KeyRing::load(&path).is_ok());
}

#[test]
fn a_truncated_or_lengthened_key_ring_is_refused() {
    let (_directory, path, _ring) = new_ring();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = KeyRing::load(&path).unwrap_err();
        assert!(matches!(error, KeyRingError::Damaged { .. }), "{length}: {error}");
    }
    for more in [b" ".as_slice(), b"\n", b"{}", &vec![b' '; 100_000], &[0xff]] {
        fs::write(&path, [&whole, more].concat()).unwrap();
        let error = KeyRing::load(&path).unwrap_err();
        assert!(matches!(error, KeyRingError::Damaged { .. }), "{error}");
    }
}

fn edited(path: &Path, from: &str, to: &str) -> KeyRingError {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in the file");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
    KeyRing::load(path).unwrap_err()
}

#[test]
fn an_unknown_field_is_refused_by_name() {
    let (_directory, path, _ring) = new_ring();
    let text = edited(&path, "\"epoch\"", "\"colour\": 1, \"epoch\"").to_string();
    assert!(text.contains("unknown field `colour`"), "{text}");
    let (_directory, path, _ring) = new_ring();
    let text = edited(&path, "\"state\"", "\"colour\": 1, \"state\"").to_string();
    assert!(text.contains("unknown field `colour`"), "{text}");
}

#[test]
fn an_edited_instance_is_refused() {
    let (_directory, path, ring) = new_ring();
    let error = edited(&path, ring.instance_id().unwrap(), "00112233445566778899aabbccddeeff");
    assert!(matches!(error, KeyRingError::Damaged { .. }), "{error}");
}

#[test]
fn a_key_under_another_id_is_refused() {
    let (_directory, path, _ring) = new_ring();
    let text = edited(&path, "local-", "remote-").to_string();
    assert!(text.contains("a key does not belong to its id"), "{text}");
}

#[test]
fn a_large_file_is_not_taken_for_a_key_ring() {
    let (_directory, path, _ring) = new_ring();
    fs::write(&path, " ".repeat(65 * 1024)).unwrap();
    let text = KeyRing::load(&path).unwrap_err().to_string();
    assert!(text.contains("far longer"), "{text}");
}

#[test]
fn another_format_is_not_guessed_at() {
    let (_directory, path, _ring) = new_ring();
    let error = edited(&path, "\"format\": 1", "\"format\": 2, \"colour\": 1");
    assert!(matches!(error, KeyRingError::UnknownFormat { format: 2, .. }), "{error}");
}

#[test]
fn a_ring_without_an_active_key_is_refused() {
    let (_directory, path, _ring) = new_ring();
    let text = edited(&path, "\"active\"", "\"decrypt_only\"").to_string();
    assert!(text.contains("no key is active"), "{text}");
}

#[test]
fn a_value_of_the_wrong_type_is_not_quoted() {
    let (_directory, path, _ring) = new_ring();
    let text = edited(&path, "\"epoch\": 0", "\"epoch\": \"hunter2\"").to_string();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("line 4"), "{text}");
}

#[test]
fn the_key_ring_of_another_instance_is_refused_by_name() {
    let (_directory, path, ring) = new_ring();
    let instance = ring.instance_id().unwrap();
    assert!(ring.check_instance(instance).is_ok());
    let text = ring.check_instance("other").unwrap_err().to_string();
    for part in [instance, "`other`", &path.display().to_string()] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn a_key_from_the_configuration_is_a_ring_of_one() {
    let ring = KeyRing::from_key(Zeroizing::new([1; 32]));
    assert_eq!(ring.instance_id(), None);
    assert!(ring.check_instance("any").is_ok());
    let row = data_key(1, &ring.wrappers()).await;
    let again = Secret::from(format!(" {}\n", BASE64.encode(&[1; 32])));
    let again = KeyRing::from_base64(&again).unwrap();
    assert!(Sealer::unlock(INSTANCE, &[row], &again.wrappers(), entropy()).await.is_ok());
}

#[test]
fn what_is_not_32_bytes_in_base64_is_no_key() {
    for text in ["", "secret", &BASE64.encode(&[1; 31]), &BASE64.encode(&[1; 33]), &"ab".repeat(32)] {
        let error = KeyRing::from_base64(&Secret::from(text)).unwrap_err();
        assert!(matches!(error, KeyRingError::NotAKey), "{text}");
        assert!(text.is_empty() || !error.to_string().contains(text), "{error}");
    }
}

#[test]
fn debug_shows_ids_and_no_keys() {
    let (_directory, path, ring) = new_ring();
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let key = json["keys"][0]["key"].as_str().unwrap();
    let shown = format!("{ring:?} {:?}", ring.wrappers());
    assert!(shown.contains(ring.wrappers()[0].id()), "{shown}");
    assert!(!shown.contains(key), "{shown}");
}

/// Holds the format, so that a key ring loads in every later version.
#[test]
fn a_key_ring_looks_as_it_did() {
    #[derive(Debug)]
    struct Constant;
    impl Entropy for Constant {
        fn fill(&self, out: &mut [u8]) {
            out.fill(0xab);
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    KeyRing::create(&path, &Constant, now()).unwrap();
    let expected = r#"{
  "format": 1,
  "instance_id": "abababababababababababababababab",
  "epoch": 0,
  "keys": [
    {
      "id": "local-60dd5bd3ec475ae2",
      "key": "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=",
      "state": "active",
      "created_at": "2027-01-15T08:00:00.000Z"
    }
  ],
  "mac": "3ba31e350bc9b54fc95e7e29066b2d3f9b1f9680089c2dd131bdcd2efedcf75f"
}
"#;
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
}

#[tokio::test]
async fn a_ring_gets_a_new_key_and_loses_the_old_one_only_when_nothing_needs_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keyring.json");
    let first = KeyRing::create(&path, &SystemEntropy, now()).unwrap();
    let old = first.wrappers()[0].id().to_owned();
    let row = new_data_key("i", 1, first.wrappers()[0].as_ref(), &SystemEntropy, now()).await.unwrap();

    let both = KeyRing::add_key(&path, &SystemEntropy, now()).unwrap();
    let ids: Vec<_> = both.wrappers().iter().map(|wrapper| wrapper.id().to_owned()).collect();
    assert_eq!((ids.len(), &ids[1]), (2, &old));
    assert_eq!(both.instance_id(), first.instance_id());
    Sealer::unlock("i", std::slice::from_ref(&row), &both.wrappers(), super::entropy()).await.unwrap();

    let kept = KeyRing::drop_keys(&path, &[old.clone()].into(), &SystemEntropy).unwrap();
    assert_eq!(kept.wrappers().len(), 2);
    let alone = KeyRing::drop_keys(&path, &[ids[0].clone()].into(), &SystemEntropy).unwrap();
    assert_eq!(alone.wrappers().len(), 1);
    assert!(Sealer::unlock("i", &[row], &alone.wrappers(), super::entropy()).await.is_err());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
}
