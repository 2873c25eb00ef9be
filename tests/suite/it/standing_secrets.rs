//! No secret shows up where it does not belong: in no answer, header, page, log line, number, database or file.
//!
//! One walk through everything leaves its secrets; then everything that left the server, and everything that it stored, is
//! searched for them in each form and for each piece. What this whole run of tests witnessed is searched for every secret that
//! it came by, and by the marks that secrets begin with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    panic::catch_unwind,
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use valetkey_suite::{
    Browser, Canaries, ConnectorSpec, EXEMPT_FIELDS, Engine, Setup, TestApp, Work, engine_tests,
    extra::text_of,
    record,
    sandbox::{Fault, FaultRule, Rotation},
    searched, until_all_is_quiet, with_planted, witnessed,
};

/// What tokens, codes, keys and client secrets of the tests begin with.
const MARKS: [&str; 5] = ["sbx_at_", "sbx_rt_", "sbx_code_", KEY_MARK, "planted-client-secret-"];

/// Short enough to be found in random text: what follows decides.
const KEY_MARK: &str = "vk_";

/// Whether a text that begins with the mark of a key goes on like one: its id, and its secret behind an underscore.
fn is_key(text: &str) -> bool {
    let rest = text.as_bytes().get(KEY_MARK.len()..).unwrap_or_default();
    rest.len() > 27 && rest[..26].iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'v')) && rest[26] == b'_'
}

/// One thing that left the server: by which way, and what.
pub(crate) struct Seen<'a> {
    pub(crate) kind: &'a str,
    text: String,
}

/// The records of the witness. Their first line begins with the way in brackets.
pub(crate) fn records(witnessed: &str) -> Vec<Seen<'_>> {
    let mut found: Vec<Seen<'_>> = Vec::new();
    for line in witnessed.lines() {
        let opening =
            ["[answer ", "[page ", "[log] ", "[panic] ", "[file] "].iter().any(|start| line.starts_with(start));
        match (opening, found.last_mut()) {
            (true, _) | (false, None) => {
                let (kind, text) = line.trim_start_matches('[').split_once("] ").unwrap_or(("", line));
                found.push(Seen { kind, text: text.to_owned() });
            }
            (false, Some(last)) => {
                last.text.push('\n');
                last.text.push_str(line);
            }
        }
    }
    found
}

/// The secrets of a walk.
#[derive(Default)]
pub(crate) struct Walk {
    pub(crate) secrets: Canaries,
}

impl Walk {
    pub(crate) fn keep(&mut self, secret: impl AsRef<str>, what: &'static str) {
        self.secrets.plant(secret.as_ref(), what);
    }

    /// Goes through a flow step by step; the handle and the flow.
    async fn connect(
        &mut self,
        app: &TestApp,
        connector: &valetkey_suite::TestConnector,
        body: &Value,
        browser: &Browser,
    ) {
        let started = app.start_flow(connector, body).await;
        self.keep(started.start_url.rsplit('/').next().unwrap_or_default(), "a ticket");
        browser.get(&started.start_url).await.expect(200);
        let page = browser.post_start(&started.start_url).await.expect(200);
        let location = text_of(&serde_json::from_str::<Value>(&page.html).expect("JSON")["location"]);
        for (name, value) in url::Url::parse(&location).expect("an address").query_pairs() {
            if ["state", "nonce"].contains(&&*name) {
                self.keep(&value, "a state or nonce");
            }
        }
        self.keep(browser.cookie("vk_").expect("a cookie").1, "a cookie");
        let callback = browser.consent(&location).await;
        for (name, value) in url::Url::parse(&callback).expect("an address").query_pairs() {
            if name == "code" {
                self.keep(&value, "a code");
            }
        }
        let page = browser.get(&callback).await;
        if let Some(home) = valetkey_suite::Home::find(&page) {
            self.keep(home.handle(), "a handle");
            let person = body[connector.person()].as_str().expect("a person");
            app.finish(connector, &home, person).await.expect(200).done();
        }
    }

    /// What of it is found in what was witnessed from here on.
    pub(crate) fn hits_since(&self, before: usize) -> Vec<String> {
        let witnessed = witnessed();
        let hits = records(&witnessed[before..]).into_iter().flat_map(|seen| {
            let found = self.secrets.find(seen.text.as_bytes()).into_iter();
            found.map(move |hit| format!("{hit} in {}: {}", seen.kind, seen.text)).collect::<Vec<_>>()
        });
        hits.collect()
    }

