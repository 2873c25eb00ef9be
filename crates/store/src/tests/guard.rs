//! The epoch, and the hold that all replicas share.

use valetkey_core::{
    Action, AttemptId, AttemptState, AuditEvent, Connection, Hold, HoldReason, Secret, SpaceId, SystemEntropy,
    Timestamp,
};

use super::{
    support::{at, each_place, each_store, event, events, number, put_connector, run},
    tokens::{connected, user},
};
use crate::{NewAttempt, Raised, Testimony, TokenStore, Witnessed};

fn told(action: Action) -> impl Fn(&SpaceId, &Hold) -> AuditEvent + Sync {
    move |space, hold| AuditEvent { space: space.clone(), ..event(action, hold.since) }
}

async fn raise(store: &TokenStore, testimony: &Testimony, now: Timestamp) -> Raised {
    store.raise_epoch(testimony, now, &told(Action::HoldBegun)).await.unwrap()
}

async fn begin(store: &TokenStore, now: Timestamp) -> bool {
    let hold = Hold { reason: HoldReason::Operator, note: Some("a note".to_owned()), since: now };
    store.begin_hold(&hold, &told(Action::HoldBegun)).await.unwrap()
}

async fn release(store: &TokenStore, now: Timestamp) -> Option<Hold> {
    store.release_hold(now, &told(Action::HoldReleased)).await.unwrap()
}

fn attempt(connection: &Connection, despite_hold: bool) -> NewAttempt {
    NewAttempt {
        id: AttemptId::new(at(1), &SystemEntropy),
        connection_id: connection.id,
        generation: connection.generation,
        state: AttemptState::Sent,
        holder: "us".to_owned(),
        lease_until: at(45_000),
        fingerprint: Secret::from("presented").fingerprint(),
        despite_hold,
        now: at(1),
    }
}

