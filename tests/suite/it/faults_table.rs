//! The outcome table: each fault of a provider on a real refresh, what it is taken for, and what becomes of the
//! connection. The rules that hold for every row are in [`TestApp::classify`].

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use valetkey_suite::{
    Setup, engine_tests,
    faults::{Class, FaultCase, vendor_profiles},
    sandbox::{Fault, RetryAfter},
};

const HTML: &str = "<!doctype html><title>Sorry</title>";

/// An answer with this status and body.
fn says(status: u16, body: &str) -> Fault {
    Fault::Status { code: status, body: body.to_owned(), headers: BTreeMap::new() }
}

/// An error of RFC 6749.
fn error(status: u16, error: &str) -> Fault {
    Fault::OAuthError { status, error: error.to_owned() }
}

fn headers(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The true answer, but for these members.
fn with(members: Value) -> Fault {
    let Value::Object(members) = members else { panic!("an object is needed") };
    Fault::WithMembers { members }
}

/// Bytes in base64 with status 200.
fn bytes(base64: &str, extra: &[(&str, &str)]) -> Fault {
    Fault::Bytes { code: 200, base64: base64.to_owned(), headers: headers(extra) }
}

/// Rows whose name is what they show.
fn rows(class: Class, code: &'static str, faults: Vec<(&str, Fault)>) -> Vec<FaultCase> {
    faults.into_iter().map(|(name, fault)| FaultCase::new(name, fault, code, class)).collect()
}

fn statuses() -> Vec<FaultCase> {
    let all = |statuses: &[u16], body: &str, code, class| -> Vec<FaultCase> {
        let row = |status: &u16| FaultCase::new(&format!("{status} {body}"), says(*status, body), code, class);
        statuses.iter().map(row).collect()
    };
    [
        all(&[500, 501, 502, 503, 504, 408], HTML, "server_error", Class::Unknown),
        all(&[500, 503], r#"{"error":"invalid_grant"}"#, "server_error", Class::Unknown),
        all(&[400, 403, 409, 200, 204], HTML, "unreadable", Class::Unknown),
        all(&[400, 403, 409], r#"{"message":"no"}"#, "no_error_code", Class::Unknown),
        all(&[401], HTML, "unauthorized", Class::Client),
        all(&[404, 405, 406, 410, 415], HTML, "endpoint_refused", Class::Refused),
        all(&[425], "{}", "too_early", Class::Refused),
        all(&[429], HTML, "limited", Class::Limited { least: 1, most: 2 }),
    ]
    .concat()
}

fn errors() -> Vec<FaultCase> {
    let all = |class, codes: &[&'static str]| -> Vec<FaultCase> {
        let row = |code: &&'static str| FaultCase::new(&format!("400 {code}"), error(400, code), code, class);
        codes.iter().map(row).collect()
    };
    let dead = Class::Dead("grant_revoked");
    [
        all(dead, &["invalid_grant"]),
        rows(
            dead,
            "invalid_grant",
            vec![
                ("401 invalid_grant", error(401, "invalid_grant")),
                ("403 invalid_grant", error(403, "invalid_grant")),
                ("invalid_grant inside a 200", Fault::ErrorInside200 { error: "invalid_grant".to_owned() }),
                ("invalid_grant inside an object", says(400, r#"{"error":{"code":"invalid_grant"}}"#)),
                (
                    "invalid_grant as a form",
                    Fault::Status {
                        code: 400,
                        body: "error=invalid_grant&error_description=x".to_owned(),
                        headers: headers(&[("content-type", "application/x-www-form-urlencoded")]),
                    },
                ),
            ],
        ),
        all(Class::Dead("interaction_required"), &["interaction_required", "login_required", "consent_required"]),
        all(Class::Client, &["invalid_client", "unauthorized_client"]),
        rows(
            Class::Client,
            "invalid_client",
            vec![
                ("401 invalid_client", error(401, "invalid_client")),
                ("invalid_client inside a 200", Fault::ErrorInside200 { error: "invalid_client".to_owned() }),
            ],
        ),
        all(
            Class::Refused,
            &["invalid_request", "invalid_scope", "invalid_target", "unsupported_grant_type", "access_denied"],
        ),
        rows(
            Class::Refused,
            "other_error",
            vec![
                ("a word of their own", error(400, "a_word_of_their_own")),
                ("a word of their own with 401", error(401, "a_word_of_their_own")),
                ("a word of their own inside a 200", Fault::ErrorInside200 { error: "a_word_of_their_own".to_owned() }),
                ("a word that is a script", error(400, "<script>alert(1)</script>")),
            ],
        ),
        rows(
            Class::Unknown,
            "server_error",
            vec![
                ("400 temporarily_unavailable", error(400, "temporarily_unavailable")),
                ("server_error inside a 200", Fault::ErrorInside200 { error: "server_error".to_owned() }),
            ],
        ),
        rows(
            Class::Unknown,
            "no_error_code",
            vec![
                ("an error that is a list", says(400, r#"{"error":["invalid_grant"]}"#)),
                ("an error that is a number", says(400, r#"{"error":400}"#)),
                ("an empty error", says(400, r#"{"error":""}"#)),
            ],
        ),
    ]
    .concat()
}

fn limits() -> Vec<FaultCase> {
    let after = |retry_after| Fault::RateLimited { retry_after };
    let text = |text: &str| after(RetryAfter::Text(text.to_owned()));
    let row = |name: &str, fault, least, most| FaultCase::new(name, fault, "limited", Class::Limited { least, most });
    vec![
        row("429, 7 seconds", after(RetryAfter::Seconds(7)), 7, 7),
        row("429, a date in 9 seconds", after(RetryAfter::DateIn(9)), 7, 9),
        row("429, a day", after(RetryAfter::Seconds(86_400)), 3_600, 3_600),
        row("429, three thousand years", after(RetryAfter::Seconds(99_999_999_999)), 3_600, 3_600),
        row("429, a date in the year 2100", text("Fri, 31 Dec 2100 23:59:59 GMT"), 3_600, 3_600),
        row("429, a date that is past", text("Sun, 06 Nov 1994 08:49:37 GMT"), 0, 0),
        row("429, zero", after(RetryAfter::Seconds(0)), 0, 0),
        row("429, a negative number", text("-120"), 1, 2),
        row("429, half a second", text("0.5"), 1, 2),
        row("429, a word", text("soon"), 1, 2),
        row("429, more digits than fit", text("99999999999999999999999999"), 1, 2),
        row("429, nothing said", after(RetryAfter::Absent), 1, 2),
        row("400 slow_down", error(400, "slow_down"), 1, 2),
        row("429 that also says invalid_grant", says(429, r#"{"error":"invalid_grant"}"#), 1, 2),
    ]
}

fn bodies(provider: &str) -> Vec<FaultCase> {
    let deep = format!("{}{}", r#"{"access_token":"#.repeat(2_000), "}".repeat(2_000));
    let redirect = |status| Fault::Status {
        code: status,
        body: String::new(),
        headers: headers(&[("location", &format!("{provider}/token"))]),
    };
    // Each would be a grant if it were unpacked.
    let gzip = "H4sIAAAAAAACA6tWSkxOTi0uji/Jz07NU7JSKs0rSEzOTk1R0lEqSk0rSi3OwCaVWlGQCZSLzwSKG5sZGNQCALFtmo1IAAAA";
    let redirects: Vec<FaultCase> = [301, 302, 303, 307, 308]
        .into_iter()
        .map(|status| FaultCase::new(&format!("{status} to itself"), redirect(status), "redirect", Class::Unknown))
        .collect();
    [
        redirects,
        rows(
            Class::Unknown,
            "unreadable",
            vec![
                ("200 with a page", Fault::NotJson),
                ("200 with nothing", says(200, "")),
                ("200 with null", says(200, "null")),
                ("200 with a list", says(200, r#"[{"access_token":"a"}]"#)),
                ("200 with a number", says(200, "17")),
                ("200 with a text", says(200, "\"access_token\"")),
                ("200 with half an object", says(200, r#"{"access_token":"a""#)),
                ("200 with two objects", says(200, r#"{"access_token":"a"}{"access_token":"b"}"#)),
                ("200 with two thousand objects in each other", says(200, &deep)),
                (
                    "200 in bytes that are no text",
                    bytes("eyJhY2Nlc3NfdG9rZW4iOiL//iJ9", &[("content-type", "application/json")]),
                ),
                (
                    "200 in UTF-16",
                    bytes(
                        "//57ACIAYQBjAGMAZQBzAHMAXwB0AG8AawBlAG4AIgA6ACIAYQAiAH0A",
                        &[("content-type", "application/json; charset=utf-16")],
                    ),
                ),
                ("200 compressed", bytes(gzip, &[("content-type", "application/json"), ("content-encoding", "gzip")])),
            ],
        ),
        rows(
            Class::Unknown,
            "no_access_token",
            vec![("200 with an empty object", says(200, "{}")), ("200 with the tokens elsewhere", Fault::NestedTokens)],
        ),
        rows(
            Class::Unknown,
            "too_large",
            vec![
                ("a body of 70 KB", Fault::OversizedBody { bytes: 70_000 }),
                ("a body of 5 MB", Fault::OversizedBody { bytes: 5_000_000 }),
                ("a body without an end", Fault::EndlessBody),
                ("a refresh token of 1 MiB", with(json!({ "refresh_token": "r".repeat(1 << 20) }))),
            ],
        ),
        rows(Class::Unknown, "truncated", vec![("half a body, then a reset", Fault::TruncatedBody)]),
        rows(
            Class::Unknown,
            "connection_lost",
            vec![
                ("a reset before the answer", Fault::ResetBeforeAnswer),
                ("a thousand headers", Fault::ManyHeaders { count: 1_000 }),
            ],
        ),
        rows(
            Class::Granted,
            "granted",
            vec![
                ("a body of 60 KB", Fault::OversizedBody { bytes: 60_000 }),
                ("doubled members: the last one counts", Fault::DuplicateKeys),
                ("a form", Fault::FormEncoded),
                ("no token type", Fault::MissingTokenType),
                ("called a page", Fault::WithHeaders { headers: headers(&[("content-type", "text/html")]) }),
                ("called nothing", Fault::WithHeaders { headers: headers(&[("content-type", "")]) }),
                ("ninety headers", Fault::ManyHeaders { count: 80 }),
            ],
        ),
    ]
    .concat()
}

fn members() -> Vec<FaultCase> {
    let named = |class, code, member: &str, values: Vec<Value>| -> Vec<FaultCase> {
        let row = |value: Value| {
            let shown: String = value.to_string().chars().take(40).collect();
            FaultCase::new(&format!("{member}: {shown}"), with(json!({ member: value })), code, class)
        };
        values.into_iter().map(row).collect()
    };
    let unusable = |more: &[Value]| {
        let mut values = vec![
            json!(" a"),
            json!("a "),
            json!("a\nb"),
            json!("a\r\nx-injected: 1"),
            json!("a\u{0}b"),
            json!("a\u{7f}"),
            json!("gr\u{fc}n"),
            json!("a".repeat(20_000)),
            json!(7),
            json!(true),
            json!(["a"]),
            json!({ "a": "b" }),
        ];
        values.extend_from_slice(more);
        values
    };
    [
        named(Class::Unknown, "no_access_token", "access_token", unusable(&[json!(""), json!(null)])),
        named(Class::Unknown, "unusable_refresh_token", "refresh_token", unusable(&[])),
        named(
            Class::Granted,
            "granted",
            "expires_in",
            vec![
                json!(-1),
                json!(-1e300),
                json!(0),
                json!(1e30),
                json!(i64::MAX),
                json!(3_600.9),
                json!("3600"),
                json!(" 3600 "),
                json!("soon"),
                json!(""),
                json!("NaN"),
                json!(true),
                json!(null),
                json!([3_600]),
                json!({ "seconds": 3_600 }),
            ],
        ),
        named(
            Class::Granted,
            "granted",
            "token_type",
            vec![
                json!("mac"),
                json!("DPoP"),
                json!("bearer"),
                json!("a\r\nb"),
                json!(""),
                json!(7),
                json!(null),
                json!("x".repeat(1_000)),
            ],
        ),
        named(
            Class::Granted,
            "granted",
            "scope",
            vec![json!(7), json!(["read", 7, null]), json!("read read"), json!({})],
        ),
        named(Class::Granted, "granted", "error", vec![json!(""), json!(null), json!("a_warning_of_their_own")]),
    ]
    .concat()
}

#[expect(clippy::too_many_lines, reason = "one row after another")]
fn vendors() -> Vec<FaultCase> {
    let dead = Class::Dead("grant_revoked");
    let interaction = Class::Dead("interaction_required");
    let soon = Class::Limited { least: 1, most: 2 };
    let ok_false = |code: &str| Fault::ErrorInside200 { error: code.to_owned() };
    let microsoft = |number: u32| says(400, &format!("{{\"error\":\"invalid_grant\",\"error_codes\":[{number}]}}"));
    let of = |provider, rows: Vec<FaultCase>| rows.into_iter().map(|row| row.at(provider)).collect::<Vec<_>>();
    let row = FaultCase::new;
    [
        of(
            "slack",
            vec![
                row("slack: invalid_refresh_token inside a 200", ok_false("invalid_refresh_token"), "grant_dead", dead),
                row("slack: internal_error inside a 200", ok_false("internal_error"), "outcome_open", Class::Unknown),
                row("slack: fatal_error inside a 200", ok_false("fatal_error"), "outcome_open", Class::Unknown),
                row(
                    "slack: bad_client_secret inside a 200",
                    ok_false("bad_client_secret"),
                    "invalid_client",
                    Class::Client,
                ),
                row(
                    "slack: invalid_client_id inside a 200",
                    ok_false("invalid_client_id"),
                    "client_refused",
                    Class::Client,
                ),
                row(
                    "slack: not ok beside a token",
                    says(200, r#"{"ok":false,"access_token":"a"}"#),
                    "no_access_token",
                    Class::Unknown,
                ),
            ],
        ),
        of(
            "github-app",
            vec![
                row(
                    "github: bad_refresh_token inside a 200",
                    says(200, r#"{"error":"bad_refresh_token"}"#),
                    "grant_dead",
                    dead,
                ),
                row(
                    "github: incorrect_client_credentials",
                    says(200, r#"{"error":"incorrect_client_credentials"}"#),
                    "invalid_client",
                    Class::Client,
                ),
            ],
        ),
        of(
            "atlassian",
            vec![
                row(
                    "atlassian: dead with 403",
                    says(403, r#"{"error":"unauthorized_client","error_description":"refresh_token is invalid"}"#),
                    "grant_dead",
                    dead,
                ),
                row(
                    "atlassian: refused with 403",
                    says(403, r#"{"error":"unauthorized_client","error_description":"no"}"#),
                    "unauthorized_client",
                    Class::Client,
                ),
            ],
        ),
        of(
            "microsoft",
            vec![
                row("microsoft: a second factor", microsoft(50_076), "interaction_required", interaction),
                row("microsoft: a secret that is over", microsoft(7_000_222), "invalid_client", Class::Client),
                row("microsoft: an application that is not there", microsoft(700_016), "client_refused", Class::Client),
                row("microsoft: a loop", microsoft(50_196), "limited", soon),
                row("microsoft: a moment", microsoft(90_033), "limited", soon),
                row("microsoft: a request that is malformed", microsoft(9_002_313), "refused", Class::Refused),
                row("microsoft: dead", microsoft(70_000), "grant_dead", dead),
            ],
        ),
        of(
            "salesforce",
            vec![
                row(
                    "salesforce: a policy",
                    says(400, r#"{"error":"invalid_grant","error_description":"ip restricted"}"#),
                    "policy",
                    Class::Refused,
                ),
                row(
                    "salesforce: dead",
                    says(400, r#"{"error":"invalid_grant","error_description":"expired access/refresh token"}"#),
                    "grant_dead",
                    dead,
                ),
            ],
        ),
        of(
            "hubspot",
            vec![row(
                "hubspot: BAD_REFRESH_TOKEN",
                says(400, r#"{"status":"BAD_REFRESH_TOKEN","message":"x"}"#),
                "grant_dead",
                dead,
            )],
        ),
    ]
    .concat()
}

engine_tests! {
    async fn every_status_is_taken_for_what_it_is(app: TestApp) {
        app.classify(&statuses()).await;
    }

    async fn every_error_code_is_taken_for_what_it_is(app: TestApp) {
        app.classify(&errors()).await;
    }

    async fn every_wish_for_patience_is_taken_for_what_it_is(app: TestApp) {
        app.classify(&limits()).await;
    }

    async fn every_body_is_taken_for_what_it_is(app: TestApp) {
        let rows = bodies(app.provider_url());
        app.classify(&rows).await;
    }

    async fn every_odd_member_is_taken_for_what_it_is(app: TestApp) {
        app.classify(&members()).await;
    }

    async fn a_provider_that_cannot_be_reached_was_not_asked(app: TestApp) {
        let host = app.provider_url().trim_start_matches("http://").to_owned();
        let rows = [
            FaultCase::unreachable("nobody listens", "http://127.0.0.1:1/token".to_owned(), "connect_failed"),
            FaultCase::unreachable("no such name", "https://nowhere.invalid/token".to_owned(), "dns_failed"),
            FaultCase::unreachable("no TLS is spoken", format!("https://{host}/token"), "tls_failed"),
        ];
        app.classify(&rows).await;
    }

    async fn a_provider_that_is_too_slow_leaves_the_outcome_open(
        app: TestApp,
        setup = |setup: Setup| setup.deadline(Duration::from_millis(900)),
    ) {
        let rows = rows(Class::Unknown, "timeout", vec![
            ("no answer at all", Fault::Hang),
            ("headers after three seconds", Fault::Delay { ms: 3_000 }),
            ("eight bytes in a third of a second", Fault::SlowBody { ms_per_chunk: 300 }),
        ]);
        app.classify(&rows).await;
    }

    async fn the_errors_of_vendors_are_taken_for_what_they_are(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| {
            config.providers_directory = Some(vendor_profiles(config.data_dir.parent().expect("a folder around it")));
        }),
    ) {
        app.classify(&vendors()).await;
    }
}

#[test]
fn the_table_has_at_least_forty_rows() {
    let all = [statuses(), errors(), limits(), bodies("http://provider.example"), members(), vendors()];
    let count: usize = all.iter().map(Vec::len).sum();
    assert!(count >= 140, "{count} rows");
}