    /// What of it is found in the files and rows of an app.
    pub(crate) fn hits_stored(&self, app: &TestApp) -> Vec<String> {
        app.hits_stored(&self.secrets).into_iter().map(|(place, hit)| format!("{hit} in {place}")).collect()
    }
}

/// Everything that can be done with secrets, right and wrong.
pub(crate) async fn walk(app: &TestApp) -> Walk {
    let mut walk = Walk::default();
    let connector = app.connector(ConnectorSpec::oidc().rotation(Rotation::Strict)).await;
    let confirmed = app.connector(ConnectorSpec::oauth2().confirm_page()).await;
    walk.keep(&connector.client_secret, "a client secret");
    walk.keep(&confirmed.client_secret, "a client secret");
    for (user, body) in [("u-1", connector.popup("u-1")), ("u-2", connector.redirect("u-2"))] {
        walk.connect(app, &connector, &body, &app.browser(user)).await;
    }
    walk.connect(app, &confirmed, &confirmed.popup("u-1"), &app.browser("u-3")).await;
    failing_flows(app, &mut walk, &connector).await;
    tokens(app, &mut walk, &connector).await;
    mistakes(app, &mut walk, &connector).await;
    for work in Work::ALL {
        app.run(work).await;
    }
    app.admin().delete(&confirmed.path("")).await.expect(200).done();
    app.settle().await;
    for list in [
        "/v1/audit?limit=200",
        "/v1/connections",
        "/v1/connectors",
        "/v1/keys?limit=200",
        "/v1/revocations",
        "/metrics",
        "/openapi.json",
    ] {
        app.admin().get(list).await.expect(200).done();
    }
    walk
}

async fn failing_flows(app: &TestApp, walk: &mut Walk, connector: &valetkey_suite::TestConnector) {
    // What a provider says in words is nobody's business.
    let told = "planted-words-of-the-provider";
    walk.keep(told, "a provider's error text");
    app.provider().update_settings(|settings| {
        settings.authorize.error = Some("invalid_scope".to_owned());
        settings.authorize.error_description = Some(told.to_owned());
    });
    let started = app.start_flow(connector, &connector.redirect("u-3")).await;
    let browser = app.browser("u-3");
    let back = browser.consent(&browser.open(&started.start_url).await).await;
    browser.get(&back).await;
    app.provider()
        .update_settings(|settings| settings.authorize = valetkey_suite::sandbox::AuthorizeSettings::default());
    let started = app.start_flow(connector, &connector.redirect("u-3")).await;
    let back = browser.consent(&browser.open(&started.start_url).await).await;
    let stranger = app.browser("stranger");
    stranger.get(&back).await;
    stranger.post_start(&started.start_url).await;
    let made_up = "code=planted-code-out-of-nowhere&state=planted-state-out-of-nowhere";
    stranger.get(&app.url(&format!("/oauth/callback/{}?{made_up}", connector.id))).await;
    walk.keep("planted-code-out-of-nowhere", "a made-up code");
    walk.keep("planted-state-out-of-nowhere", "a made-up state");
    let home = browser.come_home(&back).await;
    walk.keep(home.handle(), "a handle");
    app.finish(connector, &home, "somebody-else").await.expect(403).done();
    let words = format!("{{\"error\":\"{told}\",\"error_description\":\"{told}\"}}");
    let fault = Fault::Status { code: 400, body: words, headers: BTreeMap::new() };
    app.provider().inject(FaultRule::token(fault.clone()));
    let started = app.start_flow(connector, &connector.redirect("u-3")).await;
    let home = browser.walk(&started.start_url).await;
    app.finish(connector, &home, "u-3").await.expect(409).done();
    app.provider().inject(FaultRule::refresh(fault.clone()));
    app.provider().inject(FaultRule::revoke(Fault::Status {
        code: 400,
        body: told.to_owned(),
        headers: BTreeMap::new(),
    }));
}

