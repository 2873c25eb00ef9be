//! Faults of a provider, what each means, and what has to become of the connection that meets it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use valetkey_core::Timestamp;
use valetkey_sandbox::{Commit, Fault, FaultRule, Rotation};

use crate::{Client, ConnectorSpec, Seeded, TestApp, TestConnector, Work, extra::time_of};

/// When the fault strikes: before the last tenth of an hour's life, and with a token that is good for ten minutes.
const STRIKES_AT: Duration = Duration::from_secs(3_000);

/// The last tenth of an hour begins: a strict token whose outcome is unknown may be presented again.
const LAST_TENTH: Duration = Duration::from_secs(3_240);

/// What an answer, or a silence, means (DESIGN.md, section 6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// New tokens.
    Granted,
    /// Surely nothing reached the provider.
    NotSent,
    /// Nothing was processed.
    Refused,
    /// The provider asks for patience: nothing is tried for this long, in seconds.
    Limited {
        /// At least.
        least: u64,
        /// At most.
        most: u64,
    },
    /// Nobody knows what the provider did.
    Unknown,
    /// The same, and the provider asks for patience: this long, in seconds, unless the class waits longer by itself.
    Away {
        /// At least.
        least: u64,
        /// At most.
        most: u64,
    },
    /// The grant is dead, for this reason.
    Dead(&'static str),
    /// Our client is refused: no connection is to blame.
    Client,
}

/// A fault, and what it has to be taken for.
#[derive(Debug, Clone)]
pub struct FaultCase {
    name: String,
    fault: Option<Fault>,
    token_endpoint: Option<String>,
    provider: Option<&'static str>,
    code: &'static str,
    class: Class,
}

impl FaultCase {
    /// A fault of the provider's answer.
    pub fn new(name: &str, fault: Fault, code: &'static str, class: Class) -> Self {
        Self { name: name.to_owned(), fault: Some(fault), token_endpoint: None, provider: None, code, class }
    }

    /// A token endpoint that cannot be reached.
    pub fn unreachable(name: &str, token_endpoint: String, code: &'static str) -> Self {
        let token_endpoint = Some(token_endpoint);
        Self { name: name.to_owned(), fault: None, token_endpoint, provider: None, code, class: Class::NotSent }
    }

    /// The same fault at the provider that this profile describes; the app needs [`vendor_profiles`].
    #[must_use]
    pub fn at(mut self, provider: &'static str) -> Self {
        self.provider = Some(provider);
        self
    }

    fn spec(&self, app: &TestApp) -> ConnectorSpec {
        let base = app.provider_url();
        let spec = ConnectorSpec::oauth2().rotation(Rotation::Strict);
        match (self.provider, &self.token_endpoint) {
            (Some(provider), _) => {
                spec.with("provider", json!(provider)).with("settings", json!({ "origin": base })).without_endpoints()
            }
            (None, Some(token)) => {
                spec.with("endpoints", json!({ "authorization": format!("{base}/authorize"), "token": token }))
            }
            (None, None) => spec,
        }
    }
}

/// A fault case with a connection that meets it.
struct Struck<'a> {
    case: &'a FaultCase,
    connector: TestConnector,
    seeded: Seeded,
}

impl TestApp {
    /// Each fault strikes a connection of its own, of a strictly rotating provider: it is taken for what it is, a token
    /// that is still good is handed out, and the connection recovers as its class allows, without a token presented
    /// twice in vain.
    pub async fn classify(&self, cases: &[FaultCase]) {
        let mut struck = Vec::new();
        for case in cases {
            let connector = self.connector(case.spec(self)).await;
            let seeded = self.seed_import(&connector, &["u-1"]).await.remove(0);
            struck.push(Struck { case, connector, seeded });
        }
        let ids: Vec<&str> = struck.iter().map(|each| each.connector.id.as_str()).collect();
        let key = self.key(&["connector"], Some(&ids), "default").await;
        let start = self.clock.now();
        self.advance(STRIKES_AT);
        for each in &struck {
            self.strike(&key, each).await;
        }
        self.nothing_is_presented_too_early(&struck).await;
        self.everything_recovers(&key, &struck, start).await;
    }

