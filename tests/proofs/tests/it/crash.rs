//! Crashes, few of them.

use crate::run::{Ended, on_postgres, proof};

const COUNT: &str = "36";

fn loses_nothing(ended: &Ended) {
    assert!(ended.held, "{}", ended.said);
    for name in ["avoidable_losses", "unexplained", "stuck", "second_presentations", "unrecorded_presentations"] {
        assert_eq!(ended.last[name], 0, "{}", ended.said);
    }
    // One that needs two kills may come last; one that is missed kills nobody.
    let kills = ended.last["kills"].as_u64().unwrap();
    assert!((30..=37).contains(&kills), "{}", ended.said);
    assert!(ended.last["missed_boundaries"].as_u64() <= Some(3), "{}", ended.said);
}

#[test]
#[cfg_attr(feature = "null-control", ignore = "this build loses grants on purpose")]
fn a_broker_that_is_killed_loses_nothing_that_can_be_kept() {
    loses_nothing(&proof(&["crash", "--kills", COUNT]));
}

#[test]
#[cfg_attr(any(not(postgres), feature = "null-control"), ignore = "no server, or a build that loses grants on purpose")]
fn a_broker_on_postgres_that_is_killed_loses_nothing_that_can_be_kept() {
    let mut arguments = vec!["crash", "--kills", COUNT];
    let engine = on_postgres();
    arguments.extend(engine.iter().map(String::as_str));
    loses_nothing(&proof(&arguments));
}

#[test]
#[cfg_attr(not(feature = "null-control"), ignore = "needs the build without attempt records")]
fn without_attempt_records_the_same_run_reports_losses() {
    let ended = proof(&["crash", "--kills", COUNT]);
    assert!(ended.held, "the null control found nothing: {}", ended.said);
    let found = |name: &str| ended.last[name].as_u64().unwrap();
    assert!(found("avoidable_losses") + found("unexplained") > 0, "{}", ended.said);
    assert!(found("second_presentations") > 0, "{}", ended.said);
    assert_eq!(ended.last["null_control"], true);
}
