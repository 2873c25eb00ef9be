//! The profiles that come with Valetkey, and those that an operator adds.

use std::{fs, path::Path};

use tempfile::TempDir;
use url::Url;
use valetkey_core::RotationClass;
use valetkey_providers::{
    Catalogue, CatalogueError,
    pattern::Pattern,
    profile::{Means, Profile, RevocationStyle},
};

#[test]
fn every_embedded_profile_loads() {
    let catalogue = Catalogue::embedded().unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<_> = catalogue.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "atlassian",
            "dropbox",
            "github",
            "github-app",
            "gitlab",
            "google",
            "hubspot",
            "microsoft",
            "notion",
            "oauth2",
            "oidc",
            "salesforce",
            "slack",
            "slack-user"
        ]
    );
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles")).unwrap();
    assert_eq!(files.count(), names.len(), "every file is embedded");
}

fn templates(profile: &Profile) -> Vec<&String> {
    let endpoints = &profile.endpoints;
    let own = [
        &endpoints.issuer,
        &endpoints.authorization,
        &endpoints.token,
        &endpoints.refresh,
        &endpoints.revocation,
        &endpoints.userinfo,
        &profile.revocation.manual_url,
    ];
    let accounts = profile.account.iter().flat_map(|account| [&account.url, &account.issuer]);
    own.into_iter().chain(accounts).flatten().collect()
}

#[test]
fn every_address_is_https_without_user_name_and_with_placeholders_in_host_or_path() {
    for profile in Catalogue::embedded().unwrap().iter() {
        for template in templates(profile) {
            let filled = template.replace(['{', '}'], "").replace("claim.", "");
            let url = Url::parse(&filled).unwrap();
            assert_eq!(url.scheme(), "https", "{template}");
            assert_eq!((url.username(), url.password()), ("", None), "{template}");
            assert!(!template.split_once('?').is_some_and(|(_, query)| query.contains('{')), "{template}");
            let (host, _) = template["https://".len()..].split_once('/').unwrap_or((template, ""));
            assert!(host.matches('{').count() <= 1, "{template}");
        }
        // Origins open every host and plain HTTP: none of ours needs that.
        for setting in profile.settings.values() {
            assert_ne!(setting.pattern, Some(Pattern::Origin), "{}", profile.name);
        }
    }
}

#[test]
fn every_strict_profile_says_what_dead_looks_like() {
    for profile in Catalogue::embedded().unwrap().iter() {
        let Some(rotation) = &profile.rotation else {
            continue;
        };
        let strict = [false, true]
            .map(|rotated| rotation.class(rotated))
            .iter()
            .any(|class| matches!(class, RotationClass::Strict));
        let dead = profile.errors.iter().any(|rule| rule.means == Means::Dead);
        assert!(!strict || dead, "{}", profile.name);
    }
}

#[test]
fn every_provider_that_cannot_be_told_names_a_page_for_its_users() {
    for profile in Catalogue::embedded().unwrap().iter() {
        let told = profile.revocation.style != RevocationStyle::None;
        assert!(told || profile.revocation.manual_url.is_some(), "{}", profile.name);
    }
}

#[test]
fn summaries_show_what_people_choose_by() {
    let catalogue = Catalogue::embedded().unwrap();
    let summary = |name: &str| serde_json::to_value(catalogue.summary(name).unwrap()).unwrap();
    let salesforce = summary("salesforce");
    assert_eq!(salesforce["rotation"], "N");
    assert_eq!(salesforce["rotation_when_rotating"], "X");
    assert_eq!(salesforce["revocation"], serde_json::json!({"supported": true, "reach": "grant"}));
    assert_eq!(salesforce["settings"][0]["name"], "host");
    assert_eq!(salesforce["settings"][0]["required"], false);
    let oidc = summary("oidc");
    assert_eq!(oidc["rotation"], "unknown");
    assert_eq!(oidc["discovery"], "oidc");
    assert_eq!(oidc["endpoints_from_connector"], true);
    assert_eq!(summary("slack")["pkce"], false);
    assert_eq!(summary("microsoft")["revocation"], serde_json::json!({"supported": false}));
    assert_eq!(catalogue.summaries().len(), 14);
    assert_eq!(catalogue.summary("nobody"), None);
}

const PLAIN: &str = r#"
name = "plain"
title = "Plain"
docs = "https://docs.example/"
reviewed_on = "2026-11-21"
[endpoints]
source = "https://docs.example/"
authorization = "https://idp.example/authorize"
token = "https://idp.example/token"
[revocation]
source = "https://docs.example/"
manual_url = "https://docs.example/remove"
"#;

fn load(files: &[(&str, &str)]) -> (TempDir, Result<Catalogue, CatalogueError>) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let loaded = Catalogue::load(Some(directory.path()));
    (directory, loaded)
}

#[test]
fn a_plain_profile_takes_a_dozen_lines() {
    let (_directory, loaded) = load(&[("plain.toml", PLAIN), ("notes.txt", "no profile")]);
    assert_eq!(loaded.unwrap().find("plain").unwrap().title, "Plain");
}

#[test]
fn a_file_of_the_same_name_replaces_an_embedded_profile() {
    let mine = PLAIN.replace("name = \"plain\"", "name = \"google\"");
    let (_directory, loaded) = load(&[("google.toml", &mine)]);
    let catalogue = loaded.unwrap();
    assert_eq!(catalogue.find("google").unwrap().title, "Plain");
    assert_eq!(catalogue.iter().count(), 14);
}

