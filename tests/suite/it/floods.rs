//! Floods: of keys that nobody has, of starts, of callbacks that fail. Memory stays bounded, nothing is written for them, and
//! another space is served meanwhile.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use valetkey_core::{Clock, KeyId, PresentedKey, SystemClock, SystemEntropy};
use valetkey_suite::{Client, ConnectorSpec, Engine, Setup, TestApp, engine_tests, run_test};

/// How many go out before their answers are waited for.
const BATCH: usize = 64;

/// Sends requests over one connection, many at a time; how many were answered with each status of the list.
async fn flood<const N: usize>(
    address: SocketAddr,
    count: usize,
    statuses: [&str; N],
    mut request: impl FnMut(usize) -> String,
) -> [usize; N] {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    let mut counts = [0; N];
    let mut answers = Vec::new();
    for first in (0..count).step_by(BATCH) {
        let batch = BATCH.min(count - first);
        let text: String = (first..first + batch).map(&mut request).collect();
        stream.write_all(text.as_bytes()).await.expect("the server reads");
        answers.clear();
        let mut seen = 0;
        while seen < batch {
            let read = stream.read_buf(&mut answers).await.expect("the server writes");
            assert!(read > 0, "the server hung up");
            seen = heads(&answers).count();
        }
        for head in heads(&answers) {
            let status = statuses.iter().position(|status| head.starts_with(status));
            counts[status.unwrap_or_else(|| panic!("{head}"))] += 1;
        }
        // The last body of a batch may come after its head.
        until_whole(&mut stream, &mut answers).await;
    }
    counts
}

/// The answers' heads from their statuses on.
fn heads(answers: &[u8]) -> impl Iterator<Item = &str> {
    const START: &[u8] = b"HTTP/1.1 ";
    let starts = answers.windows(START.len() + 3).filter(|window| window.starts_with(START));
    starts.map(|window| std::str::from_utf8(&window[START.len()..]).expect("a status"))
}

/// Reads on until the last answer has as many bytes as it says.
async fn until_whole(stream: &mut TcpStream, answers: &mut Vec<u8>) {
    loop {
        let text = String::from_utf8_lossy(answers);
        let last = &text[text.rfind("HTTP/1.1 ").unwrap_or_default()..];
        if let Some((head, body)) = last.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return;
            }
        }
        assert!(stream.read_buf(answers).await.expect("the server writes") > 0, "the server hung up");
    }
}

/// A key of the right form that nobody has.
fn unknown_key() -> String {
    let id = KeyId::new(SystemClock::new().now(), &SystemEntropy);
    PresentedKey::generate(id, &SystemEntropy).0.expose().to_owned()
}

