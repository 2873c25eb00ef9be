//! Power cuts, few of them.

use std::process::Command;

use serde_json::Value;

/// Whether the proof held and its last line; `None` where it left itself out.
fn power_cut(arguments: &[&str]) -> Option<(bool, Value)> {
    let ended = Command::new(env!("CARGO_BIN_EXE_valetkey-proofs")).arg("power-cut").args(arguments).output().unwrap();
    let said = String::from_utf8(ended.stdout).unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    let last = said.lines().last().unwrap_or_else(|| panic!("it said nothing, and told: {told}"));
    let last: Value = serde_json::from_str(last).unwrap();
    (!last["skipped"].is_string()).then(|| (ended.status.success(), last))
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_goes() {
    let Some((held, last)) = power_cut(&["--cuts", "24"]) else { return };
    assert!(held, "{last}");
    assert_eq!((&last["cuts"], &last["lost"], &last["unreadable"]), (&24.into(), &0.into(), &0.into()), "{last}");
    assert_eq!(last["damaged_databases"], 0, "{last}");
    assert!(last["acknowledged"].as_u64().unwrap() > 100, "{last}");
}

#[test]
fn acknowledging_before_the_sync_is_found_out() {
    let Some((held, last)) = power_cut(&["--cuts", "24", "--synchronous", "normal"]) else { return };
    assert!(held, "the null control found no loss: {last}");
    assert!(last["lost"].as_u64().unwrap() > 0, "{last}");
}