#[tokio::test]
async fn the_epoch_rises_and_a_database_that_kept_up_is_not_held() {
    each_store(async |store| {
        let mut last = Testimony::Absent;
        for epoch in 1..4 {
            let raised = raise(store, &last, at(epoch)).await;
            assert_eq!((raised.witnessed.epoch, &raised.hold, raised.began), (epoch, &None, false));
            assert_eq!(raised.witnessed.instance, store.instance_id().await.unwrap());
            last = Testimony::Saw(raised.witnessed);
        }
        // A process that died between database and witness left one that is behind.
        assert_eq!(raise(store, &Testimony::Absent, at(9)).await.hold, None);
        assert_eq!(raise(store, &last, at(9)).await.hold, None);
        assert_eq!(store.find_hold().await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_database_behind_its_witness_is_held_once_and_for_every_replica() {
    each_store(async |store| {
        let instance = store.instance_id().await.unwrap();
        let saw = |epoch| Testimony::Saw(Witnessed { instance: instance.clone(), epoch });
        raise(store, &Testimony::Absent, at(1)).await;
        // The witness repeats what the database had: epoch 2 is what it would have next.
        let raised = raise(store, &saw(2), at(5)).await;
        assert!(raised.began);
        let hold = Hold { reason: HoldReason::BehindWitness, note: None, since: at(5) };
        assert_eq!(raised.hold.as_ref(), Some(&hold));
        assert_eq!(raised.witnessed.epoch, 3, "further than the witness, now that the hold is written down");
        let again = raise(store, &saw(900), at(6)).await;
        assert_eq!((again.began, again.hold, again.witnessed.epoch), (false, Some(hold.clone()), 901));
        assert!(!begin(store, at(7)).await);
        assert_eq!(store.find_hold().await.unwrap(), Some(hold.clone()));
        assert_eq!(events(store, Action::HoldBegun).await, 1);

        assert_eq!(release(store, at(8)).await, Some(hold));
        assert_eq!((release(store, at(9)).await, store.find_hold().await.unwrap()), (None, None));
        assert_eq!(events(store, Action::HoldReleased).await, 1);
        let late = raise(store, &saw(100_000), at(10)).await;
        assert_eq!(late.hold, None, "one decision is enough for a replica that is started later");
    })
    .await;
}

#[tokio::test]
async fn a_witness_of_another_instance_or_an_unreadable_one_holds_too() {
    for (testimony, reason) in [
        (Testimony::Saw(Witnessed { instance: "another".to_owned(), epoch: 0 }), HoldReason::ForeignWitness),
        (Testimony::Unreadable, HoldReason::UnreadableWitness),
    ] {
        each_store(async |store| {
            let raised = raise(store, &testimony, at(1)).await;
            assert_eq!(raised.hold.unwrap().reason, reason);
            assert_eq!(raised.witnessed.epoch, 1, "the epochs of another database say nothing");
        })
        .await;
    }
}

#[tokio::test]
async fn every_space_is_told() {
    each_store(async |store| {
        let other: SpaceId = "team-a".parse().unwrap();
        store.create_space(&other, at(0), &event(Action::SpaceCreated, at(0))).await.unwrap();
        assert!(begin(store, at(1)).await);
        assert_eq!(store.find_hold().await.unwrap().unwrap().note.as_deref(), Some("a note"));
        assert_eq!(events(store, Action::HoldBegun).await, 2);
        let told = "SELECT CAST(COUNT(DISTINCT space_id) AS BIGINT) FROM audit WHERE action = 'hold.begun'";
        assert_eq!(number(store, told).await, 2);
    })
    .await;
}

#[tokio::test]
async fn a_hold_keeps_an_attempt_from_being_recorded_unless_it_is_harmless() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let connection = connected(store, &connector, &user("1"), "one").await;
        begin(store, at(1)).await;
        assert!(store.record_attempt(&attempt(&connection, false)).await.unwrap().is_none());
        assert_eq!(number(store, "SELECT CAST(COUNT(*) AS BIGINT) FROM attempts").await, 0);
        release(store, at(2)).await;
        assert!(store.record_attempt(&attempt(&connection, false)).await.unwrap().is_some());
        let another = connected(store, &connector, &user("2"), "two").await;
        begin(store, at(3)).await;
        assert!(store.record_attempt(&attempt(&another, true)).await.unwrap().is_some());
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_hold_makes_due_what_it_kept_back_and_nothing_else() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let kept = connected(store, &connector, &user("1"), "one").await;
        let failing = connected(store, &connector, &user("2"), "two").await;
        let later = connected(store, &connector, &user("3"), "three").await;
        for (connection, due) in [(&kept, 100), (&failing, 100), (&later, 9_000)] {
            let due = at(due).as_millis();
            run(store, &format!("UPDATE connections SET refresh_due_at = {due} WHERE id = '{}'", connection.id)).await;
        }
        begin(store, at(1)).await;
        store.mark_failing(&failing, "timeout", Some(at(5_000)), at(150)).await.unwrap();
        store.move_due(kept.id, Some(at(400_000))).await.unwrap();
        store.move_due(later.id, Some(at(9_000))).await.unwrap();
        release(store, at(200)).await;
        assert_eq!(store.claim_due(at(200), at(500), 10).await.unwrap(), [kept.id]);
        assert_eq!(store.claim_due(at(5_000), at(9_999), 10).await.unwrap().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn what_is_refreshed_is_counted_by_connector() {
    each_store(async |store| {
        let (first, second) = (put_connector(store, at(0)).await, put_connector(store, at(1)).await);
        let one = connected(store, &first, &user("1"), "one").await;
        connected(store, &first, &user("2"), "two").await;
        connected(store, &second, &user("3"), "three").await;
        let due = at(100).as_millis();
        run(store, &format!("UPDATE connections SET refresh_due_at = {due} WHERE id = '{}'", one.id)).await;
        let mut load = store.refresh_load(at(100)).await.unwrap();
        load.sort_by_key(|each| each.connections);
        assert_eq!((load[0].connector_id, load[0].connections, load[0].due), (second.id, 1, 0));
        assert_eq!((load[1].connector_id, load[1].connections, load[1].due), (first.id, 2, 1));
    })
    .await;
}

#[tokio::test]
async fn a_hold_outlives_the_process() {
    each_place(async |place| {
        let store = place.store().await;
        begin(&store, at(1)).await;
        store.close().await;
        let store = place.store().await;
        assert!(store.find_hold().await.unwrap().is_some());
        assert!(raise(&store, &Testimony::Absent, at(2)).await.hold.is_some());
        store.close().await;
    })
    .await;
}