/// Additions to the plain profile that must be refused, each with what the fault says.
const REFUSED: &[(&str, &str)] = &[
    ("[rotation]\nclass = \"X\"", "missing field `source`"),
    ("[rotation]\nsource = \"x\"\nclass = \"N\"", "https addresses are needed"),
    ("[rotation]\nsource = \"https://d.example\"\nclass = \"Y\"", "unknown variant"),
    ("[rotation]\nsource = \"https://d.example\"\nclass = \"X\"", "a rule that means `dead`"),
    ("[rotation]\nsource = \"https://d.example\"\nclass = \"G\"", "class G needs it"),
    ("[rotation]\nsource = \"https://d.example\"\nclass = \"N\"\ngrace_s = 5", "belongs to class G"),
    ("[rotation]\nsource = \"https://d.example\"\nclass = \"S\"\nclass_when_rotating = \"N\"", "must be stricter"),
    ("[lives]\naccess_s = 60", "without a `source`"),
    ("[lives]\nsource = \"https://d.example\"\naccess_s = 0", "is none"),
    ("[lives]\nsource = \"https://d.example\"\naccess_s = -1", "invalid value"),
    ("[authorize]\nsource = \"https://d.example\"\nparams = { state = \"x\" }", "not for profiles to set"),
    ("[client]\nsource = \"https://d.example\"\nheaders = { Host = \"x\" }", "not for profiles to set"),
    ("[client]\nsource = \"https://d.example\"\nheaders = { x = \"a\\nb\" }", "not one of a header"),
    ("[client]\nsource = \"https://d.example\"\nauthentication = [\"jwt\"]", "unknown variant"),
    ("[client]\nsource = \"https://d.example\"\ncolour = \"red\"", "unknown field `colour`"),
    ("[[errors]]\nsource = \"https://d.example\"\nmeans = \"dead\"", "needs `status`, `code` or `contains`"),
    ("[[account]]\nsource = \"https://d.example\"\nfrom = \"userinfo\"", "userinfo needs a url"),
    (
        "[[account]]\nsource = \"https://d.example\"\nfrom = \"callback\"\nsubject = [\"realmId\"]",
        "listed in callback.keep",
    ),
    (
        "[[account]]\nsource = \"https://d.example\"\nfrom = \"answer\"\nissuer = \"https://x.example/{claim.tid}\"",
        "those of an id_token",
    ),
    ("[settings.Bad]\nsource = \"https://d.example\"\ntitle = \"x\"", "a setting is named by"),
    ("[settings.x]\ntitle = \"x\"", "missing field `source`"),
    ("[settings.x]\nsource = \"https://d.example\"\ntitle = \"x\"\ndefault = \"a/b\"", "its default does not fit"),
];

#[test]
fn what_a_profile_may_not_say_is_refused() {
    for (addition, said) in REFUSED {
        let (_directory, loaded) = load(&[("plain.toml", &format!("{PLAIN}{addition}\n"))]);
        let error = loaded.expect_err(addition).to_string();
        assert!(error.contains(said), "{addition}\n{error}");
    }
}

#[test]
fn an_address_that_could_lead_elsewhere_is_refused() {
    let setting = "[settings.x]\nsource = \"https://d.example\"\ntitle = \"x\"\n";
    for bad in [
        "http://idp.example/token",
        "https://user@idp.example/token",
        "https://{x}@idp.example/token",
        "https://idp.example/token#x",
        "https://idp.example/token?x={x}",
        "https://idp.example/{y}",
        "https://idp.example/{x",
        "https://idp.example/x}",
        "https://idp.example/ token",
        "{x}/token",
        "/token",
        "",
    ] {
        let text = PLAIN.replace("https://idp.example/token", bad);
        let (_directory, loaded) = load(&[("plain.toml", &format!("{text}{setting}"))]);
        assert!(loaded.is_err(), "{bad}");
    }
    for good in ["https://{x}.idp.example/token", "https://idp.example/{x}/token?fixed=1"] {
        let text = PLAIN.replace("https://idp.example/token", good);
        let (_directory, loaded) = load(&[("plain.toml", &format!("{text}{setting}"))]);
        assert!(loaded.is_ok(), "{good}");
    }
}

#[test]
fn every_fault_of_every_file_is_reported_with_its_place() {
    let (directory, loaded) = load(&[
        ("a.toml", "name = \"a\"\ntitle = \n"),
        ("b.toml", &PLAIN.replace("2026-11-21", "yesterday").replace("Plain", " ")),
        ("c.toml", &format!("{PLAIN}[rotation]\nclass = \"X\"\n")),
    ]);
    let faults = loaded.unwrap_err().faults;
    let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let file = |name: &str| directory.path().join(name).display().to_string();
    assert!(shown[0].starts_with(&format!("{}: line 2, column 9: ", file("a.toml"))), "{}", shown[0]);
    let of_b: Vec<_> = faults.iter().filter(|fault| fault.file == file("b.toml")).collect();
    let places: Vec<_> = of_b.iter().map(|fault| fault.place.as_str()).collect();
    assert_eq!(places, ["name", "title", "reviewed_on"]);
    let c = shown.last().unwrap();
    assert!(c.contains(": line 13, column 1: missing field `source`"), "{c}");
}

#[test]
fn a_directory_that_is_not_there_is_a_fault() {
    let directory = tempfile::tempdir().unwrap();
    let error = Catalogue::load(Some(&directory.path().join("none"))).unwrap_err();
    assert!(error.to_string().contains("the directory cannot be read"), "{error}");
}

#[test]
fn the_example_of_the_documentation_loads() {
    let documentation =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/providers.md")).unwrap();
    let start = documentation.find("name = \"acme\"").unwrap();
    let example = documentation[start..].split("```").next().unwrap();
    let (_directory, loaded) = load(&[("acme.toml", example)]);
    assert!(loaded.unwrap().find("acme").is_some());
}
