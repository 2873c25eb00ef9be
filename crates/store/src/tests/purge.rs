//! The purge.

use valetkey_core::{Action, AuditEvent, ConnectionId, EventId, PlanId, SpaceId, SystemEntropy, Timestamp};

use super::{
    rows::{Row, put_attempt, put_flow, put_revocation},
    support::{at, day, each_store, event, events, number, put_connector, run, space},
};
use crate::{AuditFilter, ConnectionFilter, PURGE_BATCH, TokenStore, Use};

async fn count(store: &TokenStore, table: &str) -> i64 {
    number(store, &format!("SELECT CAST(COUNT(*) AS BIGINT) FROM {table}")).await
}

#[tokio::test]
async fn ended_flows_go_and_open_ones_stay() {
    each_store(async |store| {
        let connector = put_connector(store, day(0)).await;
        for status in ["connected", "failed", "cancelled", "expired"] {
            put_flow(store, &connector, status, day(1), Some(day(1))).await;
        }
        put_flow(store, &connector, "connected", day(5), Some(day(5))).await;
        put_flow(store, &connector, "finishing", day(1), None).await;
        assert_eq!(store.purge_flows(day(2), true).await.unwrap(), 4);
        assert_eq!(count(store, "flows").await, 6);
        assert_eq!(store.purge_flows(day(2), false).await.unwrap(), 4);
        assert_eq!(store.purge_flows(day(2), false).await.unwrap(), 0);
        assert_eq!(count(store, "flows").await, 2);
    })
    .await;
}

#[tokio::test]
async fn lapsed_flows_expire_and_lose_their_secrets() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        for status in ["pending", "awaiting_confirm", "awaiting_finish", "finishing"] {
            put_flow(store, &connector, status, at(100), None).await;
        }
        put_flow(store, &connector, "pending", at(101), None).await;
        assert_eq!(store.expire_flows(at(100), true).await.unwrap(), 3);
        assert_eq!(store.expire_flows(at(100), false).await.unwrap(), 3);
        assert_eq!(store.expire_flows(at(100), false).await.unwrap(), 0);
        let expired = "flows WHERE status = 'expired' AND ended_at = expires_at AND code IS NULL AND verifier IS NULL \
                       AND nonce IS NULL";
        assert_eq!(count(store, expired).await, 3);
        assert_eq!(count(store, "flows WHERE code IS NOT NULL").await, 2);
    })
    .await;
}

#[tokio::test]
async fn revoked_connections_go_with_all_that_hangs_on_them() {
    each_store(async |store| {
        let connector = put_connector(store, day(0)).await;
        let old = Row::new("u:1", day(0)).status("revoked").put(store, &connector).await;
        let waiting = Row::new("u:2", day(0)).status("revoked").put(store, &connector).await;
        put_revocation(store, &connector, waiting, "queued", day(0)).await;
        put_revocation(store, &connector, old, "failed", day(0)).await;
        let recent =
            Row { updated_at: day(9), ..Row::new("u:3", day(0)).status("revoked") }.put(store, &connector).await;
        let live = Row::new("u:4", day(0)).put(store, &connector).await;
        for connection in [old, waiting, recent, live] {
            put_attempt(store, connection, 1, day(0)).await;
            put_attempt(store, connection, 2, day(0)).await;
            run(store, &format!("INSERT INTO due (connection_id, due_at) VALUES ('{connection}', 0)")).await;
        }
        let uses: Vec<Use> =
            [old, waiting, recent, live].iter().map(|id| Use { connection: *id, at: day(0) }).collect();
        store.record_uses(&uses, &[]).await.unwrap();
        let purged = |space: &SpaceId, subject| AuditEvent {
            space: space.clone(),
            subject,
            ..event(Action::ConnectionPurged, day(5))
        };
        assert_eq!(store.purge_revoked_connections(day(5), true, &purged).await.unwrap(), 1);
        assert_eq!(events(store, Action::ConnectionPurged).await, 0);
        assert_eq!(count(store, "connections").await, 4);
        assert_eq!(store.purge_revoked_connections(day(5), false, &purged).await.unwrap(), 1);
        assert_eq!(store.purge_revoked_connections(day(5), false, &purged).await.unwrap(), 0);
        assert_eq!(events(store, Action::ConnectionPurged).await, 1);
        assert_eq!(store.find_connection(&space(), old).await.unwrap(), None);
        for (table, left) in [("connections", 3), ("attempts", 6), ("due", 3), ("connection_usage", 3)] {
            assert_eq!(count(store, table).await, left, "{table}");
        }
    })
    .await;
}

