//! What replicas tell each other.

use valetkey_core::{ConnectionId, SystemEntropy};

use super::support::{at, each_store, run};

fn some(count: i64) -> Vec<ConnectionId> {
    (0..count).map(|number| ConnectionId::new(at(number), &SystemEntropy)).collect()
}

#[tokio::test]
async fn every_connection_that_was_announced_is_heard() {
    each_store(async |store| {
        let (first, second) = (some(3), some(2));
        let Some(mut notices) = store.listen().await.unwrap() else {
            assert!(!store.is_shared());
            store.announce(&first).await.unwrap();
            return;
        };
        store.announce(&first).await.unwrap();
        // What a newer version says is passed over.
        run(store, "SELECT pg_notify('valetkey_attempts', 'something else')").await;
        store.announce(&second).await.unwrap();
        for announced in first.into_iter().chain(second) {
            assert_eq!(notices.next().await, Some(announced));
        }
    })
    .await;
}

#[tokio::test]
async fn a_lost_connection_is_told_from_silence() {
    each_store(async |store| {
        let Some(mut notices) = store.listen().await.unwrap() else { return };
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        run(store, cut).await;
        assert_eq!(notices.next().await, None);
        // The next listener hears again.
        let mut again = store.listen().await.unwrap().unwrap();
        let announced = some(1);
        store.announce(&announced).await.unwrap();
        assert_eq!(again.next().await, Some(announced[0]));
    })
    .await;
}
