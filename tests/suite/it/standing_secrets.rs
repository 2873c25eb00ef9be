//! No secret shows up where it does not belong: in no answer, header, page, log line, number, database or file.
//!
//! One walk through everything leaves its secrets; then everything that left the server, and everything that it stored, is
//! searched for them in each form. What this whole run of tests witnessed is searched by the marks that secrets begin with.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use data_encoding::{BASE64, HEXLOWER};
use reqwest::Method;
use serde_json::{Value, json};
use valetkey_suite::{
    Browser, ConnectorSpec, Page, Setup, TestApp, Work, engine_tests,
    extra::text_of,
    record,
    sandbox::{Fault, FaultRule, Rotation},
    witnessed,
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

/// The ways in which a text can be hidden in another one: as it is, and inside of something that was base64 encoded, which
/// depends on where it begins there; in a URL; and as the hexadecimal that PostgreSQL shows bytes in.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned(), percent_encoded(secret), HEXLOWER.encode(secret.as_bytes())];
    for before in 0..3 {
        let padded = format!("{}{secret}", "\0".repeat(before));
        let encoded = BASE64.encode(padded.as_bytes());
        // What depends on the neighbours is cut off at both ends.
        let start = (before * 8).div_ceil(6);
        let end = (padded.len() * 8) / 6;
        let core = &encoded[start..end];
        forms.push(core.to_owned());
        forms.push(core.replace('+', "-").replace('/', "_"));
    }
    forms.sort();
    forms.dedup();
    forms
}

fn percent_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// One thing that left the server: by which way, and what.
struct Seen<'a> {
    kind: &'a str,
    text: String,
}

