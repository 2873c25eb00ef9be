use valetkey_sandbox::{AuthMethod, LedgerSettings, Rotation, SandboxSettings, fingerprint};

use crate::support::{Bench, CLIENT, SECRET, reply};

#[tokio::test]
async fn a_refresh_is_recorded_with_fingerprints_only() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let grant = bench.seed();
    let token = grant.refresh_token.unwrap();
    let (access, next) = bench.refreshed(&token).await;
    let event = &bench.control.refreshes_for(&grant.grant)[0];
    assert_eq!(event.client_id.as_deref(), Some(CLIENT));
    assert_eq!(event.auth_method, Some(AuthMethod::Basic));
    assert_eq!(event.user.as_deref(), Some("user-a"));
    assert_eq!(event.presented.as_deref(), Some(fingerprint(&token).as_str()));
    assert!(event.was_current && !event.reuse);
    let committed = event.committed.as_ref().unwrap();
    assert_eq!(committed.access.as_deref(), Some(fingerprint(&access).as_str()));
    assert_eq!(committed.refresh.as_deref(), Some(fingerprint(&next).as_str()));
    let view = bench.control.grant(&grant.grant).unwrap();
    assert_eq!(view.current_refresh, committed.refresh);
    assert_eq!(view.live_refresh, [fingerprint(&next)]);
    assert_eq!(view.access.len(), 2);
    let everything = serde_json::to_string(&(bench.control.events(), view)).unwrap();
    for secret in [token.as_str(), &access, &next, SECRET] {
        assert!(!everything.contains(secret));
    }
}

#[tokio::test]
async fn repeated_presentations_count_even_when_nothing_was_processed() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    let wrong = bench.http.post(bench.url("/token")).basic_auth(CLIENT, Some("wrong"));
    let form = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
    assert_eq!(reply(wrong.form(&form).send().await.unwrap()).await.0, 401);
    bench.refreshed(&token).await;
    let repeated = bench.control.second_presentations();
    assert_eq!(repeated.len(), 1);
    assert_eq!((repeated[0].presentation, repeated[0].was_current), (2, true));
}

#[tokio::test]
async fn unknown_tokens_are_recorded_without_a_grant() {
    let bench = Bench::of_class(Rotation::Strict).await;
    bench.assert_dead("sbx_rt_unknown").await;
    let event = &bench.control.token_requests()[0];
    assert_eq!((event.grant.as_deref(), event.presentation), (None, 1));
    assert_eq!(event.presented.as_deref(), Some(fingerprint("sbx_rt_unknown").as_str()));
}

#[tokio::test]
async fn a_ledger_that_is_off_still_counts() {
    let settings = SandboxSettings { ledger: LedgerSettings::Off, ..SandboxSettings::automatic() };
    let bench = Bench::start(settings).await;
    let token = bench.seed().refresh_token.unwrap();
    let (_, next) = bench.refreshed(&token).await;
    bench.assert_dead(&token).await;
    bench.assert_dead(&next).await;
    let counters = bench.control.counters();
    assert!(bench.control.events().is_empty());
    assert_eq!((counters.refresh_requests, counters.refreshed, counters.refused), (3, 1, 2));
    assert_eq!((counters.repeated_presentations, counters.reuses), (1, 1));
    bench.control.clear_ledger();
    assert_eq!(bench.control.counters(), valetkey_sandbox::Counters::default());
}

#[tokio::test]
async fn a_hundred_thousand_grants_are_seeded_at_once() {
    let settings = SandboxSettings { ledger: LedgerSettings::Capped { events: 10 }, ..SandboxSettings::default() };
    let bench = Bench::start(settings).await;
    let users = (0..100_000).map(|number| format!("u-{number}"));
    let grants = bench.control.seed_grants(CLIENT, users, &["read"]).unwrap();
    for grant in grants.iter().step_by(5_000) {
        bench.refreshed(grant.refresh_token.as_ref().unwrap()).await;
    }
    assert_eq!(bench.control.events().len(), 10);
    assert_eq!(bench.control.grants_of(CLIENT, "u-5000")[0].refresh_count, 1);
    assert_eq!(bench.control.grants_from(99_999, 10).len(), 1);
}

#[tokio::test]
async fn a_frozen_clock_dates_every_event() {
    let settings = SandboxSettings { start_at_ms: Some(1_000), frozen_clock: true, ..SandboxSettings::automatic() };
    let bench = Bench::start(settings).await;
    bench.authorize(&[]).await;
    bench.control.advance(std::time::Duration::from_millis(5));
    bench.authorize(&[]).await;
    let dates: Vec<_> = bench.control.events().iter().map(|event| event.at_ms).collect();
    assert_eq!(dates, [1_000, 1_005]);
}
