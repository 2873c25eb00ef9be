//! The operator's verbs, with and without a running server.

use serde_json::json;

use crate::support::{Home, Serving};

/// Runs a check twice: the verbs open the database themselves, and they go through the server's socket.
fn both_ways(check: impl Fn(&Home)) {
    check(&Home::new());
    let home = Home::new();
    let serving: Serving = home.serve();
    check(&home);
    serving.stop();
}

const ADD: &[&str] = &[
    "connectors",
    "add",
    "--name",
    "GitHub",
    "--provider",
    "github",
    "--client-id",
    "client",
    "--client-secret-file",
    "-",
    "--scope",
    "repo",
    "--return-url",
    "https://app.example/connected",
    "--origin",
    "https://app.example",
];

#[test]
fn a_key_is_printed_once_and_stored_as_a_hash() {
    both_ways(|home| {
        let made = home.run(&["keys", "create", "--name", "app", "--role", "app"]).ok();
        let key = made.out.trim();
        assert!(key.starts_with("vk_") && !key.contains(char::is_whitespace), "{key}");
        assert_eq!(made.out.lines().count(), 1);
        assert!(!made.err.contains(key), "{}", made.err);
        let secret = key.rsplit('_').next().unwrap();
        for again in [&["keys", "list"][..], &["keys", "list", "--json"]] {
            assert!(!home.run(again).ok().out.contains(secret));
        }
        for (name, _, content) in home.files() {
            let found = content.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "the key stands in {name}");
        }
    });
}

#[test]
fn a_key_opens_what_its_role_allows_as_soon_as_it_is_made_and_nothing_once_it_is_revoked() {
    let home = Home::new();
    let serving = home.serve();
    let made = home.run(&["keys", "create", "--name", "ops", "--role", "operator", "--json"]).ok().json();
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert_eq!(serving.get("/v1/connections", Some(key)).0, 200);
    assert_eq!(serving.get("/v1/keys", Some(key)).0, 403);
    let (_, audit) = serving.get("/v1/audit", Some(key));
    assert!(audit.contains("command_line") && audit.contains("key.created"), "{audit}");
    assert_eq!(home.run(&["keys", "revoke", id]).code, 5, "it asks first");
    assert_eq!(serving.get("/v1/connections", Some(key)).0, 200);
    home.run(&["keys", "revoke", id, "--yes"]).ok();
    assert_eq!(serving.get("/v1/connections", Some(key)).0, 401);
    serving.stop();
}

#[test]
fn the_network_has_no_way_to_the_operators_verbs() {
    let home = Home::new();
    let serving = home.serve();
    assert_eq!(serving.get("/v1/keys", None).0, 401);
    assert_eq!(serving.get("/v1/spaces", None).0, 404);
    serving.stop();
}

#[test]
fn lists_are_tabs_in_a_pipe_and_the_objects_of_the_api_as_json() {
    both_ways(|home| {
        let empty = home.run(&["keys", "list"]).ok();
        assert_eq!((empty.out.as_str(), empty.err.trim()), ("", "nothing found"));
        assert_eq!(home.run(&["keys", "list", "--json"]).ok().json(), json!([]));
        home.run(&["keys", "create", "--name", "one", "--role", "app", "--role", "shared"]).ok();
        let text = home.run(&["keys", "list"]).ok().out;
        let fields: Vec<_> = text.trim_end_matches('\n').split('\t').collect();
        assert_eq!((fields[1], fields[2]), ("one", "app,shared"));
        assert!(fields[4].ends_with('Z'), "{fields:?}");
        let listed = home.run(&["keys", "list", "--json"]).ok();
        assert_eq!(listed.json()[0]["roles"], json!(["app", "shared"]));
        assert_eq!(listed.json()[0]["id"], fields[0]);
        assert!(listed.err.is_empty(), "{}", listed.err);
    });
}

#[test]
fn a_list_longer_than_a_page_is_listed_to_its_end() {
    let home = Home::new();
    let serving = home.serve();
    for number in 0..205 {
        home.run(&["keys", "create", "--name", &format!("key {number}"), "--role", "app"]).ok();
    }
    assert_eq!(home.run(&["keys", "list"]).ok().out.lines().count(), 205);
    assert_eq!(home.run(&["keys", "list", "--json"]).ok().json().as_array().unwrap().len(), 205);
    serving.stop();
}

#[test]
fn a_key_ends_when_it_is_told_to() {
    let home = Home::new();
    let new = ["keys", "create", "--name", "brief", "--role", "app", "--expires-in-days", "30", "--json"];
    let made = home.run(&new).ok().json();
    let at = |name: &str| valetkey_core::Timestamp::from_rfc3339(made[name].as_str().unwrap()).unwrap();
    let life = at("expires_at").since(at("created_at"));
    assert!(life.abs_diff(std::time::Duration::from_secs(30 * 86_400)).as_secs() < 60, "{life:?}");
}

