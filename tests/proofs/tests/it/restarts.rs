//! Restarts, few of them.

use crate::run::{Ended, on_postgres, proof};

const COUNT: &str = "6";

fn loses_nothing(ended: &Ended) {
    assert!(ended.held, "{}", ended.said);
    for name in ["lost", "unclean_stops", "unsettled_attempts", "repeated_presentations", "calls_unserved"] {
        assert_eq!(ended.last[name], 0, "{}", ended.said);
    }
    assert!(ended.last["refreshes"].as_u64() >= Some(60), "{}", ended.said);
    assert!(ended.last["calls"].as_u64() > Some(100), "{}", ended.said);
}

#[test]
fn a_broker_that_is_restarted_under_load_loses_nothing() {
    loses_nothing(&proof(&["restarts", "--count", COUNT, "--connections", "10"]));
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn replicas_that_are_rolled_one_by_one_under_load_lose_nothing() {
    let mut arguments = vec!["restarts", "--count", COUNT, "--connections", "10"];
    let engine = on_postgres();
    arguments.extend(engine.iter().map(String::as_str));
    loses_nothing(&proof(&arguments));
}
