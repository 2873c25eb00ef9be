use reqwest::Method;
use serde_json::{Value, json};
use valetkey_sandbox::{Event, GrantView, SandboxSettings, SeededGrant};

use crate::support::{Bench, CLIENT, reply};

async fn call(bench: &Bench, method: Method, path: &str, body: Value) -> (u16, Value) {
    let mut request = bench.http.request(method, bench.url(path));
    if !body.is_null() {
        request = request.json(&body);
    }
    reply(request.send().await.unwrap()).await
}

async fn get(bench: &Bench, path: &str) -> Value {
    let (status, body) = call(bench, Method::GET, path, Value::Null).await;
    assert!(status < 300, "{path}: {status} {body}");
    body
}

#[tokio::test]
async fn another_process_can_seed_script_and_read() {
    let bench = Bench::start(SandboxSettings::default()).await;
    assert_eq!(call(&bench, Method::GET, "/control/health", Value::Null).await.0, 204);
    let seed = json!({"client_id": CLIENT, "user_prefix": "u-", "count": 3, "scopes": ["read"]});
    let (status, seeded) = call(&bench, Method::POST, "/control/grants", seed).await;
    assert_eq!(status, 201);
    let seeded: Vec<SeededGrant> = serde_json::from_value(seeded).unwrap();
    assert_eq!(seeded[2].user, "u-2");
    let rules = json!([{"fault": {"hold_until_released": {"gate": "g"}}}, {"fault": {"oauth_error": {"status": 500, "error": "x"}}}]);
    assert_eq!(call(&bench, Method::POST, "/control/faults", rules).await.0, 204);
    assert_eq!(get(&bench, "/control/faults").await.as_array().unwrap().len(), 2);
    let first = seeded[0].refresh_token.clone().unwrap();
    let held = tokio::spawn(bench.post_refresh(&first).send());
    assert_eq!(call(&bench, Method::GET, "/control/gates/g/held", Value::Null).await.0, 204);
    assert_eq!(call(&bench, Method::GET, "/control/gates/h/held?timeout_ms=10", Value::Null).await.0, 408);
    assert_eq!(call(&bench, Method::POST, "/control/gates/g/release", Value::Null).await.0, 204);
    assert_eq!(held.await.unwrap().unwrap().status(), 200);
    assert_eq!(call(&bench, Method::GET, "/control/token-requests?count=1", Value::Null).await.0, 204);
    assert_eq!(bench.refresh(&first).await.0, 500);
    let events: Vec<Event> =
        serde_json::from_value(get(&bench, "/control/ledger?kind=token&repeated=true").await).unwrap();
    assert_eq!((events.len(), events[0].presentation), (1, 2));
    let later: Vec<Event> = serde_json::from_value(get(&bench, "/control/ledger?after=1").await).unwrap();
    assert_eq!(later, events);
    let grants: Vec<GrantView> = serde_json::from_value(get(&bench, "/control/grants?first=1&limit=1").await).unwrap();
    assert_eq!(grants[0].id, seeded[1].grant);
    let own = get(&bench, &format!("/control/grants?client_id={CLIENT}&user=u-0")).await;
    assert_eq!(own[0]["refresh_count"], 1);
    assert_eq!(get(&bench, "/control/counters").await["refreshed"], 1);
    assert_eq!(call(&bench, Method::DELETE, "/control/faults", Value::Null).await.0, 204);
    assert_eq!(call(&bench, Method::DELETE, "/control/ledger", Value::Null).await.0, 204);
    assert_eq!(get(&bench, "/control/ledger").await, json!([]));
}

#[tokio::test]
async fn another_process_can_move_the_clock_and_end_grants() {
    let bench = Bench::start(SandboxSettings::default()).await;
    let before = get(&bench, "/control/clock").await["now_ms"].as_i64().unwrap();
    let (_, after) = call(&bench, Method::POST, "/control/clock/advance", json!({"ms": 60_000})).await;
    assert!(after["now_ms"].as_i64().unwrap() >= before + 60_000);
    let (_, set) = call(&bench, Method::PUT, "/control/clock", json!({"now_ms": 5_000})).await;
    assert!((5_000..20_000).contains(&set["now_ms"].as_i64().unwrap()));
    let (one, two) = (bench.seed(), bench.seed());
    let state = async |token: &str| call(&bench, Method::POST, "/control/tokens", json!({"token": token})).await.1;
    assert_eq!(state(&one.access_token).await, json!({"access_live": true, "refresh_live": false, "grant": "grant-0"}));
    assert_eq!(state(two.refresh_token.as_ref().unwrap()).await["refresh_live"], true);
    let end = json!({"token": one.access_token});
    assert_eq!(call(&bench, Method::POST, "/control/tokens/end", end).await.0, 204);
    assert_eq!(state(&one.access_token).await["access_live"], false);
    assert_eq!(call(&bench, Method::DELETE, "/control/grants/grant-0", Value::Null).await.0, 204);
    assert_eq!(call(&bench, Method::DELETE, "/control/grants/grant-0", Value::Null).await.0, 404);
    let (_, ended) =
        call(&bench, Method::POST, "/control/revoke-by-user", json!({"client_id": CLIENT, "user": "user-a"})).await;
    assert_eq!(ended, json!({"ended": ["grant-1"]}));
    assert_eq!(get(&bench, "/control/grants/grant-1").await["ended"], "revoked_by_user");
}

#[tokio::test]
async fn another_process_can_change_settings_and_clients() {
    let bench = Bench::start(SandboxSettings::default()).await;
    let patch = json!({"auto_consent": true, "authorize": {"coop": "same-origin", "iss": {"other": "https://x"}}});
    let (status, settings) = call(&bench, Method::PATCH, "/control/settings", patch).await;
    assert_eq!((status, &settings["authorize"]["coop"]), (200, &json!("same-origin")));
    let kept: SandboxSettings = serde_json::from_value(get(&bench, "/control/settings").await).unwrap();
    assert!(kept.auto_consent && kept.discovery.advertise_iss);
    let (status, why) = call(&bench, Method::PATCH, "/control/settings", json!({"auto_consentt": true})).await;
    assert_eq!(status, 422);
    assert!(why["error"].as_str().unwrap().contains("auto_consentt"));
    let put = json!({"secrets": ["s"], "rotation": {"grace": {"seconds": 5}}});
    let (_, client) = call(&bench, Method::PUT, "/control/clients/second", put).await;
    assert_eq!(client["client_id"], "second");
    let patch = json!({"rotation": "soft", "access_life_seconds": null});
    let (status, client) = call(&bench, Method::PATCH, "/control/clients/second", patch).await;
    assert_eq!((status, &client["rotation"], &client["access_life_seconds"]), (200, &json!("soft"), &Value::Null));
    assert_eq!(get(&bench, "/control/clients").await.as_array().unwrap().len(), 2);
    assert_eq!(call(&bench, Method::DELETE, "/control/clients/second", Value::Null).await.0, 204);
    assert_eq!(call(&bench, Method::PATCH, "/control/clients/second", json!({})).await.0, 404);
}

#[tokio::test]
async fn the_control_stays_reachable_while_the_provider_is_down() {
    let bench = Bench::start(SandboxSettings::automatic()).await;
    for (outage, works) in [("drop", false), ("unavailable", true), ("none", true)] {
        let (status, _) = call(&bench, Method::PUT, "/control/outage", json!({"outage": outage})).await;
        assert_eq!(status, 204);
        assert_eq!(get(&bench, "/control/outage").await["outage"], outage);
        assert_eq!(bench.http.get(bench.url("/jwks")).send().await.is_ok(), works);
    }
}