#[tokio::test]
async fn unused_connections_are_those_that_only_their_owner_can_renew() {
    each_store(async |store| {
        let connector = put_connector(store, day(0)).await;
        let row = |owner| Row::new(owner, day(0));
        let bare = Row { refresh_token: false, ..row("u:1") }.put(store, &connector).await;
        let dead = row("u:2").status("needs_reauth").put(store, &connector).await;
        row("u:3").put(store, &connector).await;
        row("u:4").status("revoked").put(store, &connector).await;
        let used = Row { refresh_token: false, ..row("u:5") }.put(store, &connector).await;
        store
            .record_uses(&[Use { connection: used, at: day(60) }, Use { connection: dead, at: day(9) }], &[])
            .await
            .unwrap();
        Row { updated_at: day(60), ..row("u:6").status("needs_reauth") }.put(store, &connector).await;
        let mut expected = [bare, dead];
        expected.sort();
        assert_eq!(store.unused_connections(day(50), 10).await.unwrap(), expected);
        assert_eq!(store.unused_connections(day(50), 1).await.unwrap(), expected[..1]);
        assert_eq!(store.unused_connections(day(0), 10).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn the_attempt_of_the_current_generation_is_never_deleted() {
    each_store(async |store| {
        let connector = put_connector(store, day(0)).await;
        let connection = Row::new("u:1", day(0)).put(store, &connector).await;
        put_attempt(store, connection, 1, day(0)).await;
        put_attempt(store, connection, 2, day(0)).await;
        put_attempt(store, ConnectionId::new(day(0), &SystemEntropy), 2, day(0)).await;
        assert_eq!(store.purge_attempts(day(0), false).await.unwrap(), 0);
        assert_eq!(store.purge_attempts(day(9), true).await.unwrap(), 2);
        assert_eq!(store.purge_attempts(day(9), false).await.unwrap(), 2);
        assert_eq!(count(store, "attempts WHERE generation = 2").await, 1);
        assert_eq!(count(store, "attempts").await, 1);
    })
    .await;
}

#[tokio::test]
async fn audit_and_ended_revocations_go_by_age() {
    each_store(async |store| {
        let connector = put_connector(store, day(3)).await;
        store.append_audit(&[event(Action::FlowStarted, day(0)), event(Action::FlowStarted, day(1))]).await.unwrap();
        assert_eq!(store.purge_audit(day(1), true).await.unwrap(), 1);
        assert_eq!(store.purge_audit(day(1), false).await.unwrap(), 1);
        assert_eq!(store.list_audit(&space(), &AuditFilter::default(), None, 10).await.unwrap().len(), 2);

        let connection = Row::new("u:1", day(0)).put(store, &connector).await;
        for (state, when) in [("confirmed", day(0)), ("failed", day(1)), ("queued", day(0))] {
            put_revocation(store, &connector, connection, state, when).await;
        }
        assert_eq!(store.purge_revocations(day(1), true).await.unwrap(), 1);
        assert_eq!(store.purge_revocations(day(1), false).await.unwrap(), 1);
        assert_eq!(count(store, "revocations WHERE state <> 'confirmed'").await, 2);
    })
    .await;
}

#[tokio::test]
async fn plans_go_a_day_after_they_lapse() {
    each_store(async |store| {
        let connector = put_connector(store, day(0)).await;
        Row::new("u:1", day(0)).put(store, &connector).await;
        let make = async |expires_at: Timestamp| {
            let id = PlanId::new(day(0), &SystemEntropy);
            let event = event(Action::RevokePlanned, day(0));
            let all = ConnectionFilter::default();
            store.create_plan(id, &space(), &all, None, day(0), expires_at, &event).await.unwrap().id
        };
        let (old, recent) = (make(day(1)).await, make(day(2)).await);
        assert_eq!(store.purge_plans(day(1), false).await.unwrap(), 0);
        assert_eq!(store.purge_plans(day(2), true).await.unwrap(), 1);
        assert_eq!(store.purge_plans(day(2), false).await.unwrap(), 1);
        assert_eq!(store.find_plan(&space(), old).await.unwrap(), None);
        assert_eq!(store.plan_members(old).await.unwrap(), []);
        assert_eq!(store.plan_members(recent).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_purge_works_in_batches() {
    each_store(async |store| {
        let batch = u64::try_from(PURGE_BATCH).unwrap();
        let events: Vec<AuditEvent> = (0..=PURGE_BATCH)
            .map(|millis| AuditEvent {
                id: EventId::new(at(millis), &SystemEntropy),
                ..event(Action::TokenIssued, at(millis))
            })
            .collect();
        store.append_audit(&events).await.unwrap();
        assert_eq!(store.purge_audit(day(1), true).await.unwrap(), batch + 1);
        assert_eq!(store.purge_audit(day(1), false).await.unwrap(), batch);
        assert_eq!(store.purge_audit(day(1), false).await.unwrap(), 1);
    })
    .await;
}
