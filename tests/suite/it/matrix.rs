//! Who may what, as one matrix: every operation of `docs/openapi.json` with every identity, each cell as the table of roles
//! says.

use std::{collections::BTreeMap, fs, io::Write as _, time::Duration};

use serde_json::{Value, json};
use valetkey_core::{Clock, KeyId, PresentedKey, SystemClock, SystemEntropy};
use valetkey_suite::{Answer, Client, ConnectorSpec, Setup, TestApp, engine_tests, extra::text_of};

use crate::roles::{ALL_ROLES, EVERYBODY, MISSING, Operation, Things, bare, call, is_refused, roles_of, state, things};

/// What a key reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Nothing of this space.
    AnotherSpace,
    /// Another connector of this space.
    AnotherConnector,
}

/// The roles of an identity with a valid key. The role `shared` is nothing without `app`.
const HELD: [&[&str]; 6] = [&["connector"], &["app"], &["app", "shared"], &["operator"], &["admin"], ALL_ROLES];

/// The operations of the file that is published.
fn operations() -> Vec<Operation> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let document: Value = serde_json::from_str(&fs::read_to_string(path).expect("docs/openapi.json")).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let found = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods").iter();
        methods.map(|(method, operation)| Operation {
            id: text_of(&operation["operationId"]),
            method: method.to_uppercase(),
            path: path.clone(),
        })
    });
    found.collect()
}

/// Callers whose keys are none, by what is wrong with them.
async fn nobodies(app: &TestApp, things: &Things) -> Vec<(&'static str, Client)> {
    let connectors = json!([things.connector.id]);
    let make = async |more: Value| {
        let mut body = json!({ "name": "Test", "roles": ALL_ROLES, "connectors": connectors });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let made = app.admin().post("/v1/keys", &body).await.expect(201);
        (made.text_of("id"), made.text_of("key"))
    };
    let (id, key) = make(json!({})).await;
    app.caller(&key).get("/v1/keys").await.expect(200).done();
    // Its own id, another secret, and the checksum that belongs to both.
    let id: KeyId = id.parse().expect("an id");
    let wrong = PresentedKey::generate(id, &SystemEntropy).0;
    let unknown = PresentedKey::generate(KeyId::new(SystemClock::new().now(), &SystemEntropy), &SystemEntropy).0;
    let (revoked_id, revoked) = make(json!({})).await;
    app.admin().delete(&format!("/v1/keys/{revoked_id}")).await.expect(200).done();
    let soon = app.clock.now().plus(Duration::from_secs(60)).to_string();
    let (_, expired) = make(json!({ "expires_at": soon })).await;
    app.advance(Duration::from_secs(61));
    vec![
        ("no key", app.anonymous()),
        ("an empty one", app.caller("")),
        ("a malformed one", app.caller("vk_nonsense")),
        ("a mistyped one", app.caller(&key[..key.len() - 1])),
        ("an unknown one", app.caller(unknown.expose())),
        ("a wrong secret", app.caller(wrong.expose())),
        ("a revoked one", app.caller(&revoked)),
        ("an expired one", app.caller(&expired)),
    ]
}

fn may(operation: &Operation, roles: &[&str]) -> bool {
    roles_of(operation).iter().any(|role| *role == EVERYBODY || roles.contains(role))
}

/// Whether a request names a thing, in its path or in its body.
fn names_one(operation: &Operation) -> bool {
    operation.path.contains("{id}")
        || ["create_key", "import_connections", "revoke_connections"].contains(&operation.id.as_str())
}

/// What two answers have to have in common: everything but the request's id and, in a plan of nothing, its own id and times.
fn comparable(answer: &Answer, ids: crate::roles::Ids<'_>) -> String {
    let mut text = bare(answer, ids);
    for member in ["plan_id", "expires_at"] {
        if let Some(value) = answer.json[member].as_str() {
            text = text.replace(value, "(new)");
        }
    }
    text
}

/// A cell of somebody who has a key but reaches nothing of these things.
async fn hides(who: &str, caller: &Client, roles: &[&str], operation: &Operation, things: &Things) {
    let foreign = call(caller, operation, things.ids()).await;
    if !may(operation, roles) {
        foreign.expect_problem(403, "forbidden").done();
        return;
    }
    assert!(foreign.status < 500, "{who} {operation:?}: {}", foreign.text);
    if names_one(operation) {
        let absent = call(caller, operation, MISSING).await;
        assert_eq!(comparable(&foreign, things.ids()), comparable(&absent, MISSING), "{who} {operation:?}");
        // A role may ask for more than the operation does: then that is the answer, alike for both.
        let is_hidden = foreign.status == 404 || is_refused(&foreign) || !operation.path.contains("{id}");
        let wants_more = foreign.status == 403 && foreign.json["code"] == "shared-role-required";
        assert!(is_hidden || wants_more, "{who} {operation:?}: {} {}", foreign.status, foreign.text);
    } else {
        let mine = [things.connector.id.as_str(), &things.connection, &things.flow, &things.key];
        assert!(mine.iter().all(|id| !foreign.text.contains(id)), "{who} {operation:?}: {}", foreign.text);
    }
}

