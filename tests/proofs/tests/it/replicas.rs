//! Several replicas, few rounds.

use crate::run::{on_postgres, proof};

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn replicas_ask_the_provider_once_for_each_generation() {
    let [_, _, postgres, url] = on_postgres();
    let ended = proof(&["replicas", "--callers", "60", "--rounds", "12", &postgres, &url]);
    assert!(ended.held, "{}", ended.said);
    let counts = ["provider_calls", "wrong_answers"].map(|name| ended.last[name].as_u64());
    assert_eq!(counts, [Some(12), Some(0)], "{}", ended.said);
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn a_frozen_holder_neither_sends_again_nor_overwrites() {
    let [_, _, postgres, url] = on_postgres();
    // Each class, frozen at each of the two points.
    let ended = proof(&["replicas", "--freeze", "--rounds", "12", &postgres, &url]);
    assert!(ended.held, "{}", ended.said);
    let counts = ["second_sends", "overwritten", "wrong_answers"].map(|name| ended.last[name].as_u64());
    assert_eq!(counts, [Some(0); 3], "{}", ended.said);
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn a_database_that_goes_and_comes_back_loses_nothing() {
    // It starts a server of its own, from the same programs.
    let ended = proof(&["outage", "--seconds", "3", "--refreshes", "12"]);
    assert!(ended.held, "{}", ended.said);
    if ended.last["skipped"].is_string() {
        return;
    }
    let counts = ["in_flight", "lost", "second_presentations", "stuck"].map(|name| ended.last[name].as_u64());
    assert_eq!(counts, [Some(12), Some(0), Some(0), Some(0)], "{}", ended.said);
}
