use super::*;

fn refresh_by(client_id: &str) -> Request<'_> {
    Request { endpoint: Endpoint::Token, client_id: Some(client_id), grant_type: Some("refresh_token"), grant: None }
}

#[test]
fn a_rule_waits_for_its_client_and_runs_out() {
    let mut queue = FaultQueue::default();
    queue.push(FaultRule::refresh(Fault::Hang).client("one").times(2));
    assert!(queue.take(&refresh_by("two")).is_none());
    assert!(queue.take(&refresh_by("one")).is_some());
    assert!(queue.take(&refresh_by("one")).is_some());
    assert!(queue.take(&refresh_by("one")).is_none());
}

#[test]
fn a_rule_lets_its_first_requests_pass() {
    let mut queue = FaultQueue::default();
    queue.push(FaultRule::refresh(Fault::Hang).after(1));
    assert!(queue.take(&refresh_by("one")).is_none());
    assert!(queue.take(&refresh_by("one")).is_some());
    assert!(queue.pending().is_empty());
}

#[test]
fn a_rule_in_json_needs_only_its_fault() {
    let rule: FaultRule = serde_json::from_str(r#"{"fault":"hang"}"#).unwrap();
    assert_eq!(rule, FaultRule::token(Fault::Hang));
    let rule: FaultRule =
        serde_json::from_str(r#"{"endpoint":"revoke","times":null,"commit":"before","fault":{"status":{"code":503}}}"#)
            .unwrap();
    assert_eq!(rule.times, None);
    assert_eq!(rule.commit, Some(Commit::Before));
}

#[test]
fn a_fault_is_named_as_in_its_json() {
    let all = [
        Fault::Hang,
        Fault::OAuthError { status: 400, error: String::new() },
        Fault::ErrorInside200 { error: String::new() },
        Fault::Status { code: 500, body: String::new(), headers: BTreeMap::new() },
        Fault::HoldUntilReleased { gate: String::new() },
        Fault::WithMembers { members: serde_json::Map::new() },
        Fault::WithHeaders { headers: BTreeMap::new() },
        Fault::ManyHeaders { count: 1 },
        Fault::Bytes { code: 200, base64: String::new(), headers: BTreeMap::new() },
    ];
    for fault in all {
        let json = serde_json::to_value(&fault).unwrap();
        let name =
            json.as_str().map_or_else(|| json.as_object().unwrap().keys().next().unwrap().clone(), str::to_owned);
        assert_eq!(name, fault.name());
    }
}
