//! Bulk revocation under kills, few connections.

use crate::run::{Ended, on_postgres, proof};

const FEW: [&str; 5] = ["revoke", "--connections", "200", "--kills", "3"];

fn leaves_nothing(ended: &Ended) {
    assert!(ended.held, "{}", ended.said);
    assert_eq!(ended.last["terminal"], ended.last["tokens"], "{}", ended.said);
    let counts = ["still_valid", "answered_after_ack", "not_revoked"].map(|name| ended.last[name].as_u64());
    assert_eq!(counts, [Some(0); 3], "{}", ended.said);
    assert!(ended.last["tokens"].as_u64() > Some(400), "tokens that came late are among them: {}", ended.said);
}

#[test]
fn every_token_of_a_bulk_revocation_ends_whoever_is_killed() {
    leaves_nothing(&proof(&FEW));
}

#[test]
#[cfg_attr(not(postgres), ignore = "VALETKEY_TEST_POSTGRES_URL names no server")]
fn every_token_of_a_bulk_revocation_on_postgres_ends_whoever_is_killed() {
    let engine = on_postgres();
    let mut arguments = FEW.to_vec();
    arguments.extend(engine.iter().map(String::as_str));
    leaves_nothing(&proof(&arguments));
}
