//! The image and the services of `deploy` as far as they can be judged without a container engine.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use crate::support::Home;

const DOCKERFILE: &str = include_str!("../../../../deploy/Dockerfile");
const IGNORED: &str = include_str!("../../../../deploy/Dockerfile.dockerignore");
const COMPOSE: &str = include_str!("../../../../deploy/compose.yaml");

fn repository() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
}

/// The instructions of the Dockerfile, continued lines joined, each split into words.
fn instructions() -> Vec<Vec<String>> {
    let lines: Vec<_> = DOCKERFILE.lines().filter(|line| !line.starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    joined.lines().map(words).filter(|words| !words.is_empty()).collect()
}

/// The instructions of the stage that becomes the image.
fn image() -> Vec<Vec<String>> {
    let mut instructions = instructions();
    let last = instructions.iter().rposition(|words| words[0] == "FROM").unwrap();
    instructions.split_off(last)
}

/// The one argument of an instruction that the image has once.
fn argument(name: &str) -> String {
    let image = image();
    let mut found = image.iter().filter(|words| words[0] == name);
    let words = found.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(found.next().is_none(), "{name} is there twice");
    words[1..].join(" ")
}

/// Whether the builder is sent a file of the repository.
fn is_sent(path: &Path) -> bool {
    assert_eq!(IGNORED.lines().next(), Some("*"), "what is not named is not sent");
    let named = |line: &str| line.strip_prefix('!').is_some_and(|named| path.starts_with(named));
    IGNORED.lines().any(named)
}

/// Every Rust source below a folder that is no test.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_tests = path.file_stem().is_some_and(|name| name == "tests");
        if path.is_dir() && !is_tests {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_tests {
            found.push(path);
        }
    }
}

/// `a/b/../c` as `a/c`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(component);
        }
    }
    plain
}

#[test]
fn the_builder_is_sent_everything_that_it_reads() {
    let root = repository();
    let mut read = vec![PathBuf::from("Cargo.lock")];
    // Cargo reads the manifest of every member, also of those that it does not build.
    let workspace: toml::Table = fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    read.extend(members.iter().map(|member| Path::new(member.as_str().unwrap()).join("Cargo.toml")));

    let mut found = Vec::new();
    sources(&root.join("crates"), &mut found);
    for source in &found {
        for part in fs::read_to_string(source).unwrap().split("include_").skip(1) {
            let quoted = part.strip_prefix("str!(\"").or_else(|| part.strip_prefix("bytes!(\""));
            if let Some((included, _)) = quoted.and_then(|part| part.split_once('"')) {
                let included = plain(&source.parent().unwrap().join(included));
                read.push(included.strip_prefix(&root).unwrap().to_owned());
            }
        }
    }
    let included = read.len() - 1 - members.len();
    assert!(included > 20, "only {included} files are included by sources");

    for words in instructions().iter().filter(|words| words[0] == "COPY" && !words[1].starts_with("--from=")) {
        let from = words[1..words.len() - 1].iter().filter(|word| !word.starts_with("--") && *word != ".");
        read.extend(from.map(PathBuf::from));
    }
    for path in read {
        assert!(root.join(&path).exists(), "{} is not there", path.display());
        assert!(is_sent(&path), "{} is read by the build and kept from it by Dockerfile.dockerignore", path.display());
    }
}

/// Builders make the folder that a folder is copied to with mode 0755, and `serve` refuses a data directory like that.
#[test]
fn the_image_has_a_private_data_directory_and_a_user_without_a_name() {
    let volume = argument("VOLUME");
    assert_eq!(argument("ENV"), format!("VALETKEY_DATA_DIR={volume}"));
    let user = argument("USER");
    let ids: Vec<u32> = user.split(':').map(|id| id.parse().unwrap()).collect();
    assert!(ids.len() == 2 && ids.iter().all(|id| *id > 0), "{user}");
    assert!(COMPOSE.contains(&format!("user: \"{user}\"")), "compose.yaml names another user than the image");

    let owned = format!("--chown={user}");
    let stages = instructions();
    let private = stages.iter().flatten().skip_while(|word| *word != "--mode=0700").nth(1).unwrap();
    let above = private.strip_suffix(&volume).unwrap_or_else(|| panic!("{private} does not become {volume}"));
    let image = image();
    let copied = image.iter().filter(|words| words[0] == "COPY" && words.contains(&owned)).collect::<Vec<_>>();
    assert_eq!(copied.len(), 1, "{copied:?}");
    let [.., from, to] = copied[0].as_slice() else { panic!("{copied:?}") };
    assert_eq!((from.as_str(), to.as_str()), (above, "/"), "the folder above {volume} is what must be copied");
}

#[test]
fn the_replicas_settings_are_sound_and_keep_a_witness_in_their_volume() {
    let home = Home::new();
    let key = home.write("key-encryption-key", "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\n");
    let url = home.write("database-url", "postgres://valetkey:hunter2@database/valetkey\n");
    for file in [&key, &url] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let secrets = format!("{}/", home.path().display());
    let mut variables = Vec::new();
    for line in COMPOSE.lines() {
        let Some((name, value)) = line.trim().split_once(": ").filter(|(name, _)| name.starts_with("VALETKEY__"))
        else {
            continue;
        };
        let value = match value.strip_prefix("${") {
            Some(_) => "https://keys.example.org".to_owned(),
            None => value.trim_matches(['"', '\'']).replace("/run/secrets/", &secrets),
        };
        variables.push((name, value));
    }
    assert!(variables.len() >= 6, "{variables:?}");
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();

    let run = home.run_with(&["check-config", "--data-dir", "/data"], &variables, "").ok();
    let volume = argument("VOLUME");
    assert!(run.out.contains(&format!("guard.witness_dir\t\"{volume}\"\t")), "{}", run.out);
    assert!(!run.err.contains("restore guard is off"), "{}", run.err);
    let volumes: Vec<_> = COMPOSE.lines().filter(|line| line.contains(&format!(":{volume}\"]"))).collect();
    assert_eq!(volumes.len(), 3, "one for each replica and one for the migration: {volumes:?}");
    assert!(volumes[0] != volumes[1] && volumes[1] != volumes[2] && volumes[0] != volumes[2], "{volumes:?}");
}