#[test]
fn a_connector_is_added_from_flags_and_its_secret_is_never_shown() {
    both_ways(|home| {
        let made = home.run_with(ADD, &[], "planted-client-secret\n").ok();
        let id = made.out.trim();
        assert!(id.starts_with("ctr_"), "{made:?}");
        assert!(made.err.contains(&format!("/oauth/callback/{id}")), "{}", made.err);
        let listed = home.run(&["connectors", "list", "--json"]).ok();
        let connector = &listed.json()[0];
        assert_eq!(connector["scopes"], json!(["repo"]));
        assert_eq!(connector["client_secret_count"], 1);
        assert!(!listed.out.contains("planted"), "{}", listed.out);
        for (name, _, content) in home.files() {
            assert!(!content.windows(21).any(|window| window == b"planted-client-secret"), "it stands in {name}");
        }
    });
}

#[test]
fn a_connector_is_added_from_a_file_and_flags_win() {
    let home = Home::new();
    home.write(
        "github.toml",
        "name = \"From a file\"\nprovider = \"github\"\nauth_mode = \"per_user\"\nclient_id = \"client\"\n\
         client_secrets = [\"one\", \"two\"]\nreturn_urls = [\"https://app.example/connected\"]\n",
    );
    home.run(&["connectors", "add", "--file", "github.toml"]).ok();
    let object = r#"{"name":"x","provider":"github","auth_mode":"per_user","client_id":"client","return_urls":["https://app.example/c"]}"#;
    home.run_with(&["connectors", "add", "--file", "-", "--name", "From flags"], &[], object).ok();
    let connectors = home.run(&["connectors", "list", "--json"]).ok().json();
    let names: Vec<_> = connectors.as_array().unwrap().iter().map(|connector| connector["name"].as_str()).collect();
    assert!(names.contains(&Some("From a file")) && names.contains(&Some("From flags")), "{names:?}");
}

#[test]
fn a_wrong_connector_is_refused_with_every_fault_and_no_value() {
    let home = Home::new();
    home.write("broken.toml", "name = \"planted-secret\nprovider = 1\n");
    let run = home.run(&["connectors", "add", "--file", "broken.toml"]);
    assert_eq!(run.code, 2, "{run:#?}");
    assert!(run.err.contains("line 1") && !run.err.contains("planted"), "{}", run.err);
    let run = home.run(&["connectors", "add", "--name", "x", "--provider", "nobody", "--client-id", "c"]);
    assert_ne!(run.code, 0);
    assert!(run.err.contains("nobody") || run.err.contains("provider"), "{}", run.err);
    let run = home.run(&["connectors", "add", "--client-secret", "oops"]);
    assert_eq!(run.code, 2, "a secret is never an argument");
}

#[test]
fn what_is_in_one_space_does_not_exist_for_another() {
    both_ways(|home| {
        assert_eq!(home.run(&["keys", "list", "--space", "team-a"]).code, 3);
        assert_eq!(home.run(&["spaces", "create", "team-a"]).ok().out.trim(), "team-a");
        assert_eq!(home.run(&["spaces", "create", "team-a"]).code, 1);
        let spaces = home.run(&["spaces", "list"]).ok().out;
        assert!(spaces.contains("default\t") && spaces.contains("team-a\t"), "{spaces}");
        home.run(&["keys", "create", "--name", "a", "--role", "app", "--space", "team-a"]).ok();
        assert!(home.run(&["keys", "list"]).ok().out.is_empty());
        assert_eq!(home.run(&["keys", "list", "--space", "team-a"]).ok().out.lines().count(), 1);
        assert_eq!(home.run(&["keys", "list", "--space", "No Name"]).code, 2);
    });
}

/// A server with a connector on loopback and a connection of each of two users.
fn with_connections(home: &Home) -> Serving {
    let serving = home.serve_with(&[
        ("VALETKEY__OUTBOUND__ALLOW_HTTP_HOSTS", "[\"127.0.0.1\"]"),
        ("VALETKEY__OUTBOUND__ALLOW_NETWORKS", "[\"127.0.0.0/8\"]"),
    ]);
    let add = [
        "connectors",
        "add",
        "--name",
        "Loopback",
        "--provider",
        "oauth2",
        "--client-id",
        "client",
        "--authorization-endpoint",
        "http://127.0.0.1:9/authorize",
        "--token-endpoint",
        "http://127.0.0.1:9/token",
        "--return-url",
        "https://app.example/connected",
    ];
    let connector = home.run(&add).ok().out.trim().to_owned();
    let key = home.run(&["keys", "create", "--name", "admin", "--role", "admin"]).ok().out;
    let line = |user| json!({ "connector_id": connector, "user_id": user, "access_token": "at-planted" }).to_string();
    let lines = ["u-1", "u-2"].map(line).join("\n");
    let (status, report) = serving.post_lines("/v1/connections/import", key.trim(), &lines);
    assert_eq!((status, report.matches("cxn_").count()), (200, 2), "{report}");
    serving
}

