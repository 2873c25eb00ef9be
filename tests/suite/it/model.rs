//! A model of connections, run beside the service: whatever is done in whatever order, both agree.
//!
//! The model does not guess when a refresh comes: it reads the provider's ledger, checks that each presentation was
//! allowed, and says from it what must be stored. `VALETKEY_MODEL_SEED` repeats a run.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};
use valetkey_core::{Entropy, SystemEntropy, Timestamp};
use valetkey_suite::{
    ConnectorSpec, Engine, Setup, TestApp, TestConnector, Work,
    extra::{items_of, text_of, time_of},
    sandbox::{Commit, Event, Fault, FaultRule, RetryAfter, Rotation},
};

/// Each takes a second and more, on PostgreSQL more than on SQLite.
const CASES_ON_SQLITE: u32 = 10;
const CASES_ON_POSTGRES: u32 = 5;
const USERS: usize = 3;

/// What is done. Users are numbers below [`USERS`].
#[derive(Debug, Clone)]
enum Step {
    Connect(usize),
    Import(usize),
    Fetch(usize),
    Reject(usize),
    Disconnect(usize),
    UserRevokes(usize),
    Fails(usize, Failure),
    Minutes(u64),
    /// Time goes on to just after the point at which this one is due, and what is due is refreshed.
    UntilDue(usize),
    Refresh,
    Deliver,
    MonthAndPurge,
    Restart,
}

/// How the next refresh of a user's grant fails.
#[derive(Debug, Clone, Copy)]
enum Failure {
    Down,
    ActsAndIsDown,
    Resets,
    ActsAndResets,
    SaysDead,
    Limits,
}

fn steps() -> impl Strategy<Value = (u8, Vec<Step>)> {
    let user = || 0..USERS;
    let failure = prop_oneof![
        Just(Failure::Down),
        Just(Failure::ActsAndIsDown),
        Just(Failure::Resets),
        Just(Failure::ActsAndResets),
        Just(Failure::SaysDead),
        Just(Failure::Limits),
    ];
    let step = prop_oneof![
        3 => user().prop_map(Step::Connect),
        2 => user().prop_map(Step::Import),
        5 => user().prop_map(Step::Fetch),
        4 => user().prop_map(Step::Reject),
        2 => user().prop_map(Step::Disconnect),
        1 => user().prop_map(Step::UserRevokes),
        6 => (user(), failure).prop_map(|(user, failure)| Step::Fails(user, failure)),
        5 => prop_oneof![1u64..5, 5u64..70].prop_map(Step::Minutes),
        5 => user().prop_map(Step::UntilDue),
        5 => Just(Step::Refresh),
        2 => Just(Step::Deliver),
        1 => Just(Step::MonthAndPurge),
        1 => Just(Step::Restart),
    ];
    (0u8..4, prop::collection::vec(step, 4..36))
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Active,
    NeedsReauth,
    Gone,
}

/// A connection as it must be.
#[derive(Debug, Clone)]
struct Known {
    id: String,
    state: State,
    generation: i64,
    expires_at: Timestamp,
    grant: String,
    /// The provider spent the refresh token, and nobody heard its successor.
    is_lost: bool,
    /// The user took the grant back at the provider.
    is_taken_back: bool,
    /// After an unknown outcome, not presented before this.
    not_before: Option<Timestamp>,
}

struct Case<'a> {
    app: &'a mut TestApp,
    connector: TestConnector,
    rotation: Rotation,
    key: String,
    known: BTreeMap<usize, Known>,
    months: u32,
    /// How many refreshes of the ledger were looked at.
    looked_at: usize,
}

