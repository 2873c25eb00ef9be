//! Writes that share commits.

use std::time::Duration;

use valetkey_core::{
    Action, AttemptId, AttemptState, Connection, Label, Owner, ReauthReason, RevocationId, RevocationReason, Secret,
    Status, SystemEntropy, Timestamp,
};

use super::support::{at, each_store, event, events, number, put_connector, run};
use crate::{
    Connect, Connected, EndAttempt, NewAttempt, Settle, Settled, Slots, Stopped, ToRevoke, TokenStore, db::Db,
};

fn token_set(name: &str, now: Timestamp) -> valetkey_core::TokenSet {
    valetkey_core::TokenSet {
        access_token: Secret::from(format!("access {name}")),
        token_type: "Bearer".to_owned(),
        refresh_token: Some(Secret::from(format!("refresh {name}"))),
        scopes: None,
        issued_at: now,
        expires_at: Some(now.plus(Duration::from_secs(3_600))),
        refresh_expires_at: None,
        reconnect_by: None,
        account: None,
    }
}

async fn connections(store: &TokenStore, count: usize) -> Vec<Connection> {
    let connector = put_connector(store, at(0)).await;
    let mut connections = Vec::new();
    for number in 0..count {
        let owner = Owner::User(format!("u-{number}").parse().unwrap());
        let tokens = token_set(&format!("first {number}"), at(0));
        let connect = Connect {
            flow: None,
            new_id: valetkey_core::ConnectionId::new(at(0), &SystemEntropy),
            connector: &connector,
            owner: &owner,
            label: &Label::none(),
            tokens: &tokens,
            requested_scopes: &connector.scopes,
            granted_scopes: &connector.scopes,
            due_at: Some(at(100)),
            weakly_bound: false,
            allow_account_change: true,
            replace_active: true,
            revoke_replaced: None,
            now: at(0),
        };
        match store.connect(&connect, event(Action::ConnectionConnected, at(0))).await.unwrap() {
            Connected::Stored(connection) => connections.push(*connection),
            other => panic!("{other:?}"),
        }
    }
    connections
}

fn attempt(connection: &Connection, holder: &str) -> NewAttempt {
    NewAttempt {
        id: AttemptId::new(at(1), &SystemEntropy),
        connection_id: connection.id,
        generation: connection.generation,
        state: AttemptState::Unsent,
        holder: holder.to_owned(),
        lease_until: at(45_000),
        fingerprint: Secret::from("presented").fingerprint(),
        despite_hold: true,
        now: at(1),
    }
}

async fn settle(store: &TokenStore, connection: &Connection, name: &str) -> Settled {
    let tokens = token_set(name, at(10));
    let settle = Settle {
        connection,
        attempt: AttemptId::new(at(1), &SystemEntropy),
        tokens: &tokens,
        kept_refresh_token: false,
        granted_scopes: &connection.granted_scopes,
        due_at: Some(at(9_000)),
        late_ids: (RevocationId::new(at(1), &SystemEntropy), RevocationId::new(at(2), &SystemEntropy)),
        now: at(10),
    };
    store.settle(&settle, &event(Action::ConnectionRefreshed, at(10))).await.unwrap()
}

#[tokio::test]
async fn many_refreshes_at_once_each_find_their_own_answer() {
    each_store(async |store| {
        let connections = connections(store, 300).await;
        // Of each second one somebody else holds the attempt.
        for connection in connections.iter().step_by(2) {
            assert!(store.record_attempt(&attempt(connection, "other")).await.unwrap().is_some());
        }
        let held = futures::future::join_all(connections.iter().map(async |connection| {
            let new = attempt(connection, "us");
            let held = store.record_attempt(&new).await.unwrap();
            (new.id, held)
        }));
        for (number, (id, held)) in held.await.into_iter().enumerate() {
            assert_eq!(held.as_ref().map(|held| held.id), (number % 2 == 1).then_some(id), "{number}");
        }
        let marked = futures::future::join_all(
            connections
                .iter()
                .map(|connection| store.mark_attempt_sent(connection.id, connection.generation, "us", at(2))),
        );
        for (number, marked) in marked.await.into_iter().enumerate() {
            assert_eq!(marked.unwrap(), number % 2 == 1, "{number}");
        }
        // One in three is revoked before its answer comes.
        for connection in connections.iter().step_by(3) {
            run(store, &format!("UPDATE connections SET status = 'revoked' WHERE id = '{}'", connection.id)).await;
        }
        let settled = futures::future::join_all(connections.iter().enumerate().map(|(number, connection)| {
            let name = format!("second {number}");
            async move { settle(store, connection, &name).await }
        }));
        for (number, settled) in settled.await.into_iter().enumerate() {
            assert_eq!(matches!(settled, Settled::Late), number % 3 == 0, "{number}");
        }
        for (number, connection) in connections.iter().enumerate().filter(|(number, _)| number % 3 != 0) {
            let stored = store.read_stored(connection.id).await.unwrap().unwrap();
            let token = store.open_access_token(&stored).unwrap().unwrap();
            assert_eq!(token, Secret::from(format!("access second {number}")));
            let refresh_token = store.refresh_token(&stored.connection).await.unwrap();
            assert_eq!(refresh_token, Some(Secret::from(format!("refresh second {number}"))));
        }
        assert_eq!(events(store, Action::ConnectionRefreshed).await, 300);
        let due = number(
            store,
            &format!("SELECT CAST(COUNT(*) AS BIGINT) FROM due WHERE due_at = {}", at(9_000).as_millis()),
        )
        .await;
        assert_eq!(due, 200);
        let late = "SELECT CAST(COUNT(*) AS BIGINT) FROM revocations WHERE reason = 'late_tokens'";
        assert_eq!(number(store, late).await, 200, "a refresh and an access token of each");
    })
    .await;
}