#[test]
fn bulk_revocation_stops_until_its_count_is_confirmed() {
    let home = Home::new();
    let serving = with_connections(&home);
    let revoke = |more: &[&str]| {
        let arguments = [&["connections", "revoke", "--provider", "oauth2"], more].concat();
        home.run(&arguments)
    };
    let asked = revoke(&[]);
    assert_eq!((asked.code, asked.out.as_str()), (5, "oauth2\t2\n"), "{asked:#?}");
    assert!(asked.err.contains("--confirm 2"), "{}", asked.err);
    assert_eq!(revoke(&["--confirm", "1"]).code, 5);
    assert_eq!(revoke(&["--dry-run"]).code, 0);
    assert_eq!(home.run(&["connections", "revoke"]).code, 2, "everything is never meant by saying nothing");
    assert_eq!(home.run(&["connections", "revoke", "--all"]).code, 5);
    let active = || home.run(&["connections", "list", "--status", "active"]).ok().out.lines().count();
    assert_eq!(active(), 2, "nothing was revoked so far");
    assert_eq!(revoke(&["--confirm", "2", "--json"]).ok().json(), json!({ "revoked": 2 }));
    assert_eq!(active(), 0);
    let nothing = revoke(&[]).ok();
    assert!(nothing.err.contains("no connection"), "{}", nothing.err);
    serving.stop();
}

#[test]
fn one_connection_is_revoked_by_its_id_once_somebody_says_yes() {
    let home = Home::new();
    let serving = with_connections(&home);
    let of_user = home.run(&["connections", "list", "--user", "u-2", "--json"]).ok();
    assert!(!of_user.out.contains("planted"), "{}", of_user.out);
    let connection = of_user.json()[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(home.run(&["connections", "revoke", &connection]).code, 5);
    let revoked = home.run(&["connections", "revoke", &connection, "--yes", "--json"]).ok().json();
    assert_eq!(revoked["connection"]["id"], connection.as_str());
    let active = home.run(&["connections", "list", "--status", "active"]).ok().out;
    assert!(active.contains("u-1") && !active.contains("u-2"), "{active}");
    serving.stop();
}

#[test]
fn exit_statuses_say_what_to_do_next() {
    let home = Home::new();
    let nothing = "cxn_00000000000000000000000000";
    assert_eq!(home.run(&["connections", "revoke", nothing]).code, 5);
    let absent = home.run(&["connections", "revoke", nothing, "--yes"]);
    assert_eq!(absent.code, 3, "{absent:#?}");
    assert!(absent.err.contains("next: see `valetkey connections list`"), "{}", absent.err);
    let absent = home.run(&["connections", "revoke", nothing, "--yes", "--json"]);
    let problem: serde_json::Value = serde_json::from_str(&absent.err).unwrap();
    assert_eq!(problem["code"], "connection-not-found");
    for wrong in [&["fly"][..], &["keys", "create"], &["keys", "create", "--name", "x", "--role", "king"], &[]] {
        assert_eq!(home.run(wrong).code, 2, "{wrong:?}");
    }
    for right in [&["--help"][..], &["--version"], &["keys", "create", "--help"]] {
        let run = home.run(right);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{right:?}");
    }
}

#[test]
fn migrate_says_what_it_did_and_does_it_once() {
    let home = Home::new();
    assert!(home.run(&["migrate"]).ok().err.contains("migration"));
    assert!(home.run(&["migrate"]).ok().err.contains("up to date"));
    assert_eq!(home.run(&["migrate", "--json"]).ok().json(), json!({ "migrations": 0 }));
    let serving = home.serve();
    assert_eq!(home.run(&["migrate"]).code, 6);
    serving.stop();
}

#[test]
fn purge_says_what_would_go_and_deletes_only_when_told() {
    both_ways(|home| {
        let counted = home.run(&["purge", "--dry-run"]).ok();
        assert!(counted.out.contains("audit\t0"), "{counted:?}");
        assert_eq!(home.run(&["purge"]).code, 2);
        assert_eq!(home.run(&["purge", "--yes", "--json"]).ok().json()["flows"], 0);
    });
}

#[test]
fn the_description_of_the_api_needs_no_data_directory() {
    let home = Home::new();
    let description = home.run(&["openapi"]).ok().json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(!home.data_dir().exists());
}