impl Case<'_> {
    fn user(number: usize) -> String {
        format!("u-{number}")
    }

    /// Takes a step and compares.
    async fn take(&mut self, step: &Step) {
        let before = self.known.clone();
        match step {
            Step::Connect(user) => self.connect(*user).await,
            Step::Import(user) => self.import(*user).await,
            Step::Fetch(user) => self.fetch(*user, &before, json!({})).await,
            Step::Reject(user) => self.reject(*user, &before).await,
            Step::Disconnect(user) => self.disconnect(*user).await,
            Step::UserRevokes(user) => {
                if let Some(known) = self.known.get_mut(user) {
                    self.app.provider().revoke_grant_by_user(&known.grant);
                    known.is_taken_back = true;
                }
            }
            Step::Fails(user, failure) => self.fails(*user, *failure),
            Step::Minutes(minutes) => self.app.advance(Duration::from_secs(60 * minutes)),
            Step::UntilDue(user) => {
                if let Some(known) = self.known.get(user).filter(|known| known.state == State::Active) {
                    let due_at = self.app.connection(&known.id).await["refresh_due_at"].clone();
                    let late = time_of(&due_at).minus(Duration::from_secs(1)) < self.app.clock.now();
                    self.app.advance_to(if late { self.app.clock.now() } else { time_of(&due_at) });
                    drop(self.app.run(Work::Refresh).await);
                }
            }
            Step::Refresh => drop(self.app.run(Work::Refresh).await),
            Step::Deliver => drop(self.app.run(Work::Deliver).await),
            Step::MonthAndPurge => self.month_and_purge().await,
            Step::Restart => self.app.restart().await,
        }
        self.app.landed().await;
        self.absorb();
        self.compare().await;
    }

    fn fails(&self, user: usize, failure: Failure) {
        let Some(known) = self.known.get(&user) else { return };
        let status = |code| Fault::Status { code, body: String::new(), headers: BTreeMap::new() };
        let (fault, commit) = match failure {
            Failure::Down => (status(503), Commit::Never),
            Failure::ActsAndIsDown => (status(500), Commit::Before),
            Failure::Resets => (Fault::ResetBeforeAnswer, Commit::Never),
            Failure::ActsAndResets => (Fault::ResetBeforeAnswer, Commit::Before),
            Failure::SaysDead => (Fault::OAuthError { status: 400, error: "invalid_grant".to_owned() }, Commit::Never),
            Failure::Limits => (Fault::RateLimited { retry_after: RetryAfter::Seconds(30) }, Commit::Never),
        };
        self.app.provider().inject(FaultRule::refresh(fault).grant(&known.grant).commit(commit));
    }

    /// A new token set: the connection's generation goes on, whatever was before.
    fn stored(&mut self, user: usize, id: String, grant: String, expires_at: Timestamp) {
        let generation = self.known.get(&user).map_or(0, |known| known.generation) + 1;
        let known = Known {
            id,
            state: State::Active,
            generation,
            expires_at,
            grant,
            is_lost: false,
            is_taken_back: false,
            not_before: None,
        };
        self.known.insert(user, known);
    }

    async fn connect(&mut self, user: usize) {
        let name = Self::user(user);
        let connection = self.app.connect_user(&self.connector, &name).await;
        let id = text_of(&connection["id"]);
        if let Some(known) = self.known.get(&user) {
            assert_eq!(known.id, id, "a reconnect goes on with the connection");
        }
        let grant = self.app.provider().grants_of(&self.connector.client_id, &name).pop().expect("a grant").id;
        self.stored(user, id, grant, time_of(&connection["expires_at"]));
    }

    async fn import(&mut self, user: usize) {
        let name = Self::user(user);
        let grant = self.app.provider().seed_grant(&self.connector.client_id, &name, &["read"]).expect("a grant");
        let expires_at = self.app.clock.now().plus(Duration::from_secs(3_600));
        let line = json!({
            "connector_id": self.connector.id,
            "user_id": name,
            "access_token": grant.access_token,
            "refresh_token": grant.refresh_token,
            "expires_at": expires_at.to_string(),
        });
        let import = "/v1/connections/import";
        let answer = self.app.admin().post_raw(import, "application/x-ndjson", line.to_string()).await.expect(200);
        let report: Value = serde_json::from_str(&answer.text).expect("a report");
        let is_active = self.known.get(&user).is_some_and(|known| known.state == State::Active);
        assert_eq!(report.get("problem").is_some_and(Value::is_object), is_active, "{report}");
        if !is_active {
            self.stored(user, text_of(&report["connection_id"]), grant.grant, expires_at);
        }
    }

    async fn fetch(&mut self, user: usize, before: &BTreeMap<usize, Known>, more: Value) {
        let mut body = more;
        body["user_id"] = json!(Self::user(user));
        let answer = self.app.caller(&self.key).post(&self.connector.path("/token"), &body).await;
        self.app.landed().await;
        self.absorb();
        let Some(known) = self.known.get(&user) else {
            answer.expect_problem(404, "connection-not-found").done();
            return;
        };
        let now = self.app.clock.now();
        match (known.state, answer.status) {
            (State::Gone, _) => answer.expect_problem(404, "connection-not-found").done(),
            (State::NeedsReauth, _) => answer.expect_problem(409, "reconnect-required").done(),
            (State::Active, 200) => {
                let generation = answer.json["generation"].as_i64();
                let handed_out = [Some(before[&user].generation), Some(known.generation)];
                assert!(handed_out.contains(&generation), "{} but {known:?}", answer.text);
                assert!(answer.json["expires_in"].as_u64() > Some(0), "{}", answer.text);
                let is_alive = self.app.provider().is_access_token_live(&answer.text_of("access_token"));
                assert!(is_alive || known.is_taken_back || known.is_lost, "{known:?}");
                if body.get("rejected").is_some() {
                    assert!(generation > Some(before[&user].generation), "a rejected token is not handed out again");
                }
            }
            (State::Active, 503) => {
                let is_over = before[&user].expires_at <= now;
                assert!(is_over || body.get("rejected").is_some(), "a valid token is withheld: {known:?}");
            }
            (State::Active, status) => panic!("{status} {}: {known:?}", answer.text),
        }
    }

    /// The upstream API is said to have refused the current token.
    async fn reject(&mut self, user: usize, before: &BTreeMap<usize, Known>) {
        if !before.get(&user).is_some_and(|known| known.state == State::Active) {
            return;
        }
        let body = json!({ "user_id": Self::user(user) });
        let current = self.app.caller(&self.key).post(&self.connector.path("/token"), &body).await;
        self.app.landed().await;
        self.absorb();
        if current.status == 200 && current.json["generation"] == self.known[&user].generation {
            let before = self.known.clone();
            self.fetch(user, &before, json!({ "rejected": current.json["fingerprint"] })).await;
        }
    }

    async fn disconnect(&mut self, user: usize) {
        let body = json!({ "user_id": Self::user(user) });
        let answer = self.app.application().post(&self.connector.path("/disconnect"), &body).await;
        match self.known.get_mut(&user) {
            Some(known) => {
                answer.expect(200).done();
                known.state = State::Gone;
            }
            None => answer.expect_problem(404, "connection-not-found").done(),
        }
    }

    /// What is gone for a month is forgotten. Twice at most: what needs its owner goes after three.
    async fn month_and_purge(&mut self) {
        if self.months == 2 {
            return;
        }
        self.months += 1;
        self.app.settle().await;
        self.app.advance(Duration::from_secs(31 * 86_400));
        self.app.broker().purge(false).await.expect("purged");
        self.known.retain(|_, known| known.state != State::Gone);
    }

    /// Reads what the provider has seen since, in order.
    fn absorb(&mut self) {
        let events = self.app.refreshes(&self.connector);
        for event in &events[self.looked_at..] {
            self.presented(event);
        }
        self.looked_at = events.len();
    }

    /// One presentation: was it allowed, and what follows from it?
    fn presented(&mut self, event: &Event) {
        let grant = event.grant.as_deref().unwrap_or_default();
        let known = self.known.values_mut().find(|known| known.grant == grant);
        let Some(known) = known else { panic!("a token of a grant that is not stored was presented: {event:?}") };
        let at = Timestamp::from_millis(event.at_ms);
        assert_eq!(known.state, State::Active, "presented although it is over: {known:?} {event:?}");
        let slack = Duration::from_secs(2);
        assert!(known.not_before.is_none_or(|least| least <= at.plus(slack)), "too early: {known:?} {event:?}");
        assert!(!event.reuse || known.is_lost || self.rotation != Rotation::Strict, "in vain: {known:?} {event:?}");
        match (event.fault.as_deref(), event.error.as_deref()) {
            (None, None) => {
                known.generation += 1;
                known.expires_at = at.plus(Duration::from_secs(3_600));
                known.not_before = None;
            }
            (None, Some("invalid_grant")) => {
                assert!(known.is_taken_back || known.is_lost, "a grant died for nothing: {known:?} {event:?}");
                known.state = State::NeedsReauth;
            }
            (Some("oauth_error"), _) => known.state = State::NeedsReauth,
            (Some("rate_limited"), _) => {}
            (Some("status" | "reset_before_answer"), _) => {
                if self.rotation == Rotation::Strict {
                    known.is_lost |= event.committed.as_ref().is_some_and(|committed| committed.refresh.is_some());
                    known.not_before = Some(at.max(known.expires_at.minus(Duration::from_secs(360))));
                }
            }
            other => panic!("what was that? {other:?} {event:?}"),
        }
    }

    /// The service shows what the model says.
    async fn compare(&self) {
        let list = format!("/v1/connections?connector_id={}&limit=200", self.connector.id);
        let items = items_of(&self.app.operator().get(&list).await.expect(200));
        assert_eq!(items.len(), self.known.len(), "{items:?} {:?}", self.known);
        for known in self.known.values() {
            let shown = items.iter().find(|item| item["id"] == known.id.as_str()).expect("it is listed");
            let state = match shown["status"].as_str() {
                Some("active") => State::Active,
                Some("needs_reauth") => State::NeedsReauth,
                _ => State::Gone,
            };
            assert_eq!((state, &shown["generation"]), (known.state, &json!(known.generation)), "{shown} {known:?}");
            if state == State::NeedsReauth {
                assert_eq!(shown["needs_reauth"]["reason"], "grant_revoked", "{shown}");
            }
        }
    }

    /// The provider is well again: nothing is stuck, what is served lives, and what was taken back is dead.
    async fn ends_well(&mut self) {
        self.app.provider().clear_faults();
        for _ in 0..4 {
            self.app.advance(Duration::from_secs(1_200));
            self.app.run(Work::Recover).await;
            self.take(&Step::Refresh).await;
        }
        for user in 0..USERS {
            self.take(&Step::Fetch(user)).await;
        }
        for known in self.known.values().filter(|known| known.state == State::Active) {
            let grant = self.app.provider().grant(&known.grant).expect("known");
            assert!(grant.alive, "active, and dead at the provider: {known:?} {grant:?}");
            let connection = self.app.connection(&known.id).await;
            assert_eq!(connection["refreshing"], "ok", "stuck: {connection}");
        }
        for user in 0..USERS {
            if self.known.contains_key(&user) {
                self.take(&Step::Disconnect(user)).await;
            }
        }
        self.app.settle().await;
        for known in self.known.values() {
            let grant = self.app.provider().grant(&known.grant).expect("known");
            assert!(!grant.alive, "taken back, and alive at the provider: {known:?} {grant:?}");
        }
    }
}