#[tokio::test]
async fn a_settle_whose_commit_was_in_doubt_is_not_late_when_it_is_repeated() {
    each_store(async |store| {
        let connection = connections(store, 1).await.remove(0);
        assert!(matches!(settle(store, &connection, "second").await, Settled::Stored));
        assert!(matches!(settle(store, &connection, "second").await, Settled::Stored));
        assert!(matches!(settle(store, &connection, "third").await, Settled::Late));
        assert_eq!(events(store, Action::ConnectionRefreshed).await, 2, "the first and the late one");
    })
    .await;
}

#[tokio::test]
async fn one_write_that_cannot_be_fails_alone() {
    each_store(async |store| {
        let connections = connections(store, 20).await;
        let same = event(Action::ConnectionRefreshed, at(10));
        // The event is there already: whoever writes it again breaks the transaction.
        store.append_audit(std::slice::from_ref(&same)).await.unwrap();
        let results = futures::future::join_all(connections.iter().enumerate().map(async |(number, connection)| {
            let tokens = token_set("second", at(10));
            let settle = Settle {
                connection,
                attempt: AttemptId::new(at(1), &SystemEntropy),
                tokens: &tokens,
                kept_refresh_token: false,
                granted_scopes: &connection.granted_scopes,
                due_at: None,
                late_ids: (RevocationId::new(at(1), &SystemEntropy), RevocationId::new(at(2), &SystemEntropy)),
                now: at(10),
            };
            let own = event(Action::ConnectionRefreshed, at(10));
            store.settle(&settle, if number == 7 { &same } else { &own }).await.is_ok()
        }))
        .await;
        let failed: Vec<usize> = (0..20).filter(|number| !results[*number]).collect();
        assert_eq!(failed, [7]);
        let settled = "SELECT CAST(COUNT(*) AS BIGINT) FROM connections WHERE generation = 2";
        assert_eq!(number(store, settled).await, 19);
    })
    .await;
}

#[tokio::test]
async fn writes_of_one_connection_happen_in_the_order_in_which_they_came() {
    each_store(async |store| {
        let connection = connections(store, 1).await.remove(0);
        assert!(store.record_attempt(&attempt(&connection, "us")).await.unwrap().is_some());
        let end = EndAttempt { state: AttemptState::Unsent, outcome: "not_sent", next_try_at: at(2), now: at(2) };
        let again = NewAttempt { now: at(3), ..attempt(&connection, "us") };
        let (marked, ended, taken, moved) = tokio::join!(
            store.mark_attempt_sent(connection.id, connection.generation, "us", at(2)),
            store.end_attempt(&connection, "us", end),
            store.record_attempt(&again),
            store.move_due(connection.id, Some(at(777))),
        );
        moved.unwrap();
        assert!(marked.unwrap() && ended.unwrap());
        assert_eq!(taken.unwrap().unwrap().send_no, 2);
        assert_eq!(number(store, "SELECT due_at FROM due").await, at(777).as_millis());
    })
    .await;
}