    async fn strike(&self, key: &Client, struck: &Struck<'_>) {
        let Struck { case, connector, seeded } = struck;
        let (name, id) = (&case.name, &seeded.connection_id);
        if let Some(fault) = &case.fault {
            let rule = FaultRule::refresh(fault.clone()).client(&connector.client_id);
            // Where the answer counts as unknown, nothing has happened: what is lost then is lost for nothing.
            self.provider().inject(if case.class == Class::Granted { rule } else { rule.commit(Commit::Never) });
        }
        let before = self.clock.now();
        // A life that is asked for starts the refresh while the current token is good for ten minutes.
        let body = json!({ "user_id": "u-1", "min_ttl": 700 });
        let answer = key.post(&connector.path("/token"), &body).await;
        let after = self.clock.now();
        match case.class {
            Class::Dead(reason) => {
                assert_eq!(answer.status, 409, "{name}: {}", answer.text);
                assert_eq!(answer.expect_problem(409, "reconnect-required").json["reason"], reason, "{name}");
            }
            Class::Granted => {
                assert_eq!((answer.status, &answer.json["generation"]), (200, &json!(2)), "{name}: {}", answer.text);
                assert!(self.provider().is_access_token_live(&answer.text_of("access_token")), "{name}");
            }
            _ => {
                assert_eq!(answer.status, 200, "{name}: {}", answer.text);
                assert_eq!(answer.json["access_token"], seeded.access_token.as_str(), "{name}: the token that is good");
                let left = answer.json["expires_in"].as_u64().unwrap_or_default();
                assert!((500..=600).contains(&left), "{name}: honest, {left} s");
            }
        }
        let sent = usize::from(case.fault.is_some());
        assert_eq!(self.refreshes(connector).len(), sent, "{name}: sent once, not repeated, not redirected");

        let connection = self.connection(id).await;
        let (status, state, outcome) = match case.class {
            Class::Granted => ("active", "settled", "settled"),
            Class::NotSent | Class::Refused | Class::Limited { .. } | Class::Client => ("active", "unsent", case.code),
            Class::Unknown | Class::Away { .. } => ("active", "repeat_allowed", case.code),
            Class::Dead(_) => ("needs_reauth", "dead", case.code),
        };
        assert_eq!(connection["status"], status, "{name}: {connection}");
        let seen = self.attempt(id).await;
        assert_eq!((seen.state.as_str(), seen.outcome.as_str()), (state, outcome), "{name}");
        if case.class == Class::Client {
            assert_eq!(
                (&connection["refreshing"], &connection["last_attempt"]),
                (&json!("ok"), &Value::Null),
                "{name}"
            );
        } else {
            assert_eq!(connection["last_attempt"]["outcome"], outcome, "{name}");
            let refreshing = if case.class == Class::Granted { "ok" } else { "failing" };
            assert_eq!(connection["refreshing"], refreshing, "{name}");
        }
        let (least, most) = match case.class {
            Class::Granted | Class::Dead(_) => (None, None),
            Class::NotSent | Class::Refused => (Some(before), Some(after.plus(Duration::from_secs(2)))),
            Class::Limited { least, most } => {
                (Some(before.plus(Duration::from_secs(least))), Some(after.plus(Duration::from_secs(most))))
            }
            Class::Client => (Some(before.plus(Duration::from_secs(30))), Some(after.plus(Duration::from_secs(60)))),
            Class::Unknown => {
                let last_tenth = time_of(&connection["expires_at"]).minus(Duration::from_secs(360));
                (Some(last_tenth.minus(Duration::from_secs(1))), Some(last_tenth.plus(Duration::from_secs(1))))
            }
            Class::Away { least, most } => {
                let last_tenth = time_of(&connection["expires_at"]).minus(Duration::from_secs(360));
                let (least, most) = (Duration::from_secs(least), Duration::from_secs(most + 1));
                (
                    Some(before.plus(least).max(last_tenth.minus(Duration::from_secs(1)))),
                    Some(after.plus(most).max(last_tenth.plus(Duration::from_secs(1)))),
                )
            }
        };
        if let (Some(least), Some(most)) = (least, most) {
            let next = seen.next_try_at;
            assert!(least <= next && next <= most, "{name}: next try {next}, not between {least} and {most}");
        }
        let is_open = match case.class {
            Class::Limited { .. } | Class::Client => true,
            Class::Away { most, .. } => most > 0,
            _ => false,
        };
        let open = format!("SELECT COUNT(*) FROM circuits WHERE connector_id = '{}'", connector.id);
        assert_eq!(self.number(&open).await, i64::from(is_open), "{name}: circuit");
    }