async fn tokens(app: &TestApp, walk: &mut Walk, connector: &valetkey_suite::TestConnector) {
    for seeded in app.seed_import(connector, &["u-4", "u-5"]).await {
        walk.keep(seeded.access_token, "an imported access token");
        walk.keep(seeded.refresh_token.expect("one"), "an imported refresh token");
    }
    let key = app.api_key(&["connector", "app"], Some(&[&connector.id])).await;
    walk.keep(&key, "an API key");
    walk.keep(key.rsplit('_').next().unwrap_or_default(), "the secret part of an API key");
    let client = app.caller(&key);
    let path = connector.path("/token");
    for user in ["u-1", "u-4"] {
        // The first refresh meets the provider's words, the second works.
        for _ in 0..3 {
            let answer = client.post(&path, &json!({ "user_id": user })).await.expect(200);
            walk.keep(answer.text_of("access_token"), "an access token");
            let rejected = json!({ "user_id": user, "rejected": answer.json["fingerprint"] });
            let next = client.post(&path, &rejected).await;
            if next.status == 200 {
                walk.keep(next.text_of("access_token"), "an access token");
            }
            app.advance(Duration::from_secs(61));
        }
    }
    let start = json!({ "mode": "redirect", "return_url": valetkey_suite::RETURN_URL });
    let offered = client.post(&path, &json!({ "user_id": "nobody", "start": start })).await.expect(404);
    let link = text_of(&offered.json["start"]["start_url"]);
    walk.keep(link.rsplit('/').next().unwrap_or_default(), "a ticket");
    app.application().post(&connector.path("/disconnect"), &json!({ "user_id": "u-5" })).await.expect(200).done();
}

/// Secrets in places where they do not belong, as people and programs put them there.
async fn mistakes(app: &TestApp, walk: &mut Walk, connector: &valetkey_suite::TestConnector) {
    let wrong = "planted-in-a-wrong-place-0123456789";
    walk.keep(wrong, "a secret in the wrong place");
    let admin = app.admin();
    let path = connector.path("/token");
    let client = app.connector_client(&connector.id).await;
    client.post(&path, &json!({ "user_id": "u-1", "rejected": wrong })).await.expect(422).done();
    client.post(&path, &json!({ "user_id": { "secret": wrong } })).await.expect(422).done();
    client.post(&path, &json!({ "user_id": "u-1", "min_ttl": wrong })).await.expect(422).done();
    client.post_raw(&path, "application/json", format!("{{\"user_id\": {wrong}}}")).await.expect(400).done();
    client.get(&format!("{path}?access_token={wrong}")).await.expect(405).done();
    client.get(&format!("/v1/connections/{wrong}")).await.expect(403).done();
    admin.get(&format!("/v1/connections/{wrong}")).await.expect(400).done();
    admin.get(&format!("/v1/connections?token={wrong}")).await.expect(400).done();
    admin.get(&format!("/v1/connections?{wrong}=1")).await.expect(400).done();
    admin.get(&format!("/v1/connections?status={wrong}")).await.expect(400).done();
    admin.get(&format!("/{wrong}")).await.expect(404).done();
    app.caller(&format!("vk_{wrong}")).get("/v1/keys").await.expect(401).done();
    app.caller(wrong).get("/v1/keys").await.expect(401).done();
    admin.patch(&connector.path(""), &json!({ "client_secrets": wrong })).await.expect(422).done();
    admin.patch(&connector.path(""), &json!({ "client_id": wrong })).await.expect(409).done();
    let body = ConnectorSpec::oauth2().with("rotation", json!(wrong)).body(app.provider_url());
    admin.post("/v1/connectors", &body).await.expect(422).done();
    let body = ConnectorSpec::oauth2()
        .with("client_secrets", json!([wrong]))
        .with("provider", json!("none"))
        .body(app.provider_url());
    admin.post("/v1/connectors", &body).await.expect(422).done();
    let line = json!({ "connector_id": connector.id, "user_id": "u-1", "refresh_token": wrong, "acess_token": wrong });
    let lines = format!("{line}\n{{\"refresh_token\":\"{wrong}\n");
    admin.post_raw("/v1/connections/import", "application/x-ndjson", lines).await.expect(200).done();
    let request =
        admin.request(Method::GET, "/v1/keys").header("cookie", format!("vk={wrong}")).header("x-secret", wrong);
    admin.send(request).await.expect(200).done();
}

