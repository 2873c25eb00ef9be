//! Bulk revocation over the wire: a plan first, then the call that names it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use valetkey_broker::{BrokerError, BulkRevoked, ConnectionFilter, Fault, RevokePlan};
use valetkey_core::{
    ConnectionId, ConnectorId, Label, Owner, PlanId, ProviderName, ReauthReason, Status, Timestamp, UserId,
};

use crate::extract::optional_object;

/// Which connections; what is absent does not narrow.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConnectionFilter)]
pub(crate) struct FilterIn {
    /// Of this connector.
    #[schema(value_type = Option<String>)]
    connector_id: Option<ConnectorId>,
    /// Of this user.
    #[schema(value_type = Option<String>, example = "u-17")]
    user_id: Option<UserId>,
    /// `shared`: of no single user.
    owner: Option<String>,
    /// In this status.
    #[schema(value_type = Option<String>)]
    status: Option<Status>,
    /// At this provider.
    #[schema(value_type = Option<String>)]
    provider: Option<ProviderName>,
    /// With this label.
    #[schema(value_type = Option<String>)]
    label: Option<Label>,
    /// Needing their owner for this reason.
    #[schema(value_type = Option<String>)]
    reason: Option<ReauthReason>,
}

/// Either `dry_run` with a `filter`, or `plan_id` with `expected_count`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BulkRevoke)]
pub(crate) struct BulkIn {
    /// Make a plan and revoke nothing.
    #[serde(default)]
    dry_run: bool,
    /// Which connections the plan is about; all of the space if it is empty.
    #[serde(default, deserialize_with = "optional_object")]
    filter: Option<FilterIn>,
    /// The plan to carry out.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "pln_06bc4k1m2g1hf0c9q2m8r5vk3o")]
    plan_id: Option<PlanId>,
    /// The plan's count, as a person saw it.
    #[serde(default)]
    expected_count: Option<i64>,
}

/// What a bulk call asks for.
#[derive(Debug)]
pub(crate) enum BulkAsk {
    /// A plan.
    Plan(ConnectionFilter),
    /// The carrying out of one.
    Run(PlanId, i64),
}

impl TryFrom<BulkIn> for BulkAsk {
    type Error = BrokerError;

    fn try_from(bulk: BulkIn) -> Result<Self, BrokerError> {
        let refuse = |field, message| Err(BrokerError::Invalid(vec![Fault::new(field, message)]));
        match (bulk.dry_run, bulk.filter, bulk.plan_id, bulk.expected_count) {
            (true, Some(filter), None, None) => Ok(Self::Plan(filter.try_into()?)),
            (true, None, _, _) => refuse("filter", "is required with dry_run; an empty one means every connection"),
            (true, Some(_), _, _) => refuse("plan_id", "goes without dry_run and without filter"),
            (false, None, Some(plan), Some(count)) => Ok(Self::Run(plan, count)),
            (false, Some(_), _, _) => refuse("filter", "goes with dry_run: true; the plan it makes is then named"),
            (false, None, Some(_), None) => refuse("expected_count", "is required with plan_id"),
            (false, None, None, _) => refuse("plan_id", "is required unless dry_run is true"),
        }
    }
}

impl TryFrom<FilterIn> for ConnectionFilter {
    type Error = BrokerError;

    fn try_from(filter: FilterIn) -> Result<Self, BrokerError> {
        let owner = match (filter.user_id, filter.owner.as_deref()) {
            (user, None) => user.map(Owner::User),
            (None, Some("shared")) => Some(Owner::Shared),
            (Some(_), Some(_)) => {
                return Err(BrokerError::Invalid(vec![Fault::new("filter.owner", "goes without user_id")]));
            }
            (None, Some(_)) => {
                return Err(BrokerError::Invalid(vec![Fault::new("filter.owner", "expected one of: shared")]));
            }
        };
        Ok(Self {
            connector_id: filter.connector_id,
            owner,
            status: filter.status,
            provider: filter.provider.map(|name| name.to_string()),
            label: filter.label,
            reason: filter.reason,
        })
    }
}

/// How many of the planned revocations their providers can confirm.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlannedOutcomes)]
pub(crate) struct OutcomesOut {
    /// The provider can be told.
    confirmable: i64,
    /// The provider has no way to be told.
    unsupported: i64,
}

/// A plan, or what carrying it out did. Absent members belong to the other one.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = BulkRevocation)]
pub(crate) struct BulkOut {
    /// The plan to name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>, example = "pln_06bc4k1m2g1hf0c9q2m8r5vk3o")]
    plan_id: Option<PlanId>,
    /// How many connections it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    count: Option<i64>,
    /// How many of each provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    by_provider: Option<BTreeMap<String, i64>>,
    /// How many can be confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    by_outcome: Option<OutcomesOut>,
    /// The first twenty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Vec<String>>)]
    sample: Option<Vec<ConnectionId>>,
    /// When the plan can no longer be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// How many connections were revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    revoked: Option<u64>,
}

impl From<RevokePlan> for BulkOut {
    fn from(plan: RevokePlan) -> Self {
        Self {
            plan_id: Some(plan.plan_id),
            count: Some(plan.count),
            by_provider: Some(plan.by_provider.into_iter().collect()),
            by_outcome: Some(OutcomesOut { confirmable: plan.confirmable, unsupported: plan.unsupported }),
            sample: Some(plan.sample),
            expires_at: Some(plan.expires_at),
            revoked: None,
        }
    }
}

impl From<BulkRevoked> for BulkOut {
    fn from(done: BulkRevoked) -> Self {
        Self { revoked: Some(done.revoked), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(body: &str) -> Result<BulkAsk, BrokerError> {
        serde_json::from_str::<BulkIn>(body).expect("well-formed").try_into()
    }

    #[test]
    fn nothing_is_revoked_without_a_plan_that_was_counted() {
        assert!(matches!(ask(r#"{"dry_run":true,"filter":{}}"#), Ok(BulkAsk::Plan(_))));
        let plan = "pln_00000000000000000000000000";
        assert!(matches!(ask(&format!(r#"{{"plan_id":"{plan}","expected_count":3}}"#)), Ok(BulkAsk::Run(_, 3))));
        for bad in [
            "{}".to_owned(),
            r#"{"dry_run":true}"#.to_owned(),
            r#"{"filter":{"user_id":"u"}}"#.to_owned(),
            format!(r#"{{"plan_id":"{plan}"}}"#),
            format!(r#"{{"plan_id":"{plan}","expected_count":3,"filter":{{}}}}"#),
            format!(r#"{{"dry_run":true,"filter":{{}},"plan_id":"{plan}","expected_count":3}}"#),
            r#"{"dry_run":true,"filter":{"owner":"everybody"}}"#.to_owned(),
        ] {
            assert!(matches!(ask(&bad), Err(BrokerError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn a_plan_and_a_result_show_their_own_members_alone() {
        let value = serde_json::to_value(BulkOut::from(BulkRevoked { revoked: 3 })).expect("json");
        assert_eq!(value, serde_json::json!({ "revoked": 3 }));
    }
}
