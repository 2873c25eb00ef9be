use std::time::Duration;

use serde_json::Value;
use valetkey_sandbox::{Commit, Event, Fault, FaultRule, Rotation};

use crate::support::{Bench, reply};

fn hold(gate: &str) -> Fault {
    Fault::HoldUntilReleased { gate: gate.to_owned() }
}

/// Waits until the ledger's first event satisfies a condition.
async fn first_event(bench: &Bench, condition: impl Fn(&Event) -> bool) -> Event {
    for _ in 0..2000 {
        if let Some(event) = bench.control.events().into_iter().next().filter(|event| condition(event)) {
            return event;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came");
}

#[tokio::test]
async fn a_held_answer_was_committed_before_and_arrives_when_released() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let grant = bench.seed();
    bench.control.inject(FaultRule::refresh(hold("g")));
    let call = bench.post_refresh(&grant.refresh_token.unwrap());
    let held = tokio::spawn(async move { reply(call.send().await.unwrap()).await });
    assert!(bench.control.wait_until_held("g").await);
    let event = &bench.control.token_requests()[0];
    assert!(event.processed && event.shown_status.is_none());
    assert_eq!(bench.control.grant(&grant.grant).unwrap().refresh_count, 1);
    bench.control.release("g");
    let (status, body) = held.await.unwrap();
    assert_eq!(status, 200);
    bench.refreshed(body["refresh_token"].as_str().unwrap()).await;
    assert_eq!(bench.control.token_requests()[0].shown_status, Some(200));
}

#[tokio::test]
async fn a_request_that_is_held_before_its_commit_loses_the_race() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let grant = bench.seed();
    let token = grant.refresh_token.unwrap();
    bench.control.inject(FaultRule::refresh(hold("g")).commit(Commit::After));
    let call = bench.post_refresh(&token);
    let held = tokio::spawn(async move { reply(call.send().await.unwrap()).await });
    assert!(bench.control.wait_until_held("g").await);
    bench.refreshed(&token).await;
    bench.control.release("g");
    let (status, body) = held.await.unwrap();
    assert_eq!((status, body["error"].as_str()), (400, Some("invalid_grant")));
    let events = bench.control.refreshes_for(&grant.grant);
    assert_eq!(events.iter().map(|event| event.processed_order).collect::<Vec<_>>(), [Some(2), Some(1)]);
    assert!(events[0].was_current && events[0].reuse);
}

#[tokio::test]
async fn a_gate_that_is_scripted_again_is_closed_again() {
    let bench = Bench::of_class(Rotation::NonRotating).await;
    let token = bench.seed().refresh_token.unwrap();
    bench.control.inject(FaultRule::refresh(hold("g")));
    bench.control.release("g");
    assert_eq!(bench.refresh(&token).await.0, 200);
    bench.control.inject(FaultRule::refresh(hold("g")));
    let call = bench.post_refresh(&token).timeout(Duration::from_millis(100));
    assert!(call.send().await.unwrap_err().is_timeout());
    let limit = Duration::from_millis(20);
    assert!(!bench.control.wait_until_held_count("another", 1, limit).await);
}

#[tokio::test]
async fn a_caller_who_hangs_up_does_not_undo_what_was_held() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    bench.control.inject(FaultRule::refresh(hold("g")).commit(Commit::After));
    let call = bench.post_refresh(&token).timeout(Duration::from_millis(50));
    assert!(call.send().await.unwrap_err().is_timeout());
    assert!(!bench.control.events()[0].processed);
    bench.control.release("g");
    let event = first_event(&bench, |event| event.processed).await;
    assert_eq!(event.status, Some(200));
}

#[tokio::test]
async fn a_commit_can_follow_the_fault() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    let timeout = Fault::Status { code: 504, body: String::new(), headers: std::collections::BTreeMap::default() };
    bench.control.inject(FaultRule::refresh(timeout).commit(Commit::After));
    assert_eq!(bench.refresh(&token).await.0, 504);
    let event = first_event(&bench, |event| event.processed).await;
    assert_eq!(event.status, Some(200));
    bench.assert_dead(&token).await;
}

#[tokio::test]
async fn a_hanging_request_can_be_committed_when_its_caller_leaves() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    bench.control.inject(FaultRule::refresh(Fault::Hang).commit(Commit::After));
    let call = bench.post_refresh(&token).timeout(Duration::from_millis(100));
    assert!(call.send().await.unwrap_err().is_timeout());
    first_event(&bench, |event| event.processed && event.committed.is_some()).await;
    bench.assert_dead(&token).await;
}

#[tokio::test]
async fn a_commit_can_wait_until_after_the_callers_next_try() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let grant = bench.seed();
    let token = grant.refresh_token.unwrap();
    let rule = FaultRule::refresh(Fault::ResetBeforeAnswer).commit(Commit::WhenReleased("late".to_owned()));
    bench.control.inject(rule);
    bench.post_refresh(&token).send().await.unwrap_err();
    assert!(bench.control.wait_until_held("late").await);
    let (access, _) = bench.refreshed(&token).await;
    assert_eq!(bench.whoami(&access).await, 200);
    bench.control.release("late");
    let event = first_event(&bench, |event| event.processed).await;
    assert!(event.reuse);
    assert_eq!(bench.whoami(&access).await, 401);
}

#[tokio::test]
async fn an_uncommitted_truncated_body_shows_tokens_that_nobody_knows() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    bench.control.inject(FaultRule::refresh(Fault::SlowBody { ms_per_chunk: 0 }).commit(Commit::Never));
    let (status, body): (u16, Value) = bench.refresh(&token).await;
    assert_eq!(status, 200);
    bench.assert_dead(body["refresh_token"].as_str().unwrap()).await;
    bench.refreshed(&token).await;
}

#[tokio::test]
async fn a_stopping_sandbox_lets_nobody_wait() {
    let bench = Bench::of_class(Rotation::Strict).await;
    let token = bench.seed().refresh_token.unwrap();
    bench.control.inject(FaultRule::refresh(hold("g")).commit(Commit::Never));
    bench.control.inject(FaultRule::refresh(Fault::Hang));
    let calls = [bench.post_refresh(&token), bench.post_refresh(&token)];
    let calls = calls.map(|call| tokio::spawn(call.send()));
    assert!(bench.control.wait_for_token_requests(2).await);
    bench.sandbox.stop().await;
    for call in calls {
        let outcome = tokio::time::timeout(Duration::from_secs(5), call).await.unwrap().unwrap();
        outcome.unwrap_err();
    }
}