engine_tests! {
    async fn no_secret_of_a_walk_through_everything_shows_up_anywhere(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.limits.starts_per_minute_and_user = 100),
    ) {
        let mut app = app;
        let before = witnessed().len();
        let walk = walk(&app).await;
        assert!(walk.secrets.len() > 25, "{:?}", walk.secrets.kinds());
        let count = records(&witnessed()[before..]).len();
        assert!(count > 120, "{count} records");
        assert_eq!(walk.hits_since(before), Vec::<String>::new());
        assert_eq!(walk.hits_stored(&app), Vec::<String>::new());
        // What a stopped server leaves behind is no different.
        app.stop().await;
        assert_eq!(walk.hits_stored(&app), Vec::<String>::new());
    }

    async fn a_secret_that_was_let_out_is_found_in_each_place(app: TestApp) {
        let mut walk = Walk::default();
        let before = witnessed().len();
        let let_out = format!("canary-let-out-on-purpose-{}", app.engine());
        walk.keep(&let_out, "a canary");
        app.connector(ConnectorSpec::oauth2().with("name", json!(let_out))).await;
        app.admin().get("/v1/connectors").await.expect(200).done();
        // As a header, and in the log.
        let request = app.admin().request(Method::POST, "/v1/keys").header("x-request-id", &let_out);
        app.admin().send(request).await.expect(422).done();
        // In the words of a panic, and in a number's name.
        let panicking = let_out.clone();
        assert!(catch_unwind(move || panic!("{panicking}")).is_err());
        record("answer GET /metrics", &format!("200 {{}}\nvaletkey_limited_total{{limit=\"{let_out}\"}} 1"));
        // On a page.
        let connector = app.connector(ConnectorSpec::oauth2().confirm_page()).await;
        let mut flow = connector.popup("u-1");
        flow["user_display"] = json!(let_out);
        let started = app.start_flow(&connector, &flow).await;
        let browser = app.browser("u-1");
        browser.walk_to_confirm(&started.start_url).await;
        let hits = walk.hits_since(before);
        let is_hit = |place: &str, part: &str| {
            assert!(hits.iter().any(|hit| hit.contains(place) && hit.contains(part)), "{place}: {hits:?}");
        };
        is_hit(" in answer GET /v1/connectors:", &let_out);
        is_hit(" in answer POST /v1/connectors:", &let_out);
        is_hit(" in answer POST /v1/keys:", "x-request-id");
        is_hit(" in answer GET /metrics:", &let_out);
        is_hit(" in log:", &let_out);
        is_hit(" in panic:", &let_out);
        is_hit(" in page GET /oauth/callback/", &let_out);
        // In the database, in what SQLite writes before it, and in a file that somebody left.
        fs::create_dir_all(app.data_dir()).expect("a folder");
        fs::write(app.data_dir().join("left.tmp"), &let_out).expect("a file");
        // In a column of bytes, under another encoding.
        let encoded = data_encoding::BASE64.encode(let_out.as_bytes());
        let bytes = match app.engine() {
            Engine::Sqlite => format!("CAST('{encoded}' AS BLOB)"),
            Engine::Postgres => format!("convert_to('{encoded}', 'UTF8')"),
        };
        app.change(&format!("UPDATE flows SET browser_hash = {bytes} WHERE id = '{}'", started.flow_id)).await;
        let stored = walk.hits_stored(&app);
        let places: &[&str] = match app.engine() {
            Engine::Sqlite => &["valetkey.db-wal", "left.tmp"],
            Engine::Postgres => &["table connectors", "table flows.browser_hash", "left.tmp"],
        };
        for place in places {
            assert!(stored.iter().any(|hit| hit.ends_with(place)), "{place}: {stored:?}");
        }
    }
}

#[test]
fn the_exempt_fields_are_those_of_the_document() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let document: Value = serde_json::from_str(&fs::read_to_string(path).expect("docs/openapi.json")).expect("JSON");
    let mut secret = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            for answer in operation["responses"].as_object().expect("responses").values() {
                for content in answer["content"].as_object().into_iter().flat_map(|content| content.values()) {
                    secret_members(&document, &content["schema"], String::new(), &mut |pointer| {
                        secret.insert((method.to_uppercase(), path.clone(), pointer));
                    });
                }
            }
        }
    }
    let exempt: BTreeSet<_> = EXEMPT_FIELDS
        .iter()
        .map(|(method, path, pointer, _)| ((*method).to_owned(), (*path).to_owned(), (*pointer).to_owned()))
        .collect();
    // A member that problems may have beside their own (RFC 9457, section 3.2).
    secret.insert(("POST".to_owned(), "/v1/connectors/{id}/token".to_owned(), "/start/start_url".to_owned()));
    assert_eq!(secret, exempt);
}