/// The records of the witness. Their first line begins with the way in brackets.
fn records(witnessed: &str) -> Vec<Seen<'_>> {
    let mut found: Vec<Seen<'_>> = Vec::new();
    for line in witnessed.lines() {
        let opening = ["[answer ", "[page ", "[log] "].iter().any(|start| line.starts_with(start));
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

/// Takes out what belongs where it stands: a token in the answer to the token call, a key in the answer to its making, a start
/// link in the answer to its start, the way to the provider and home on the browser's own pages.
fn without_what_belongs(seen: &Seen<'_>) -> String {
    let exempt: &[&str] = match seen.kind {
        kind if kind.ends_with("/token") => &["\"access_token\":\"", "\"start_url\":\""],
        "answer POST /v1/keys" => &["\"key\":\""],
        kind if kind.ends_with("/flows") => &["\"start_url\":\""],
        kind if kind.starts_with("page POST /connect/") => &["\"location\":\""],
        kind if kind.starts_with("page GET /oauth/callback/") => {
            &["data-handle=\"", "handle=", "name=\"token\" value=\""]
        }
        kind if kind.starts_with("page GET /connect/") => &["action=\""],
        "answer GET /openapi.json" => &["\"example\": \""],
        _ => &[],
    };
    let mut text = seen.text.clone();
    for start in exempt {
        let mut cut = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(found) = rest.find(start) {
            let value = found + start.len();
            let ends: &[char] = if start.ends_with('"') { &['"'] } else { &['"', '&', '<', ' '] };
            let length = rest[value..].find(ends).unwrap_or(rest.len() - value);
            cut.push_str(&rest[..value]);
            rest = &rest[value + length..];
        }
        cut.push_str(rest);
        text = cut;
    }
    text
}

/// The secrets of a walk by what they are, and the pages that its browsers were shown.
#[derive(Default)]
struct Walk {
    secrets: BTreeMap<String, &'static str>,
    headers: Vec<(String, String)>,
}

impl Walk {
    fn keep(&mut self, secret: impl Into<String>, what: &'static str) {
        let secret = secret.into();
        assert!(secret.len() >= 12, "{what} {secret:?} is too short to be found for sure");
        self.secrets.insert(secret, what);
    }

    /// Keeps a page's headers, without the cookie that it sets and the handle that it sends home.
    fn saw(&mut self, page: &Page) {
        for (name, value) in &page.headers {
            let value = value.to_str().unwrap_or_default();
            let value = match name.as_str() {
                "set-cookie" => {
                    value.split_once('=').map_or(value, |(_, rest)| rest.split_once(';').map_or("", |(_, rest)| rest))
                }
                "location" | "refresh" => value.split("handle=").next().unwrap_or_default(),
                _ => value,
            };
            self.headers.push((format!("header {name} of {}", page.request), value.to_owned()));
        }
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
        self.saw(&browser.get(&started.start_url).await.expect(200));
        let page = browser.post_start(&started.start_url).await.expect(200);
        self.saw(&page);
        let location = text_of(&serde_json::from_str::<Value>(&page.html).expect("JSON")["location"]);
        for (name, value) in url::Url::parse(&location).expect("an address").query_pairs() {
            if ["state", "nonce"].contains(&&*name) {
                self.keep(value.into_owned(), "a state or nonce");
            }
        }
        self.keep(browser.cookie("vk_").expect("a cookie").1, "a cookie");
        let callback = browser.consent(&location).await;
        for (name, value) in url::Url::parse(&callback).expect("an address").query_pairs() {
            if name == "code" {
                self.keep(value.into_owned(), "a code");
            }
        }
        let page = browser.get(&callback).await;
        self.saw(&page);
        if let Some(home) = valetkey_suite::Home::find(&page) {
            self.keep(home.handle(), "a handle");
            let person = body[connector.person()].as_str().expect("a person");
            app.finish(connector, &home, person).await.expect(200).done();
        }
    }

    /// What of it is found in these texts.
    fn hits(&self, texts: &[(String, String)]) -> Vec<String> {
        let mut hits = Vec::new();
        for (secret, what) in &self.secrets {
            for form in forms(secret) {
                for (place, _) in texts.iter().filter(|(_, text)| text.contains(&form)) {
                    hits.push(format!("{what} in {place}"));
                }
            }
        }
        hits.sort();
        hits.dedup();
        hits
    }
}

/// Everything that can be done with secrets, right and wrong.
async fn walk(app: &TestApp) -> Walk {
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
    walk.saw(&browser.get(&back).await);
    app.provider()
        .update_settings(|settings| settings.authorize = valetkey_suite::sandbox::AuthorizeSettings::default());
    let started = app.start_flow(connector, &connector.redirect("u-3")).await;
    let back = browser.consent(&browser.open(&started.start_url).await).await;
    let stranger = app.browser("stranger");
    walk.saw(&stranger.get(&back).await);
    walk.saw(&stranger.post_start(&started.start_url).await);
    walk.saw(
        &stranger
            .get(&app.url(&format!(
                "/oauth/callback/{}?code=planted-code-out-of-nowhere&state=planted-state-out-of-nowhere",
                connector.id
            )))
            .await,
    );
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

/// Every row of the database and every file of the data directory as text.
async fn stored(app: &TestApp) -> Vec<(String, String)> {
    let mut texts = Vec::new();
    files(&app.data_dir(), &mut texts);
    let rows = app.rows().await;
    texts.extend(rows.into_iter().map(|(table, text)| (format!("table {table}"), text)));
    texts
}

fn files(folder: &Path, texts: &mut Vec<(String, String)>) {
    // On PostgreSQL there may be no folder at all.
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, texts);
        } else if let Ok(bytes) = fs::read(&path) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            texts.push((format!("file {name}"), bytes.iter().map(|byte| char::from(*byte)).collect()));
        }
    }
}

