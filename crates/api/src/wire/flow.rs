//! Flows over the wire. No answer ever holds a handle: whoever started a flow could finish it with a victim's grant.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use valetkey_broker::{Finish, StartFlow, StartedFlow};
use valetkey_core::{ConnectionId, ConnectorId, Flow, FlowId, FlowMode, FlowStatus, Label, Secret, Timestamp, UserId};

use crate::pages::FailurePage;

/// A flow to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StartFlow)]
pub(crate) struct StartFlowIn {
    /// The signed-in user of the application's session, on a `per_user` connector.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "u-17")]
    user_id: Option<UserId>,
    /// The signed-in administrator, on a `shared` connector.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    actor: Option<UserId>,
    /// How the confirm page names the user.
    #[serde(default)]
    user_display: Option<String>,
    /// Which of the owner's accounts; for a second one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    label: Option<Label>,
    /// `popup` or `redirect`.
    #[schema(value_type = String, example = "popup")]
    mode: FlowMode,
    /// One of the connector's return URLs: the relay page of a popup, the page that goes on for a redirect.
    #[schema(example = "https://app.example/connected")]
    return_url: String,
    /// One of the connector's origins: the page that opens the popup.
    #[serde(default)]
    #[schema(example = "https://app.example")]
    origin: Option<String>,
    /// Scopes to ask for, within the connector's; its `scopes` if absent.
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// Whom the provider's sign-in page should suggest.
    #[serde(default)]
    login_hint: Option<String>,
    /// Base64url SHA-256 of a verifier that only the application's session knows.
    #[serde(default)]
    binding_challenge: Option<String>,
    /// Another account may take the place of the one connected before.
    #[serde(default)]
    allow_account_change: bool,
}

impl From<StartFlowIn> for StartFlow {
    fn from(start: StartFlowIn) -> Self {
        Self {
            user_id: start.user_id,
            actor: start.actor,
            user_display: start.user_display,
            label: start.label.unwrap_or_else(Label::none),
            mode: start.mode,
            return_url: start.return_url,
            origin: start.origin,
            scopes: start.scopes,
            login_hint: start.login_hint,
            binding_challenge: start.binding_challenge,
            allow_account_change: start.allow_account_change,
        }
    }
}

/// A started flow.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StartedFlow)]
pub(crate) struct StartedFlowOut {
    /// Its id.
    #[schema(value_type = String, example = "flw_06bc4jp3kg1hf0c9q2m8r5vk3o")]
    flow_id: FlowId,
    /// The link to open in the user's browser; for that one browser alone.
    #[schema(example = "https://connect.example/connect/5Y0kX…")]
    start_url: String,
    /// When its life ends.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

impl From<StartedFlow> for StartedFlowOut {
    fn from(started: StartedFlow) -> Self {
        Self { flow_id: started.flow_id, start_url: started.start_url.into_exposed(), expires_at: started.expires_at }
    }
}

/// Where a flow stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Flow)]
pub(crate) struct FlowOut {
    /// Its id.
    #[schema(value_type = String, example = "flw_06bc4jp3kg1hf0c9q2m8r5vk3o")]
    flow_id: FlowId,
    /// Its connector.
    #[schema(value_type = String, example = "ctr_06bc4jn7tg1hf0c9q2m8r5vk3o")]
    connector_id: ConnectorId,
    /// `pending`, `awaiting_finish`, `finishing`, `connected`, `failed`, `cancelled` or `expired`.
    #[schema(example = "pending")]
    status: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>, example = "access-denied")]
    code: Option<&'static str>,
    /// The connection it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>)]
    connection_id: Option<ConnectionId>,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When its life ends.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

impl FlowOut {
    /// A flow as it stands at `now`.
    pub(crate) fn of(flow: &Flow, now: Timestamp) -> Self {
        Self {
            flow_id: flow.id,
            connector_id: flow.connector_id,
            status: shown(flow.status_at(now)),
            code: flow.failure.map(|failure| FailurePage::from(failure).code()),
            connection_id: flow.connection_id,
            created_at: flow.created_at,
            expires_at: flow.expires_at,
        }
    }
}

/// While our page asks the person, the application has nothing to do yet: pending.
fn shown(status: FlowStatus) -> &'static str {
    match status {
        FlowStatus::AwaitingConfirm => FlowStatus::Pending.as_str(),
        FlowStatus::Pending
        | FlowStatus::AwaitingFinish
        | FlowStatus::Finishing
        | FlowStatus::Connected
        | FlowStatus::Failed
        | FlowStatus::Cancelled
        | FlowStatus::Expired => status.as_str(),
    }
}

/// What the application's backend vouches for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FinishFlow)]
pub(crate) struct FinishIn {
    /// The handle that came home with the browser.
    #[schema(value_type = String, write_only)]
    handle: Secret,
    /// The user of the application's session.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "u-17")]
    user_id: Option<UserId>,
    /// The administrator of the application's session, for a shared flow.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    actor: Option<UserId>,
    /// The verifier of `binding_challenge`.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    binding_verifier: Option<Secret>,
}

impl From<FinishIn> for Finish {
    fn from(finish: FinishIn) -> Self {
        Self {
            handle: finish.handle,
            user_id: finish.user_id,
            actor: finish.actor,
            binding_verifier: finish.binding_verifier,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valetkey_core::{FlowFailure, KeyId, Owner, SpaceId};

    fn flow(status: FlowStatus) -> Flow {
        Flow {
            id: "flw_00000000000000000000000000".parse().expect("an id"),
            space: SpaceId::default_space(),
            connector_id: "ctr_00000000000000000000000000".parse().expect("an id"),
            started_by: "key_00000000000000000000000000".parse::<KeyId>().expect("an id"),
            owner: Owner::Shared,
            actor: None,
            user_display: None,
            label: Label::none(),
            mode: FlowMode::Popup,
            return_url: "https://app.example/relay".to_owned(),
            origin: None,
            scopes: Vec::new(),
            login_hint: None,
            binding_challenge: None,
            allow_account_change: false,
            status,
            failure: (status == FlowStatus::Failed).then_some(FlowFailure::AccessDenied),
            connection_id: None,
            created_at: Timestamp::from_millis(1_000),
            expires_at: Timestamp::from_millis(601_000),
            handle_expires_at: Some(Timestamp::from_millis(61_000)),
        }
    }

    fn written(status: FlowStatus, now: i64) -> serde_json::Value {
        serde_json::to_value(FlowOut::of(&flow(status), Timestamp::from_millis(now))).expect("json")
    }

    #[test]
    fn a_flow_whose_time_is_over_is_expired_before_any_purge() {
        assert_eq!(written(FlowStatus::Pending, 2_000)["status"], "pending");
        assert_eq!(written(FlowStatus::Pending, 601_000)["status"], "expired");
        assert_eq!(written(FlowStatus::Connected, 601_000)["status"], "connected");
    }

    #[test]
    fn while_our_page_asks_the_flow_is_pending() {
        assert_eq!(written(FlowStatus::AwaitingConfirm, 2_000)["status"], "pending");
    }

    #[test]
    fn a_failed_flow_names_the_code_of_its_page() {
        let failed = written(FlowStatus::Failed, 2_000);
        assert_eq!((failed["status"].as_str(), failed["code"].as_str()), (Some("failed"), Some("access-denied")));
    }

    #[test]
    fn no_handle_and_nothing_of_the_user_is_in_a_status() {
        let value = written(FlowStatus::AwaitingFinish, 2_000);
        let fields: Vec<_> = value.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(fields, ["connector_id", "created_at", "expires_at", "flow_id", "status"]);
    }
}