#[tokio::test]
async fn what_was_claimed_is_dropped_unless_it_is_due_anew() {
    each_store(async |store| {
        let connections = connections(store, 2).await;
        let claimed = store.claim_due(at(100), at(50_000), 10).await.unwrap();
        assert_eq!(claimed.len(), 2);
        // The first was revoked and is connected again before its claimer gets to it.
        store.move_due(connections[0].id, Some(at(9_000))).await.unwrap();
        for connection in &connections {
            store.drop_due(connection.id, at(50_000)).await.unwrap();
        }
        assert_eq!(number(store, "SELECT CAST(COUNT(*) AS BIGINT) FROM due").await, 1);
        assert_eq!(number(store, "SELECT due_at FROM due").await, at(9_000).as_millis());
    })
    .await;
}

#[tokio::test]
async fn a_late_answer_whose_commit_was_in_doubt_is_taken_back_once() {
    each_store(async |store| {
        let connection = connections(store, 1).await.remove(0);
        run(store, "UPDATE connections SET status = 'revoked'").await;
        let tokens = token_set("second", at(10));
        let settle = Settle {
            connection: &connection,
            attempt: AttemptId::new(at(1), &SystemEntropy),
            tokens: &tokens,
            kept_refresh_token: false,
            granted_scopes: &connection.granted_scopes,
            due_at: None,
            late_ids: (RevocationId::new(at(1), &SystemEntropy), RevocationId::new(at(2), &SystemEntropy)),
            now: at(10),
        };
        let audit = event(Action::ConnectionRefreshed, at(10));
        for _ in 0..2 {
            assert!(matches!(store.settle(&settle, &audit).await.unwrap(), Settled::Late));
        }
        assert_eq!(number(store, "SELECT CAST(COUNT(*) AS BIGINT) FROM revocations").await, 2);
        assert_eq!(events(store, Action::ConnectionRefreshed).await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_stop_is_taken_back_by_whoever_knows_that_nothing_was_sent() {
    each_store(async |store| {
        let connections = connections(store, 3).await;
        for connection in &connections {
            let sent = NewAttempt { state: AttemptState::Sent, ..attempt(connection, "us") };
            assert!(store.record_attempt(&sent).await.unwrap().is_some());
        }
        let [stopped, revoked, running] = &connections[..] else { panic!() };
        let later = at(50_000);
        for connection in [stopped, revoked] {
            let found = store.find_attempt(connection.id, connection.generation).await.unwrap().unwrap();
            let audit = event(Action::ConnectionNeedsReauth, later);
            let reason = ReauthReason::UnknownOutcome;
            let ended = store.stop_abandoned(&found, reason, "process_died", later, &audit).await.unwrap();
            assert_eq!(ended, Stopped::WithItsGrant);
        }
        let id = || RevocationId::new(later, &SystemEntropy);
        let list = [ToRevoke { connection: revoked.id, refresh: id(), access: id() }];
        let audit = [event(Action::ConnectionRevoked, later)];
        store.revoke_connections(&revoked.space, &list, RevocationReason::Operator, later, &audit).await.unwrap();
        let end = EndAttempt { state: AttemptState::Unsent, outcome: "gate_closed", next_try_at: at(9), now: later };
        let take_back = async |connection: &Connection, holder: &str| {
            let audit = event(Action::ConnectionRecovered, later);
            store.take_back_stop(connection, holder, end, &audit).await.unwrap()
        };
        assert!(!take_back(stopped, "them").await, "only its holder knows");
        assert!(!take_back(revoked, "us").await, "a revoked connection stays revoked");
        assert!(!take_back(running, "us").await, "nothing was stopped");
        assert!(take_back(stopped, "us").await);
        assert!(!take_back(stopped, "us").await, "once");
        assert_eq!(events(store, Action::ConnectionRecovered).await, 1);
        let found = store.read_stored(stopped.id).await.unwrap().unwrap();
        assert_eq!((found.connection.status, found.connection.needs_reauth), (Status::Active, None));
        let attempt = store.find_attempt(stopped.id, stopped.generation).await.unwrap().unwrap();
        assert_eq!((attempt.state, attempt.outcome.as_deref()), (AttemptState::Unsent, Some("gate_closed")));
        let due = store.claim_due(later, at(90_000), 9).await.unwrap();
        assert!(due.contains(&stopped.id) && !due.contains(&revoked.id), "and it is due again");
        let status = store.read_stored(revoked.id).await.unwrap().unwrap().connection.status;
        assert_ne!(status, Status::Active);
    })
    .await;
}

#[tokio::test]
async fn a_connection_stays_in_memory_until_a_write_changes_it() {
    each_store(async |store| {
        let connection = connections(store, 1).await.remove(0);
        store.find_stored(connection.id).await.unwrap();
        let in_memory = || store.cache.connection(connection.id).is_some();
        let kept = matches!(store.db, Db::Sqlite(_));
        assert_eq!(in_memory(), kept);
        assert!(store.record_attempt(&attempt(&connection, "us")).await.unwrap().is_some());
        store.move_due(connection.id, Some(at(3))).await.unwrap();
        assert_eq!(in_memory(), kept, "its attempts and due points are not in memory");
        assert!(store.mark_failing(&connection, "timeout", None, at(3)).await.unwrap());
        assert!(!in_memory());
        let found = store.find_stored(connection.id).await.unwrap().unwrap();
        let last = found.connection.last_attempt.as_ref();
        assert_eq!(last.map(|last| last.outcome.as_str()), Some("timeout"));
    })
    .await;
}

#[tokio::test]
async fn an_attempt_is_stopped_with_its_grant_or_not_at_all() {
    each_store(async |store| {
        let connections = connections(store, 2).await;
        let stop = async |connection: &Connection, now| {
            let attempt = store.find_attempt(connection.id, connection.generation).await.unwrap().unwrap();
            let audit = event(Action::ConnectionNeedsReauth, now);
            let reason = ReauthReason::UnknownOutcome;
            store.stop_abandoned(&attempt, reason, "process_died", now, &audit).await.unwrap()
        };
        let [late, gone] = &connections[..] else { panic!() };
        for connection in &connections {
            let sent = NewAttempt { state: AttemptState::Sent, ..attempt(connection, "us") };
            assert!(store.record_attempt(&sent).await.unwrap().is_some());
        }
        assert_eq!(stop(late, at(44_999)).await, Stopped::NotAtAll, "the lease protects it");
        // Its holder comes back and says that nothing was sent.
        let end = EndAttempt { state: AttemptState::Unsent, outcome: "not_sent", next_try_at: at(2), now: at(50_000) };
        assert!(store.end_attempt(late, "us", end).await.unwrap());
        assert_eq!(stop(late, at(50_001)).await, Stopped::NotAtAll);
        assert_eq!(events(store, Action::ConnectionNeedsReauth).await, 0);
        assert_eq!(stop(gone, at(50_001)).await, Stopped::WithItsGrant);
        assert_eq!(stop(gone, at(50_002)).await, Stopped::NotAtAll, "once");
        assert_eq!(events(store, Action::ConnectionNeedsReauth).await, 1);
        let status =
            async |connection: &Connection| store.read_stored(connection.id).await.unwrap().unwrap().connection.status;
        assert_eq!((status(late).await, status(gone).await), (Status::Active, Status::NeedsReauth));
    })
    .await;
}

#[tokio::test]
async fn slots_are_taken_together_and_each_has_its_own_time() {
    each_store(async |store| {
        let per = (Duration::from_millis(100), 3);
        let take = async |want, now: i64| {
            store.take_slots("budget", per, Duration::from_millis(250), want, at(now)).await.unwrap()
        };
        let millis = |slots: &Slots| slots.waits.iter().map(Duration::as_millis).collect::<Vec<_>>();
        let first = take(8, 0).await;
        assert_eq!((first.taken, millis(&first)), (5, vec![0, 0, 0, 100, 200, 300, 400, 500]));
        let none = take(2, 0).await;
        assert_eq!((none.taken, millis(&none)), (0, vec![300, 400]));
        let some = take(4, 100).await;
        assert_eq!((some.taken, millis(&some)), (1, vec![200, 300, 400, 500]));
        store.pause_quota("budget", at(5_000)).await.unwrap();
        let paused = take(2, 4_000).await;
        assert_eq!((paused.taken, millis(&paused)), (0, vec![1_000, 1_100]));
        assert_eq!(take(3, 9_000).await.taken, 3);
    })
    .await;
}

#[tokio::test]
async fn a_group_finds_each_row_by_its_key() {
    each_store(async |store| {
        let Db::Sqlite(pools) = &store.db else { return };
        for (name, text) in crate::sql::groups::SQLITE {
            let explained = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
            let plan: Vec<(i64, i64, i64, String)> =
                sqlx::query_as(explained).bind("[]").fetch_all(&pools.write).await.unwrap();
            let steps: Vec<&str> = plan.iter().map(|(_, _, _, step)| step.as_str()).collect();
            for table in ["x", "connections", "attempts", "due"] {
                let wrong = |step: &&&str| {
                    **step == format!("SCAN {table}")
                        || (step.starts_with(&format!("SEARCH {table} USING")) && !step.contains("sqlite_autoindex"))
                };
                assert_eq!(steps.iter().find(wrong), None, "{name}: {steps:?}");
            }
        }
    })
    .await;
}
