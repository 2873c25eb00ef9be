//! Flows, as an application's backend sees them.

use serde_json::{Value, json};

use crate::{Answer, Home, TestApp, TestConnector};

/// A started flow.
#[derive(Debug, Clone)]
pub struct Started {
    /// Its id.
    pub flow_id: String,
    /// The link for the user's browser.
    pub start_url: String,
}

impl TestApp {
    /// Asks for a flow with any body.
    pub async fn try_start(&self, connector: &TestConnector, body: &Value) -> Answer {
        self.application_of(connector).post(&connector.path("/flows"), body).await
    }

    /// Starts a flow: `app.start_flow(&connector, &connector.popup("u-1"))`.
    pub async fn start_flow(&self, connector: &TestConnector, body: &Value) -> Started {
        let answer = self.try_start(connector, body).await.expect(201);
        Started { flow_id: answer.text_of("flow_id"), start_url: answer.text_of("start_url") }
    }

    /// Finishes a flow for this person with what came home.
    pub async fn finish(&self, connector: &TestConnector, home: &Home, person: &str) -> Answer {
        self.finish_with(connector, &home.flow_id, &json!({ "handle": home.handle(), connector.person(): person }))
            .await
    }

    /// Finishes a flow with any body.
    pub async fn finish_with(&self, connector: &TestConnector, flow_id: &str, body: &Value) -> Answer {
        self.application_of(connector).post(&format!("/v1/flows/{flow_id}/finish"), body).await
    }

    /// Where a flow stands: its status, and the code if it failed.
    pub async fn flow_status(&self, connector: &TestConnector, flow_id: &str) -> (String, Option<String>) {
        let answer = self.application_of(connector).get(&format!("/v1/flows/{flow_id}")).await.expect(200);
        (answer.text_of("status"), answer.json["code"].as_str().map(str::to_owned))
    }

    /// Connects a person by popup in a new browser, signed in at the provider under the same name; gives the
    /// connection.
    pub async fn connect_user(&self, connector: &TestConnector, person: &str) -> Value {
        self.connect_with(connector, &connector.popup(person)).await
    }

    /// The same for any starting body.
    pub async fn connect_with(&self, connector: &TestConnector, body: &Value) -> Value {
        let person = body[connector.person()].as_str().expect("a person").to_owned();
        let started = self.start_flow(connector, body).await;
        let home = self.browser(&person).walk(&started.start_url).await;
        self.finish(connector, &home, &person).await.expect(200).json
    }
}
