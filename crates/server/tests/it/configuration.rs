//! Configuration as the binary reads it.

use crate::support::Home;

const FAULTY: &str = "[server]\nlisten = \"0.0.0.0:8743\"\n[limits]\nflow_life_s = 1\nunheard = 2\n";

#[test]
fn serve_names_every_fault_and_touches_nothing() {
    let home = Home::new();
    let file = home.write("valetkey.toml", FAULTY);
    let variables = [("VALETKEY__SERVER__LISTEN", "0.0.0.0:8743")];
    let run = home.run_with(&["serve", "--config", file.to_str().unwrap()], &variables, "");
    assert_eq!(run.code, 1, "{run:#?}");
    for part in
        ["server.listen", "server.public_url", "limits.flow_life_s", "limits.unheard", "valetkey.toml:4", "mend:"]
    {
        assert!(run.err.contains(part), "{part}: {}", run.err);
    }
    assert!(!home.data_dir().exists());
}

#[test]
fn check_config_explains_what_is_in_force_and_where_it_came_from() {
    let home = Home::new();
    let file = home.write("valetkey.toml", "[limits]\nflow_life_s = 300\n");
    let run = home.run(&["check-config", "--config", file.to_str().unwrap()]).ok();
    let line = |name: &str| run.out.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("limits.flow_life_s\t300\t").contains("valetkey.toml:2"), "{}", run.out);
    assert!(line("server.listen\t\"127.0.0.1:0\"\t").contains("VALETKEY__SERVER__LISTEN"));
    assert!(line("log.level\t\"info\"\tdefault\t").len() > 30);
    assert!(run.err.contains("sound"), "{}", run.err);
    assert!(!home.data_dir().exists());
    let json = home.run(&["check-config", "--json"]).ok().json();
    assert!(json.as_array().unwrap().iter().any(|setting| setting["name"] == "server.listen"));
}

#[test]
fn check_config_fails_with_every_fault_as_text_and_as_json() {
    let home = Home::new();
    let file = home.write("valetkey.toml", FAULTY);
    let file = file.to_str().unwrap();
    let run = home.run(&["check-config", "--config", file]);
    assert_eq!(run.code, 1);
    assert!(run.out.is_empty());
    let run = home.run(&["check-config", "--json", "--config", file]);
    let problem: serde_json::Value = serde_json::from_str(&run.err).unwrap();
    assert_eq!(problem["code"], "configuration-invalid");
    assert_eq!(problem["faults_of_configuration"].as_array().unwrap().len(), 2, "{problem:#}");
}

#[test]
fn check_config_looks_at_what_settings_lead_to() {
    let home = Home::new();
    let certificates = home.write("ca.pem", "none");
    std::fs::create_dir(home.path().join("profiles")).unwrap();
    home.write("profiles/mine.toml", "name = \"mine\"\ncolour = \"red\"\n");
    let profiles = home.path().join("profiles");
    let run = home.run_with(
        &["check-config"],
        &[
            ("VALETKEY__OUTBOUND__CA_FILES", &format!("[{:?}]", certificates.to_str().unwrap())),
            ("VALETKEY__PROVIDERS__DIRECTORY", profiles.to_str().unwrap()),
        ],
        "",
    );
    assert_eq!(run.code, 1);
    assert!(run.err.contains("outbound.ca_files") && run.err.contains("mine.toml"), "{}", run.err);
}

#[test]
fn a_file_that_is_not_there_is_a_fault() {
    let home = Home::new();
    let run = home.run(&["check-config", "--config", "nowhere.toml"]);
    assert_eq!(run.code, 1);
    assert!(run.err.contains("nowhere.toml"), "{}", run.err);
}