engine_tests! {
    async fn no_secret_of_a_walk_through_everything_shows_up_anywhere(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| config.limits.starts_per_minute_and_user = 100),
    ) {
        let mut app = app;
        let before = witnessed().len();
        let walk = walk(&app).await;
        assert!(walk.secrets.len() > 25, "{:?}", walk.secrets.values());
        let witnessed = witnessed();
        let mut texts: Vec<(String, String)> =
            records(&witnessed[before..]).iter().map(|seen| (seen.kind.to_owned(), without_what_belongs(seen))).collect();
        assert!(texts.len() > 120, "{} records", texts.len());
        texts.extend(walk.headers.iter().cloned());
        texts.extend(stored(&app).await);
        assert_eq!(walk.hits(&texts), Vec::<String>::new());
        // What a stopped server leaves behind is no different.
        app.stop().await;
        let mut left = Vec::new();
        files(&app.data_dir(), &mut left);
        assert_eq!(walk.hits(&left), Vec::<String>::new());
    }

    async fn a_secret_that_was_let_out_is_found(app: TestApp) {
        let mut walk = Walk::default();
        let before = witnessed().len();
        let let_out = format!("canary-let-out-on-purpose-{}", app.engine());
        walk.keep(&let_out, "a canary");
        app.connector(ConnectorSpec::oauth2().with("name", json!(let_out))).await;
        app.admin().get("/v1/connectors").await.expect(200).done();
        let request = app.admin().request(Method::POST, "/v1/keys").header("x-request-id", &let_out);
        app.admin().send(request).await.expect(422).done();
        let witnessed = witnessed();
        let texts: Vec<_> =
            records(&witnessed[before..]).iter().map(|seen| (seen.kind.to_owned(), without_what_belongs(seen))).collect();
        let mut hits = walk.hits(&texts);
        hits.extend(walk.hits(&stored(&app).await));
        let places = ["a canary in answer GET /v1/connectors", "a canary in answer POST /v1/connectors", "a canary in answer POST /v1/keys", "a canary in log"];
        for place in places {
            assert!(hits.iter().any(|hit| hit == place), "{place}: {hits:?}");
        }
        let stored = hits.iter().filter(|hit| hit.contains("file ") || hit.contains("table ")).count();
        assert!(stored > 0, "the database: {hits:?}");
    }
}

#[test]
fn what_belongs_is_passed_over_and_nothing_else() {
    let seen = |kind, text: &str| Seen { kind, text: text.to_owned() };
    let token = "{\"access_token\":\"sbx_at_x\",\"scopes\":[]}";
    assert!(!without_what_belongs(&seen("answer POST /v1/connectors/ctr_1/token", token)).contains("sbx_at_"));
    assert!(without_what_belongs(&seen("answer GET /v1/connections/cxn_1", token)).contains("sbx_at_"));
    let twice = "{\"access_token\":\"sbx_at_x\",\"more\":\"sbx_at_x\"}";
    assert!(without_what_belongs(&seen("answer POST /v1/connectors/ctr_1/token", twice)).contains("sbx_at_"));
    assert!(without_what_belongs(&seen("log", token)).contains("sbx_at_"));
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

#[test]
fn a_secret_is_found_in_each_form() {
    let secret = "sbx_rt_Zm9v-YmFy_1234";
    let found = |text: &str| forms(secret).iter().any(|form| text.contains(form.as_str()));
    for before in ["", "x", "xy", "xyz", "client-1:"] {
        for after in ["", ":", "more"] {
            let inside = format!("{before}{secret}{after}");
            assert!(found(&inside));
            assert!(found(&BASE64.encode(inside.as_bytes())), "{inside}");
            assert!(found(&data_encoding::BASE64URL_NOPAD.encode(inside.as_bytes())), "{inside}");
        }
    }
    assert!(found(&percent_encoded(&format!("?token={secret}"))));
    assert!(!found("sbx_rt_Zm9v-YmFy_123"));
}

#[test]
fn nothing_that_the_whole_run_witnessed_has_the_marks_of_a_secret() {
    // By its name among the last of the run. A needle that is there for sure shows that the search works.
    record("log", "the needle sbx-needle is here");
    let witnessed = witnessed();
    let mut needle = false;
    let mut hits = Vec::new();
    // A form that is too short is found by chance in what is random anyway.
    let encoded = MARKS.iter().flat_map(|mark| forms(mark)).filter(|form| form.len() >= 7);
    let marks: Vec<String> = encoded.chain(MARKS.map(str::to_owned)).collect();
    for seen in records(&witnessed) {
        let text = without_what_belongs(&seen);
        needle |= text.contains("sbx-needle");
        for mark in &marks {
            let found = text.match_indices(mark.as_str()).find(|(at, _)| mark != KEY_MARK || is_key(&text[*at..]));
            if let Some((at, _)) = found {
                let around: String = text[at..].chars().take(40).collect();
                hits.push(format!("{mark} in {}: {around}", seen.kind));
            }
        }
    }
    assert!(needle);
    hits.truncate(10);
    assert_eq!(hits, Vec::<String>::new());
}