engine_tests! {
    async fn every_operation_answers_every_identity_as_specified(
        app: TestApp,
        setup = |setup: Setup| setup.config(|config| {
            config.limits.starts_per_minute_and_user = 10_000;
            config.limits.starts_per_hour_and_user = 10_000;
            config.limits.open_flows_per_user = 10_000;
            config.limits.open_flows_per_caller = 10_000;
        }),
    ) {
        let operations = operations();
        let mut cells: BTreeMap<&str, usize> = BTreeMap::new();
        let kept = things(&app).await;
        let alone = json!({ "name": "Test", "roles": ["shared"] });
        app.admin().post("/v1/keys", &alone).await.expect_problem(422, "invalid-request").done();
        app.space("other").await;
        let elsewhere = app.connector_by(&app.key(&["admin"], None, "other").await, ConnectorSpec::oauth2()).await;
        let named = app.connector(ConnectorSpec::oauth2()).await;
        let nobodies = nobodies(&app, &kept).await;
        let mut callers = Vec::new();
        for roles in HELD {
            let of = |connector| roles.contains(&"connector").then_some([connector]);
            let (other, own) = (of(elsewhere.id.as_str()), Some([named.id.as_str()]));
            let other = app.key(roles, other.as_ref().map(<[_; 1]>::as_slice), "other").await;
            let own = app.key(roles, own.as_ref().map(<[_; 1]>::as_slice), "default").await;
            callers.push((Reach::AnotherSpace, roles, other));
            callers.push((Reach::AnotherConnector, roles, own));
        }
        let unchanged = async || {
            // What callers made in their own reach is no change of these things.
            let state = state(&app, &kept).await;
            json!([state["connector"], state["connection"], state["flow"], state["key"]])
        };
        let before = unchanged().await;
        for operation in &operations {
            let is_open = roles_of(operation) == [EVERYBODY];
            let mut first: Option<String> = None;
            for (who, caller) in &nobodies {
                *cells.entry("without a key").or_default() += 1;
                for ids in [kept.ids(), MISSING] {
                    let answer = call(caller, operation, ids).await;
                    if is_open {
                        answer.expect(200).done();
                        continue;
                    }
                    let text = bare(&answer.expect_problem(401, "unauthenticated"), ids);
                    assert_eq!(*first.get_or_insert_with(|| text.clone()), text, "{who}: {operation:?}");
                }
            }
            for (reach, roles, caller) in &callers {
                let column = if *reach == Reach::AnotherSpace { "of another space" } else { "of another connector" };
                *cells.entry(column).or_default() += 1;
                if is_open {
                    call(caller, operation, kept.ids()).await.expect(200).done();
                } else {
                    hides(&format!("{reach:?} {roles:?}"), caller, roles, operation, &kept).await;
                }
            }
        }
        assert_eq!(unchanged().await, before, "whoever was refused changed nothing");
        for operation in &operations {
            for roles in HELD {
                *cells.entry("of these").or_default() += 1;
                let things = things(&app).await;
                let connectors = [things.connector.id.as_str()];
                let narrowed = roles.contains(&"connector").then_some(&connectors[..]);
                let answer = call(&app.key(roles, narrowed, "default").await, operation, things.ids()).await;
                if !may(operation, roles) {
                    answer.expect_problem(403, "forbidden").done();
                } else if operation.id == "finish_flow" {
                    // The one flow that nobody has opened yet cannot be finished.
                    answer.expect(409).done();
                } else if operation.id == "create_connector" && narrowed.is_some() {
                    // Nobody makes what sees more than itself.
                    answer.expect_problem(403, "forbidden").done();
                } else if operation.id == "revoke_key" && narrowed.is_some() {
                    // A key that sees more does not exist for it.
                    answer.expect_problem(404, "key-not-found").done();
                } else {
                    assert!(answer.status < 300, "{roles:?} {operation:?}: {} {}", answer.status, answer.text);
                }
            }
        }
        let wanted = operations.len() * (8 + 3 * HELD.len());
        assert_eq!(cells.values().sum::<usize>(), wanted);
        let summary = json!({ "matrix": app.engine().to_string(), "operations": operations.len(), "cells": cells });
        let _ = writeln!(std::io::stderr(), "{summary}");
    }
}