    /// Half a minute later: what was surely not processed is tried again, what may have been is not.
    async fn nothing_is_presented_too_early(&self, struck: &[Struck<'_>]) {
        self.advance(Duration::from_secs(20));
        self.run(Work::Refresh).await;
        for Struck { case, connector, seeded } in struck {
            let name = &case.name;
            let presented = self.refreshes(connector).len();
            let connection = self.connection(&seeded.connection_id).await;
            match case.class {
                Class::NotSent => assert_eq!((presented, &connection["generation"]), (0, &json!(1)), "{name}"),
                Class::Refused => assert_eq!((presented, &connection["generation"]), (2, &json!(2)), "{name}"),
                Class::Limited { most, .. } if most < 20 => assert_eq!(presented, 2, "{name}"),
                _ => assert_eq!(presented, 1, "{name}: presented too early"),
            }
        }
    }

    /// Once everything had its time: only what the provider called dead is dead, and nothing was presented in vain.
    async fn everything_recovers(&self, key: &Client, struck: &[Struck<'_>], start: Timestamp) {
        self.advance_to(start.plus(LAST_TENTH + Duration::from_secs(5)));
        self.run(Work::Refresh).await;
        for Struck { case, connector, seeded } in struck.iter().filter(|each| each.case.class == Class::Unknown) {
            let connection = self.connection(&seeded.connection_id).await;
            assert_eq!(connection["generation"], 2, "{}: found out in time: {connection}", case.name);
            assert_eq!(self.refreshes(connector).len(), 2, "{}", case.name);
        }
        // A limit of a day counts as one of an hour.
        for _ in 0..3 {
            self.advance(Duration::from_secs(1_300));
            self.run(Work::Refresh).await;
        }
        for Struck { case, connector, seeded } in struck {
            let name = &case.name;
            let connection = self.connection(&seeded.connection_id).await;
            match case.class {
                Class::Dead(_) => {
                    assert_eq!(connection["status"], "needs_reauth", "{name}");
                    assert_eq!(self.refreshes(connector).len(), 1, "{name}: a dead grant is left alone");
                }
                Class::NotSent => assert_eq!(connection["status"], "active", "{name}"),
                _ => {
                    assert_eq!(
                        (&connection["status"], &connection["refreshing"]),
                        (&json!("active"), &json!("ok")),
                        "{name}: {connection}"
                    );
                    let body = json!({ "user_id": "u-1" });
                    let answer = key.post(&connector.path("/token"), &body).await;
                    assert_eq!(answer.status, 200, "{name}: {}", answer.text);
                    // A life that was not said, or a lie, may outlive the token.
                    let is_live = self.provider().is_access_token_live(&answer.text_of("access_token"));
                    assert!(is_live || case.class == Class::Granted, "{name}");
                }
            }
            let reused = self.refreshes(connector).iter().filter(|event| event.reuse).count();
            assert_eq!(reused, 0, "{name}: a spent token was presented");
        }
        let open = self.number("SELECT COUNT(*) FROM circuits").await;
        assert_eq!(open, 0, "every circuit is closed again");
    }
}

/// The profiles of vendors whose errors are not those of RFC 6749, with their own rules, at the address of the sandbox.
pub fn vendor_profiles(directory: &Path) -> PathBuf {
    const PROFILES: [(&str, &str); 6] = [
        ("slack", include_str!("../../../crates/providers/profiles/slack.toml")),
        ("github-app", include_str!("../../../crates/providers/profiles/github-app.toml")),
        ("atlassian", include_str!("../../../crates/providers/profiles/atlassian.toml")),
        ("microsoft", include_str!("../../../crates/providers/profiles/microsoft.toml")),
        ("salesforce", include_str!("../../../crates/providers/profiles/salesforce.toml")),
        ("hubspot", include_str!("../../../crates/providers/profiles/hubspot.toml")),
    ];
    let folder = directory.join("profiles");
    fs::create_dir_all(&folder).expect("a folder");
    for (name, text) in PROFILES {
        let endpoints =
            BTreeMap::from([("authorization", "/authorize"), ("token", "/token"), ("revocation", "/revoke")]);
        let mut moved = String::new();
        for line in text.lines() {
            let member = line.split(" = ").next().unwrap_or_default();
            match endpoints.get(member).filter(|_| line.contains("\"https://")) {
                Some(path) => writeln!(moved, "{member} = \"{{origin}}{path}\"").expect("memory takes it"),
                None => writeln!(moved, "{line}").expect("memory takes it"),
            }
        }
        moved.push_str(
            "\n[settings.origin]\nsource = \"https://docs.example/\"\ntitle = \"Origin\"\npattern = \"origin\"\n",
        );
        fs::write(folder.join(format!("{name}.toml")), moved).expect("a file");
    }
    folder
}
