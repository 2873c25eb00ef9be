//! What replicas share: quotas, leases, circuits.

use std::time::Duration;

use super::support::{at, each_store, put_connector, space};
use crate::TokenStore;

const PER: Duration = Duration::from_millis(100);

async fn take(store: &TokenStore, millis: i64) -> Result<(), Duration> {
    store.take_quota("starts", PER, 3, at(millis)).await.unwrap()
}

#[tokio::test]
async fn a_quota_gives_its_burst_and_then_one_in_each_interval() {
    each_store(async |store| {
        for _ in 0..3 {
            assert_eq!(take(store, 0).await, Ok(()));
        }
        assert_eq!(take(store, 0).await, Err(Duration::from_millis(100)));
        assert_eq!(take(store, 99).await, Err(Duration::from_millis(1)));
        assert_eq!(take(store, 100).await, Ok(()));
        assert_eq!(take(store, 100).await, Err(Duration::from_millis(100)));
        for _ in 0..3 {
            assert_eq!(take(store, 10_000).await, Ok(()));
        }
        assert!(take(store, 10_000).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_quota_may_be_finer_than_a_millisecond() {
    each_store(async |store| {
        let take =
            async |millis| store.take_quota("budget", Duration::from_micros(250), 1, at(millis)).await.unwrap().is_ok();
        assert!(take(0).await);
        assert!(!take(0).await);
        let fourfold = store.take_quota("burst", Duration::from_micros(250), 4, at(0));
        assert_eq!(fourfold.await.unwrap(), Ok(()));
        assert!(take(1).await);
    })
    .await;
}

#[tokio::test]
async fn takers_at_once_get_no_more_than_the_burst() {
    each_store(async |store| {
        let takers = (0..20).map(|_| take(store, 0));
        let given = futures::future::join_all(takers).await.into_iter().filter(|taken| *taken == Ok(())).count();
        assert_eq!(given, 3);
    })
    .await;
}

#[tokio::test]
async fn a_pause_holds_whatever_burst_is_left() {
    each_store(async |store| {
        store.pause_quota("starts", at(5_000)).await.unwrap();
        store.pause_quota("starts", at(2_000)).await.unwrap();
        assert_eq!(take(store, 4_000).await, Err(Duration::from_millis(1_000)));
        assert_eq!(take(store, 5_000).await, Ok(()));
        assert_eq!(store.take_quota("other", PER, 1, at(0)).await.unwrap(), Ok(()));
    })
    .await;
}

#[tokio::test]
async fn sweeping_keeps_quotas_that_still_hold_somebody_back() {
    each_store(async |store| {
        for _ in 0..3 {
            take(store, 0).await.unwrap();
        }
        store.pause_quota("other", at(200)).await.unwrap();
        assert_eq!(store.sweep_quotas(at(250)).await.unwrap(), 1);
        assert_eq!(take(store, 0).await, Err(Duration::from_millis(100)));
        assert_eq!(store.sweep_quotas(at(300)).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_lease_has_one_holder_until_it_is_over() {
    each_store(async |store| {
        let take = async |holder, until, now| store.take_lease("purge", holder, at(until), at(now)).await.unwrap();
        assert!(take("a", 100, 0).await);
        assert!(!take("b", 150, 50).await);
        assert!(take("a", 200, 60).await);
        assert!(!take("b", 250, 199).await);
        assert!(take("b", 300, 200).await);
        store.drop_lease("purge", "a").await.unwrap();
        assert!(!take("a", 300, 210).await);
        store.drop_lease("purge", "b").await.unwrap();
        assert!(take("a", 300, 210).await);
    })
    .await;
}

#[tokio::test]
async fn of_many_who_want_a_lease_one_gets_it() {
    each_store(async |store| {
        let holders: Vec<String> = (0..10).map(|number| format!("replica-{number}")).collect();
        let takers = holders.iter().map(|holder| store.take_lease("sweep", holder, at(100), at(0)));
        let taken = futures::future::join_all(takers).await;
        assert_eq!(taken.into_iter().filter(|taken| *taken.as_ref().unwrap()).count(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_circuit_counts_refusals_and_lets_one_probe_through() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        assert_eq!(store.find_circuit(connector.id).await.unwrap(), None);
        assert!(!store.claim_probe(connector.id, at(50), at(150)).await.unwrap());
        assert_eq!(store.open_circuit(connector.id, "invalid_client", at(0), at(60)).await.unwrap(), 1);
        assert_eq!(store.open_circuit(connector.id, "unauthorized_client", at(10), at(100)).await.unwrap(), 2);
        let circuit = store.find_circuit(connector.id).await.unwrap().unwrap();
        assert_eq!((circuit.code.as_str(), circuit.failures), ("unauthorized_client", 2));
        assert_eq!((circuit.opened_at, circuit.next_probe_at), (at(0), at(100)));
        assert!(!store.claim_probe(connector.id, at(99), at(200)).await.unwrap());
        assert!(store.claim_probe(connector.id, at(100), at(200)).await.unwrap());
        assert!(!store.claim_probe(connector.id, at(100), at(200)).await.unwrap());
        let listed = store.list_circuits(&space()).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].0, connector.id);
        assert!(store.list_circuits(&"other".parse().unwrap()).await.unwrap().is_empty());
        assert!(store.close_circuit(connector.id).await.unwrap());
        assert!(!store.close_circuit(connector.id).await.unwrap());
    })
    .await;
}
