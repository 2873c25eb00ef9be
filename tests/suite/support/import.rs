//! Connections without a browser.

use std::fmt::Write as _;

use serde_json::{Value, json};
use valetkey_sandbox::SeededGrant;

use crate::{TestApp, TestConnector, witness};

/// An imported connection and the grant behind it.
#[derive(Debug, Clone)]
pub struct Seeded {
    /// The connection.
    pub connection_id: String,
    /// The grant's name at the sandbox.
    pub grant: String,
    /// The user.
    pub user: String,
    /// The access token that was imported.
    pub access_token: String,
    /// The refresh token that was imported.
    pub refresh_token: Option<String>,
}

impl TestApp {
    /// Makes living grants at the sandbox and imports them, one a user. Their access tokens live as long as the client
    /// at the sandbox says.
    pub async fn seed_import(&self, connector: &TestConnector, users: &[&str]) -> Vec<Seeded> {
        self.seed_import_with(connector, users, |_, _| ()).await
    }

    /// The same; `change` may change each line before it is sent.
    pub async fn seed_import_with(
        &self,
        connector: &TestConnector,
        users: &[&str],
        change: impl Fn(&SeededGrant, &mut Value),
    ) -> Vec<Seeded> {
        let users: Vec<String> = users.iter().map(|user| (*user).to_owned()).collect();
        let grants = self.provider().seed_grants(&connector.client_id, users, &["openid", "read"]).expect("grants");
        let mut lines = String::new();
        for grant in &grants {
            let life = grant.expires_in.map(std::time::Duration::from_secs);
            let mut entry = json!({
                "connector_id": connector.id,
                "access_token": grant.access_token,
                "refresh_token": grant.refresh_token,
                "expires_at": life.map(|life| self.clock.now().plus(life).to_string()),
                "scopes": grant.scopes,
            });
            if !connector.is_shared {
                entry["user_id"] = json!(grant.user);
            }
            change(grant, &mut entry);
            writeln!(lines, "{entry}").expect("memory takes it");
            witness::plant(&grant.access_token, "an access token");
            if let Some(token) = &grant.refresh_token {
                witness::plant(token, "a refresh token");
            }
        }
        let answer = self.admin().post_raw("/v1/connections/import", "application/x-ndjson", lines).await.expect(200);
        let reports: Vec<Value> =
            answer.text.lines().map(|line| serde_json::from_str(line).expect("a report")).collect();
        assert_eq!(reports.len(), grants.len(), "{}", answer.text);
        let seeded = grants.into_iter().zip(reports).map(|(grant, report)| {
            let id = report["connection_id"].as_str();
            Seeded {
                connection_id: id.unwrap_or_else(|| panic!("not imported: {report}")).to_owned(),
                grant: grant.grant,
                user: grant.user,
                access_token: grant.access_token,
                refresh_token: grant.refresh_token,
            }
        });
        seeded.collect()
    }
}