/// What members of answers are called that carry a secret, or would.
const SECRET_NAMES: [&str; 14] = [
    "access_token",
    "refresh_token",
    "id_token",
    "token",
    "key",
    "secret",
    "secret_hash",
    "client_secret",
    "client_secrets",
    "code_verifier",
    "verifier",
    "handle",
    "ticket",
    "start_url",
];

/// Tells of every text below this schema whose name is one of a secret.
fn secret_members(document: &Value, schema: &Value, at: String, tell: &mut impl FnMut(String)) {
    if let Some(name) = schema["$ref"].as_str() {
        let pointer = name.trim_start_matches('#');
        return secret_members(document, document.pointer(pointer).expect("a schema"), at, tell);
    }
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        let below = format!("{at}/{name}");
        let is_text = member["type"].to_string().contains("\"string\"");
        // There, it is the token endpoint's address.
        if SECRET_NAMES.contains(&name.as_str()) && is_text && !below.ends_with("/endpoints/token") {
            tell(below.clone());
        }
        secret_members(document, member, below, tell);
    }
    secret_members_of(document, schema, &at, tell);
}

fn secret_members_of(document: &Value, schema: &Value, at: &str, tell: &mut impl FnMut(String)) {
    for list in ["allOf", "anyOf", "oneOf"] {
        for part in schema[list].as_array().into_iter().flatten() {
            secret_members(document, part, at.to_owned(), tell);
        }
    }
    if schema["items"].is_object() {
        secret_members(document, &schema["items"], format!("{at}/*"), tell);
    }
}

#[test]
fn a_key_is_known_by_its_form() {
    let id = "06bc4jm2cg1hf0c9q2m8r5vk3o";
    assert!(is_key(&format!("vk_{id}_0123456789")));
    assert!(
        !is_key("vk_0")
            && !is_key(&format!("vk_{id}"))
            && !is_key(&format!("vk_{id}="))
            && !is_key("vk_flw_06bc4jm2cg1hf0c9q2m8r5vk3o")
    );
}

/// What of the marks is in a text, and what follows it.
fn marked(seen: &Seen<'_>) -> Option<String> {
    for mark in MARKS {
        let found = seen.text.match_indices(mark).find(|(at, _)| mark != KEY_MARK || is_key(&seen.text[*at..]));
        // The document shows what a key looks like.
        if let Some((at, _)) = found
            && (mark, seen.kind) != (KEY_MARK, "answer GET /openapi.json")
        {
            return Some(seen.text[at..].chars().take(40).collect());
        }
    }
    None
}

#[test]
pub(crate) fn whatever_left_the_server_in_this_whole_run_holds_no_secret() {
    // The last by its name. What is still going on belongs to it too.
    until_all_is_quiet();
    // A needle that is there for sure shows that the search works.
    record("log", "the needle sbx-needle-0123456789 is here");
    let mut needle = Canaries::default();
    needle.plant("sbx-needle-0123456789", "the needle");
    let (mut needles, mut hits, mut bytes) = (0, Vec::new(), 0);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let witnessed = witnessed();
    with_planted(|planted| {
        for seen in records(&witnessed) {
            *counts.entry(seen.kind.split(' ').next().unwrap_or_default()).or_default() += 1;
            bytes += seen.text.len();
            needles += needle.find(seen.text.as_bytes()).len();
            let found = planted.find(seen.text.as_bytes()).into_iter().chain(marked(&seen));
            // What was found in files was found there already.
            let found = found.chain((seen.kind == "file").then(|| seen.text.clone()));
            hits.extend(found.map(|hit| format!("{hit} in {}: {}", seen.kind, seen.text)));
        }
        let (directories, values) = searched();
        let left = json!({ "directories": directories, "values_of_tables": values });
        let summary = json!({
            "scan": "canaries", "secrets": planted.len(), "records": counts, "bytes": bytes, "left": left, "hits": hits.len(),
        });
        // Not captured, so that every run says what it searched.
        let _ = writeln!(std::io::stderr(), "{summary}");
    });
    assert_eq!(needles, 1);
    hits.truncate(10);
    assert_eq!(hits, Vec::<String>::new());
}