async fn run(app: &mut TestApp, class: u8, steps: &[Step]) {
    let classes = [Rotation::NonRotating, Rotation::Soft, Rotation::Strict, Rotation::Strict];
    let rotation = classes[usize::from(class)];
    let connector = app.connector(ConnectorSpec::oauth2().rotation(rotation)).await;
    let key = app.api_key(&["connector"], Some(&[&connector.id])).await;
    let (known, months, looked_at) = (BTreeMap::new(), 0, 0);
    let mut case = Case { app, connector, rotation, key, known, months, looked_at };
    for user in 0..USERS {
        case.take(&if user == 0 { Step::Connect(user) } else { Step::Import(user) }).await;
    }
    for step in steps {
        case.take(step).await;
    }
    case.ends_well().await;
}

#[expect(clippy::disallowed_methods, reason = "whoever repeats a run says which")]
fn seed() -> u64 {
    let said = std::env::var("VALETKEY_MODEL_SEED").ok().and_then(|text| text.parse().ok());
    said.unwrap_or_else(|| {
        let mut drawn = [0; 8];
        SystemEntropy.fill(&mut drawn);
        u64::from_le_bytes(drawn)
    })
}

fn agrees_with_the_model(engine: Engine) {
    let seed = seed();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let setup = Setup::on(engine).config(|config| {
        config.limits.starts_per_minute_and_user = 10_000;
        config.limits.starts_per_hour_and_user = 10_000;
    });
    let app = RefCell::new(runtime.block_on(TestApp::start(setup)));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let cases = match engine {
        Engine::Sqlite => CASES_ON_SQLITE,
        Engine::Postgres => CASES_ON_POSTGRES,
    };
    let config = Config { cases, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let result = TestRunner::new_with_rng(config, rng).run(&steps(), |(class, steps)| {
        runtime.block_on(run(&mut app.borrow_mut(), class, &steps));
        Ok(())
    });
    // Inside the runtime, so that what is closed there can be.
    runtime.block_on(async { drop(app) });
    if let Err(error) = result {
        panic!("VALETKEY_MODEL_SEED={seed}: {error}");
    }
}

mod sqlite {
    #[test]
    fn the_service_agrees_with_the_model() {
        super::agrees_with_the_model(valetkey_suite::Engine::Sqlite);
    }
}

mod postgres {
    #[test]
    #[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
    fn the_service_agrees_with_the_model() {
        super::agrees_with_the_model(valetkey_suite::Engine::Postgres);
    }
}
