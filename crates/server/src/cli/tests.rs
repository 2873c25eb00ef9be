use clap::CommandFactory;
use serde_json::json;
use valetkey_core::Timestamp;

use super::{
    arguments::Arguments,
    failure::{Exit, Failure},
    table::{Column, Kind, Look, Table},
};

const COLUMNS: &[Column] =
    &[("NAME", "name", Kind::Plain), ("USER", "owner.user_id", Kind::Plain), ("USED", "used_at", Kind::Time)];

fn table() -> Table {
    let objects = [
        json!({ "name": "first", "owner": { "user_id": "u-1" }, "used_at": "2026-01-01T00:00:00.000Z" }),
        json!({ "name": "x".repeat(60), "owner": { "kind": "shared" }, "used_at": null }),
    ];
    Table::of(COLUMNS, &objects)
}

fn now() -> Timestamp {
    Timestamp::from_rfc3339("2026-01-01T03:30:00Z").unwrap()
}

#[test]
fn every_argument_is_well_formed() {
    Arguments::command().debug_assert();
}

#[test]
fn a_pipe_gets_whole_values_between_tabs() {
    let expected = format!("first\tu-1\t2026-01-01T00:00:00.000Z\n{}\t\t\n", "x".repeat(60));
    assert_eq!(table().render(Look::Tabs, now()), expected);
}

#[test]
fn a_terminal_gets_headings_and_short_values_unless_it_is_to_be_wide() {
    let short = table().render(Look::Short, now());
    assert!(short.starts_with(" NAME"), "{short}");
    assert!(short.contains("3 h ago") && short.contains('…'), "{short}");
    let wide = table().render(Look::Wide, now());
    assert!(wide.contains("2026-01-01T00:00:00.000Z") && wide.contains(&"x".repeat(60)), "{wide}");
}

#[test]
fn a_name_cannot_command_a_terminal_or_break_a_line() {
    let objects = [json!({ "name": "a\u{1b}[2Jb\tc\nd\u{9b}e" })];
    for look in [Look::Tabs, Look::Short, Look::Wide] {
        let text = Table::of(&COLUMNS[..1], &objects).render(look, now());
        let body = text.lines().last().unwrap();
        assert!(!body.contains(|letter: char| letter.is_control()), "{body:?}");
        assert!(body.contains('a') && body.contains('e'));
    }
}

#[test]
fn exit_statuses_follow_the_answer() {
    let exit = |status, code: &str| {
        let body = json!({ "title": "t", "code": code }).to_string();
        Failure::of_answer(status, body.as_bytes()).exit
    };
    assert_eq!(exit(404, "key-not-found"), Exit::NotFound);
    assert_eq!(exit(401, "unauthenticated"), Exit::NotAllowed);
    assert_eq!(exit(422, "invalid-request"), Exit::WrongUse);
    assert_eq!(exit(409, "plan-stale"), Exit::NeedsPerson);
    assert_eq!(exit(409, "space-exists"), Exit::Failed);
    assert_eq!(exit(503, "storage-unavailable"), Exit::TryLater);
    assert_eq!(exit(500, "internal-error"), Exit::Failed);
    assert_eq!(Failure::of_answer(502, b"<html>").exit, Exit::Failed);
}

#[test]
fn a_problem_reads_with_its_faults_and_what_to_do_next() {
    let body = json!({
        "title": "The request is wrong", "code": "space-not-found", "detail": "d", "request_id": "r-1",
        "faults": [{ "field": "name", "message": "has 1 to 200 bytes" }],
    });
    let text = Failure::of_answer(404, body.to_string().as_bytes()).to_text();
    for part in [
        "error: The request is wrong",
        "name: has 1 to 200 bytes",
        "request id: r-1",
        "next: see `valetkey spaces list`",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
