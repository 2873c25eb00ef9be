//! Cancelling: at any time, as often as one likes, and never halfway.

use serde_json::json;
use valetkey_suite::{
    Answer, ConnectorSpec, Home, TestApp, engine_tests,
    sandbox::{Fault, FaultRule},
};

async fn cancel(app: &TestApp, flow_id: &str) -> Answer {
    app.application().post(&format!("/v1/flows/{flow_id}/cancel"), &json!({})).await
}

engine_tests! {
    async fn cancelling_is_idempotent_and_final(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        for _ in 0..3 {
            let answer = cancel(&app, &started.flow_id).await.expect(204);
            assert!(answer.text.is_empty());
        }
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "cancelled");
        app.browser("u-1").get(&started.start_url).await.expect_failure(200, "flow-cancelled");
        app.browser("u-1").post_start(&started.start_url).await.expect(200);
        let audit = app.operator().get("/v1/audit?action=flow.cancelled").await.expect(200);
        assert_eq!(audit.json["items"].as_array().unwrap().len(), 1, "{}", audit.text);
    }

    async fn an_answer_after_cancelling_brings_no_handle(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let browser = app.browser("u-1");
        let location = browser.open(&started.start_url).await;
        let callback = browser.consent(&location).await;
        cancel(&app, &started.flow_id).await.expect(204).done();
        let page = browser.get(&callback).await.expect_failure(200, "flow-cancelled");
        assert!(Home::find(&page).is_none_or(|home| home.handle.is_none()));
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "cancelled");
    }

    async fn a_handle_is_worth_nothing_after_cancelling(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let home = app.browser("u-1").walk(&started.start_url).await;
        cancel(&app, &started.flow_id).await.expect(204).done();
        app.finish(&connector, &home, "u-1").await.expect_problem(410, "flow-cancelled").done();
        assert!(app.provider().token_requests().is_empty());
    }

    async fn cancelling_and_the_callback_race_through_one_statement(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        for round in 0..6 {
            let person = format!("u-{round}");
            let started = app.start_flow(&connector, &connector.popup(&person)).await;
            let browser = app.browser(&person);
            let location = browser.open(&started.start_url).await;
            let callback = browser.consent(&location).await;
            let (cancelled, page) = tokio::join!(cancel(&app, &started.flow_id), browser.get(&callback));
            cancelled.expect(204).done();
            assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "cancelled");
            if let Some(handle) = Home::find(&page).and_then(|home| home.handle) {
                let body = json!({ "handle": handle, "user_id": person });
                app.finish_with(&connector, &started.flow_id, &body).await.expect_problem(410, "flow-cancelled").done();
            }
        }
        assert!(app.provider().token_requests().is_empty());
        assert_eq!(app.number("SELECT CAST(COUNT(*) AS BIGINT) FROM flows WHERE code IS NOT NULL").await, 0);
    }

    async fn a_redemption_under_way_is_not_cancelled(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let home = app.browser("u-1").walk(&started.start_url).await;
        app.provider().inject(FaultRule::token(Fault::HoldUntilReleased { gate: "redeem".to_owned() }));
        let finish = app.finish(&connector, &home, "u-1");
        let meanwhile = async {
            assert!(app.provider().wait_until_held("redeem").await);
            cancel(&app, &started.flow_id).await.expect(204).done();
            app.provider().release("redeem");
        };
        let (finished, ()) = tokio::join!(finish, meanwhile);
        finished.expect(200).done();
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "connected");
    }

    async fn a_flow_that_ended_stays_as_it_ended(app: TestApp) {
        let connector = app.connector(ConnectorSpec::oidc()).await;
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        let home = app.browser("u-1").walk(&started.start_url).await;
        app.finish(&connector, &home, "u-1").await.expect(200).done();
        cancel(&app, &started.flow_id).await.expect(204).done();
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "connected");
        let started = app.start_flow(&connector, &connector.popup("u-1")).await;
        app.advance(std::time::Duration::from_secs(601));
        cancel(&app, &started.flow_id).await.expect(204).done();
        assert_eq!(app.flow_status(&connector, &started.flow_id).await.0, "expired");
    }
}
