//! An edit that makes a connector another client, and what begins at the connector at the same moment.

use valetkey_core::{
    Action, ConnectionId, Connector, Flow, FlowId, FlowMode, FlowStatus, KeyId, Label, Owner, Secret, SystemEntropy,
    Timestamp, TokenSet,
};

use super::support::{at, each_store, event, number, put_connector, run};
use crate::{
    Begun, Connect, Connected, Engine, FlowCaps, TokenStore,
    connectors::is_unchanged,
    db::{Tx, on_tx},
};

fn flow(connector: &Connector) -> Flow {
    Flow {
        id: FlowId::new(at(0), &SystemEntropy),
        space: connector.space.clone(),
        connector_id: connector.id,
        started_by: KeyId::new(at(0), &SystemEntropy),
        owner: Owner::Shared,
        actor: None,
        user_display: None,
        label: Label::none(),
        mode: FlowMode::Redirect,
        return_url: "https://app.example/connected".to_owned(),
        origin: None,
        scopes: Vec::new(),
        login_hint: None,
        binding_challenge: None,
        allow_account_change: false,
        status: FlowStatus::Pending,
        failure: None,
        connection_id: None,
        created_at: at(0),
        expires_at: at(600_000),
        handle_expires_at: None,
    }
}

async fn start(store: &TokenStore, connector: &Connector) -> Begun {
    let caps = FlowCaps { per_caller: 10, per_user: 10, total: 10 };
    let (flow, audit) = (flow(connector), event(Action::FlowStarted, at(0)));
    let ticket = flow.id.to_string();
    store.insert_flow(&flow, connector.version, ticket.as_bytes(), caps, &audit).await.unwrap()
}

/// Whether an import was stored.
async fn import(store: &TokenStore, connector: &Connector) -> bool {
    let tokens = TokenSet {
        access_token: Secret::from("access"),
        token_type: "Bearer".to_owned(),
        refresh_token: Some(Secret::from("refresh")),
        scopes: None,
        issued_at: at(0),
        expires_at: None,
        refresh_expires_at: None,
        reconnect_by: None,
        account: None,
    };
    let connect = Connect {
        flow: None,
        new_id: ConnectionId::new(at(0), &SystemEntropy),
        connector,
        owner: &Owner::Shared,
        label: &Label::none(),
        tokens: &tokens,
        requested_scopes: &[],
        granted_scopes: &[],
        due_at: None,
        weakly_bound: false,
        allow_account_change: true,
        replace_active: false,
        revoke_replaced: None,
        now: at(0),
    };
    match store.connect(&connect, event(Action::ConnectionImported, at(0))).await.unwrap() {
        Connected::Stored(_) => true,
        Connected::ConnectorChanged => false,
        other => panic!("{other:?}"),
    }
}

async fn make(store: &TokenStore, connector: &Connector) -> bool {
    store.make_connection(connector, ConnectionId::new(at(0), &SystemEntropy), at(0)).await.unwrap()
}

async fn turn(store: &TokenStore, connector: &Connector) -> bool {
    let turned = Connector { client_id: "another".to_owned(), updated_at: at(5), ..connector.clone() };
    let audit = event(Action::ConnectorUpdated, at(5));
    store.update_connector(&turned, connector.version, None, &audit).await.unwrap()
}

/// A statement of the test's own inside a transaction.
async fn execute(tx: &mut Tx, text: String) {
    let text = sqlx::AssertSqlSafe(text);
    on_tx!(tx, |executor| {
        sqlx::query(text).execute(executor).await.expect("the statement works");
    });
}

async fn insert_raw(tx: &mut Tx, connector: &Connector) {
    let id = FlowId::new(at(1), &SystemEntropy);
    let text = format!(
        "INSERT INTO flows (id, space_id, connector_id, started_by, owner, label, mode, return_url, scopes,
            allow_account_change, status, ticket_hash, created_at, expires_at)
         VALUES ('{id}', '{}', '{}', 'key', 'u:1', '', 'popup', 'https://app.example/', '[]', false, 'pending', '{id}',
            0, 0)",
        connector.space, connector.id
    );
    execute(tx, text).await;
}

/// An edit that nothing hindered, in its middle.
async fn edit_raw(tx: &mut Tx, connector: &Connector, now: Timestamp) {
    let text = format!(
        "UPDATE connectors SET client_id = 'another', version = version + 1, updated_at = {} WHERE id = '{}'",
        now.as_millis(),
        connector.id
    );
    execute(tx, text).await;
}

/// Waits until `doing` waits for a lock of another transaction; says so if it ended instead. SQLite has nothing that
/// could be looked at: its one writer is taken.
async fn waits<F: Future + Unpin>(store: &TokenStore, doing: &mut F) -> bool {
    if store.engine() == Engine::Sqlite {
        return true;
    }
    let waiting = "SELECT CAST(COUNT(*) AS BIGINT) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    loop {
        tokio::select! {
            biased;
            _ = &mut *doing => return false,
            count = number(store, waiting) => if count > 0 {
                return true;
            },
        }
    }
}

#[tokio::test]
async fn an_edit_waits_for_a_start_under_way_and_sees_it() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        let mut tx = store.db.begin_write().await.unwrap();
        assert!(is_unchanged(&mut tx, connector.id, connector.version).await.unwrap());
        let mut edit = Box::pin(turn(store, &connector));
        assert!(waits(store, &mut edit).await, "the edit went past a start");
        insert_raw(&mut tx, &connector).await;
        tx.commit().await.unwrap();
        assert!(!edit.await, "a flow of the old client exists");
        let stored = store.find_connector_any(connector.id).await.unwrap().unwrap();
        assert_eq!((stored.client_id, stored.version), (connector.client_id, 1));
    })
    .await;
}

#[tokio::test]
async fn what_begins_waits_for_an_edit_under_way_and_then_does_not_begin() {
    each_store(async |store| {
        let beginnings: [&str; 3] = ["start", "import", "client"];
        for (number, beginning) in beginnings.into_iter().enumerate() {
            let connector = put_connector(store, at(i64::try_from(number).unwrap())).await;
            let mut tx = store.db.begin_write().await.unwrap();
            edit_raw(&mut tx, &connector, at(7)).await;
            let begun = async {
                match beginning {
                    "start" => start(store, &connector).await == Begun::Stored,
                    "import" => import(store, &connector).await,
                    _ => make(store, &connector).await,
                }
            };
            let mut begun = Box::pin(begun);
            assert!(waits(store, &mut begun).await, "{beginning} went past an edit");
            tx.commit().await.unwrap();
            assert!(!begun.await, "{beginning}: it was made for the old client");
            assert!(!store.connector_in_use(connector.id).await.unwrap(), "{beginning}");
            // With what the connector is now it begins.
            let now = store.find_connector_any(connector.id).await.unwrap().unwrap();
            match beginning {
                "start" => assert_eq!(start(store, &now).await, Begun::Stored),
                "import" => assert!(import(store, &now).await),
                _ => assert!(make(store, &now).await),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn nothing_begins_at_a_connector_that_was_deleted() {
    each_store(async |store| {
        let connector = put_connector(store, at(0)).await;
        run(store, "UPDATE connectors SET deleted_at = 1").await;
        assert_eq!(start(store, &connector).await, Begun::ConnectorChanged);
        assert!(!import(store, &connector).await && !make(store, &connector).await);
        assert!(!store.connector_in_use(connector.id).await.unwrap());
    })
    .await;
}