/// Somebody in another space who goes on fetching tokens, each of them at the first try.
struct Bystander {
    is_over: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Bystander {
    async fn start(app: &TestApp) -> Self {
        app.space("bystander").await;
        let admin = app.key(&["admin"], None, "bystander").await;
        let connector = app.connector_by(&admin, ConnectorSpec::client_credentials(ConnectorSpec::oauth2())).await;
        let client: Client = app.key(&["connector"], Some(&[&connector.id]), "bystander").await;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let task = tokio::spawn(async move {
            let mut served = 0;
            while !over.load(Ordering::Relaxed) {
                client.post(&connector.path("/token"), &json!({})).await.expect(200).done();
                served += 1;
                // Pace, not patience: a call now and then is enough.
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            served
        });
        Self { is_over, task }
    }

    /// How many calls were served, all of them.
    async fn over(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await.expect("each call was served")
    }
}

/// The number of a metric.
async fn metric(app: &TestApp, name: &str) -> u64 {
    let text = app.anonymous().get("/metrics").await.expect(200).text;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.trim().parse().expect("a number")
}

async fn series(app: &TestApp) -> usize {
    app.anonymous().get("/metrics").await.expect(200).text.lines().count()
}

fn address(app: &TestApp) -> SocketAddr {
    app.base_url().trim_start_matches("http://").parse().expect("an address")
}

/// Keys, audit events and flows of the space that is flooded.
async fn rows(app: &TestApp) -> [i64; 3] {
    let mut counts = [0; 3];
    for (count, table) in counts.iter_mut().zip(["api_keys", "audit", "flows"]) {
        *count = app.number(&format!("SELECT COUNT(*) FROM {table} WHERE space_id = 'default'")).await;
    }
    counts
}

async fn unknown_keys(app: &TestApp, count: usize) {
    let connector = app.connector(ConnectorSpec::oauth2()).await;
    let bystander = Bystander::start(app).await;
    app.fetch(&connector, "nobody").await.expect(404).done();
    let (rows_before, keys_before) =
        (rows(app).await, metric(app, "valetkey_limiter_keys{limit=\"token-calls\"}").await);
    series(app).await;
    let before = series(app).await;
    let path = connector.path("/token");
    let half = |path: String| {
        flood(address(app), count / 2, ["401"], move |_| {
            let (key, body) = (unknown_key(), r#"{"user_id":"u-1"}"#);
            format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            )
        })
    };
    let others = flood(address(app), count - count / 2, ["401"], |_| {
        format!("GET /v1/connections HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", unknown_key())
    });
    let ([fetching], [listing]) = tokio::join!(half(path), others);
    assert_eq!(fetching + listing, count);
    assert!(bystander.over().await > 0);
    // No row, no series and no quota for any of them.
    assert_eq!(rows(app).await, rows_before);
    let (series_now, keys_now) = (series(app).await, metric(app, "valetkey_limiter_keys{limit=\"token-calls\"}").await);
    assert!(series_now < before + 30, "{before} became {series_now}");
    assert!(keys_now <= keys_before + 1, "{keys_before} became {keys_now}");
}

async fn callbacks(app: &TestApp, count: usize, wanted: std::ops::RangeInclusive<u64>) {
    let connector = app.connector(ConnectorSpec::oauth2()).await;
    let started = app.start_flow(&connector, &connector.redirect("u-1")).await;
    let browser = app.browser("u-1");
    let location = browser.open(&started.start_url).await;
    let bystander = Bystander::start(app).await;
    let rows_before = rows(app).await;
    let path = format!("/oauth/callback/{}?code=x&state=made-up", connector.id);
    let [unknown, refused] = flood(address(app), count, ["404", "429"], |number| {
        let [_, a, b, c] = u32::try_from(number).expect("few enough").to_be_bytes();
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 198.{a}.{b}.{c}\r\n\r\n")
    })
    .await;
    assert_eq!(unknown + refused, count);
    let kept = metric(app, "valetkey_limiter_keys{limit=\"failing-callbacks\"}").await;
    assert!(wanted.contains(&kept), "{kept} addresses are kept in mind");
    assert!(bystander.over().await > 0);
    assert_eq!(rows(app).await, rows_before);
    // Who comes with the right state and cookie is not counted, and comes home.
    let home = browser.come_home(&browser.consent(&location).await).await;
    app.finish(&connector, &home, "u-1").await.expect(200).done();
}

fn with_few_starts(setup: Setup) -> Setup {
    setup.config(|config| {
        config.limits.open_flows_per_caller = 50;
        config.limits.starts_per_hour_and_user = 20;
    })
}

/// So many starts for one user, and so many for users who are made up.
async fn starts(app: &TestApp, count: usize) {
    let connector = app.connector(ConnectorSpec::oauth2()).await;
    let bystander = Bystander::start(app).await;
    let key = app.api_key(&["app"], None).await;
    let path = connector.path("/flows");
    let start = |user: String| {
        let body = connector.redirect(&user).to_string();
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let before = rows(app).await;
    let [one, refused] = flood(address(app), count, ["201", "429"], |_| start("u-1".to_owned())).await;
    assert!(one <= 50 && refused == count - one, "{one} of one user");
    let [more, refused] = flood(address(app), count, ["201", "429"], |number| start(format!("u-{}", number + 2))).await;
    // Their lives are longer than the flood.
    assert_eq!((one + more, refused), (50, count - more), "of one caller");
    if app.engine() == Engine::Sqlite {
        let kept = metric(app, "valetkey_limiter_keys{limit=\"quotas\"}").await;
        assert!(kept < 150, "{kept} quotas for 50 users and the bystander");
    }
    let [_, audit, flows] = rows(app).await;
    assert_eq!((audit - before[1], flows - before[2]), (50, 50), "one row for each that was started");
    assert!(bystander.over().await > 0);
    // Another caller of the same space starts.
    app.start_flow(&connector, &connector.redirect("u-0")).await;
}

fn behind_a_proxy(setup: Setup) -> Setup {
    setup.config(|config| config.server.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")])
}

engine_tests! {
    async fn keys_that_nobody_has_leave_nothing_behind(app: TestApp) {
        unknown_keys(&app, 3_000).await;
    }

    async fn callbacks_that_fail_leave_their_addresses_and_nothing_else(app: TestApp, setup = behind_a_proxy) {
        callbacks(&app, 2_000, 2_000..=2_000).await;
    }

    async fn starts_beyond_the_limits_are_refused_and_leave_nothing_behind(app: TestApp, setup = with_few_starts) {
        starts(&app, 1_000).await;
    }
}

/// What of this process is in memory, in KiB. Server, sandbox and test are one process.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("this process's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Says what a flood cost that had this process to itself, and fails if it was much.
async fn measured(what: &str, requests: usize, flood: impl Future<Output = ()>) {
    let before = resident();
    flood.await;
    let grown = resident().saturating_sub(before);
    // Not captured, so that a documented run says what it saw.
    let line = json!({ "flood": what, "requests": requests, "grown_kib": grown, "resident_kib": resident() });
    let _ = writeln!(std::io::stderr(), "{line}");
    assert!(grown < 64 * 1024, "{line}");
}

#[test]
#[ignore = "takes minutes: a run to be documented"]
fn a_hundred_thousand_unknown_keys_leave_nothing_behind() {
    run_test(Setup::on(Engine::Sqlite), async |app| {
        measured("unknown keys", 100_000, unknown_keys(&app, 100_000)).await;
    });
}

#[test]
#[ignore = "takes minutes: a run to be documented"]
fn callbacks_from_more_addresses_than_are_kept_in_mind_do_not_grow_the_memory() {
    let setup = behind_a_proxy(Setup::on(Engine::Sqlite));
    run_test(setup, async |app| {
        measured("failing callbacks", 130_000, callbacks(&app, 130_000, 1..=100_100)).await;
    });
}

/// How many starts the long run makes: a million, unless `VALETKEY_TEST_STARTS` says less.
#[expect(clippy::disallowed_methods, reason = "the length of a run that is asked for by hand")]
fn starts_wanted() -> usize {
    std::env::var("VALETKEY_TEST_STARTS").ok().map_or(1_000_000, |text| text.parse().expect("a number"))
}

#[test]
#[ignore = "takes a quarter of an hour and more: a run to be documented"]
fn a_million_starts_leave_nothing_behind() {
    // The clock of the tests runs with real time, and flows must outlive the flood.
    let setup = with_few_starts(Setup::on(Engine::Sqlite))
        .config(|config| config.limits.flow_life = std::time::Duration::from_secs(3_600));
    let count = starts_wanted();
    run_test(setup, async |app| measured("starts", count, starts(&app, count / 2)).await);
}
