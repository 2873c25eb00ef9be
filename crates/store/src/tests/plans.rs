//! Plans for bulk revocation.

use valetkey_core::{Action, AuditEvent, Owner, PlanId, SystemEntropy};

use super::{
    rows::Row,
    support::{at, each_store, event, put_connector, space},
};
use crate::{AuditFilter, ConnectionFilter, Plan, TokenStore};

async fn plan(store: &TokenStore, filter: &ConnectionFilter) -> Plan {
    let id = PlanId::new(at(0), &SystemEntropy);
    let event =
        AuditEvent { detail: serde_json::json!({ "why": "off-boarding" }), ..event(Action::RevokePlanned, at(0)) };
    store.create_plan(id, &space(), filter, None, at(0), at(1_000), &event).await.unwrap()
}

#[tokio::test]
async fn a_plan_freezes_the_live_matches() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let mut live = Vec::new();
        for millis in 0..25 {
            let owner: &'static str = Box::leak(format!("u:{millis}").into_boxed_str());
            live.push(Row::new(owner, at(millis)).put(store, &connector).await);
        }
        live.push(
            Row { provider: "github", ..Row::new("u:x", at(26)).status("needs_reauth") }.put(store, &connector).await,
        );
        Row::new("u:y", at(27)).status("revoking").put(store, &connector).await;
        Row::new("u:z", at(28)).status("revoked").put(store, &connector).await;

        let made = plan(store, &ConnectionFilter::default()).await;
        assert_eq!(made.count, 26);
        assert_eq!(made.by_provider, [("github".to_owned(), 1), ("oauth2".to_owned(), 25)]);
        assert_eq!(made.sample, live[..20]);
        assert_eq!(made.expires_at, at(1_000));
        assert_eq!(store.plan_members(made.id).await.unwrap(), live);
        assert_eq!(store.find_plan(&space(), made.id).await.unwrap().as_ref(), Some(&made));
        assert_eq!(store.find_plan(&"other".parse().unwrap(), made.id).await.unwrap(), None);
        let planned = AuditFilter { action: Some(Action::RevokePlanned), ..AuditFilter::default() };
        let detail = store.list_audit(&space(), &planned, None, 9).await.unwrap().remove(0).detail;
        assert_eq!(detail, serde_json::json!({ "why": "off-boarding", "plan_id": made.id, "count": 26 }));
    })
    .await;
}

#[tokio::test]
async fn growth_counts_new_live_matches_only() {
    each_store(async |store| {
        let (first, second) = (put_connector(store, at(0)).await, put_connector(store, at(1)).await);
        Row::new("u:1", at(0)).put(store, &first).await;
        let owner = ConnectionFilter { owner: Some(Owner::User("1".parse().unwrap())), ..ConnectionFilter::default() };
        let of_owner = plan(store, &owner).await;
        let of_all = plan(store, &ConnectionFilter::default()).await;
        let id = PlanId::new(at(0), &SystemEntropy);
        let event = event(Action::RevokePlanned, at(0));
        let all = ConnectionFilter::default();
        let narrow = store.create_plan(id, &space(), &all, Some(&[first.id]), at(0), at(9), &event).await.unwrap();
        let growth = async |plan: &Plan| store.plan_growth(plan).await.unwrap();
        assert_eq!((growth(&of_owner).await, growth(&of_all).await, growth(&narrow).await), (0, 0, 0));
        Row { label: "work", ..Row::new("u:1", at(2)) }.put(store, &second).await;
        Row::new("u:2", at(3)).put(store, &first).await;
        Row::new("u:3", at(4)).status("revoked").put(store, &first).await;
        assert_eq!((growth(&of_owner).await, growth(&of_all).await, growth(&narrow).await), (1, 2, 1));
        let found = store.find_plan(&space(), narrow.id).await.unwrap().unwrap();
        assert_eq!(growth(&found).await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_plan_is_taken_once_and_in_time() {
    each_store(async |store| {
        let made = plan(store, &ConnectionFilter::default()).await;
        assert!(store.take_plan(made.id, at(999)).await.unwrap());
        assert!(!store.take_plan(made.id, at(999)).await.unwrap());
        let late = plan(store, &ConnectionFilter::default()).await;
        assert!(!store.take_plan(late.id, at(1_000)).await.unwrap());
        let several = plan(store, &ConnectionFilter::default()).await;
        let takers = (0..8).map(|_| store.take_plan(several.id, at(1)));
        let taken = futures::future::join_all(takers).await;
        assert_eq!(taken.into_iter().filter(|taken| *taken.as_ref().unwrap()).count(), 1);
    })
    .await;
}
