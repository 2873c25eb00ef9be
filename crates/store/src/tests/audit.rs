//! The audit.

use serde_json::json;
use valetkey_core::{
    Action, Actor, AuditEvent, ConnectionId, ConnectorId, FlowId, KeyId, Owner, Subject, SystemEntropy,
};

use super::support::{at, each_store, event, space};
use crate::AuditFilter;

fn full() -> AuditEvent {
    AuditEvent {
        actor: Actor::Key { key_id: KeyId::new(at(0), &SystemEntropy) },
        subject: Subject {
            connector_id: Some(ConnectorId::new(at(0), &SystemEntropy)),
            connection_id: Some(ConnectionId::new(at(0), &SystemEntropy)),
            flow_id: Some(FlowId::new(at(0), &SystemEntropy)),
            key_id: Some(KeyId::new(at(0), &SystemEntropy)),
            owner: Some(Owner::User("u-1 \"quoted\" ü\\".parse().unwrap())),
        },
        detail: json!({ "count": 3, "text": "null \u{0} and 'quotes'" }),
        request_id: Some("7".to_owned()),
        ..event(Action::TokenIssued, at(10))
    }
}

#[tokio::test]
async fn events_come_back_as_they_were_written_newest_first() {
    each_store(async |store| {
        let kinds = [Actor::CommandLine, Actor::Browser, Actor::System];
        let mut events: Vec<AuditEvent> = kinds
            .into_iter()
            .zip(0..)
            .map(|(actor, millis)| AuditEvent { actor, ..event(Action::FlowStarted, at(millis)) })
            .collect();
        events.push(full());
        store.append_audit(&events).await.unwrap();
        store.append_audit(&[]).await.unwrap();
        events.reverse();
        let all = AuditFilter::default();
        assert_eq!(store.list_audit(&space(), &all, None, 10).await.unwrap(), events);
        let page = store.list_audit(&space(), &all, Some(events[1].id), 1).await.unwrap();
        assert_eq!(page, events[2..3]);
        assert!(store.list_audit(&"other".parse().unwrap(), &all, None, 10).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn each_filter_narrows() {
    each_store(async |store| {
        let full = full();
        let plain = event(Action::FlowStarted, at(20));
        store.append_audit(&[full.clone(), plain.clone()]).await.unwrap();
        let none = AuditFilter::default;
        let subject = full.subject.clone();
        for filter in [
            AuditFilter { action: Some(full.action), ..none() },
            AuditFilter { connector_id: subject.connector_id, ..none() },
            AuditFilter { connection_id: subject.connection_id, ..none() },
            AuditFilter { flow_id: subject.flow_id, ..none() },
            AuditFilter { key_id: subject.key_id, ..none() },
            AuditFilter { owner: subject.owner, ..none() },
            AuditFilter { to: Some(at(20)), ..none() },
        ] {
            let found = store.list_audit(&space(), &filter, None, 10).await.unwrap();
            assert_eq!(found, std::slice::from_ref(&full), "{filter:?}");
        }
        let late = AuditFilter { from: Some(at(20)), ..none() };
        assert_eq!(store.list_audit(&space(), &late, None, 10).await.unwrap(), [plain]);
    })
    .await;
}

#[tokio::test]
async fn a_group_of_events_is_written_whole_or_not_at_all() {
    each_store(async |store| {
        let event = event(Action::TokenIssued, at(0));
        let twice = [full(), event.clone(), event];
        assert!(store.append_audit(&twice).await.is_err());
        assert!(store.list_audit(&space(), &AuditFilter::default(), None, 10).await.unwrap().is_empty());
    })
    .await;
}
