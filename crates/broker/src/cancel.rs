//! Cancel a flow: by the application, or by the person on our page.

use serde_json::json;
use valetkey_core::{Action, Actor, Caller, Flow, FlowId, Operation};

use crate::{Broker, BrokerError, broker::require, start::subject_of};

impl Broker {
    /// Calls a flow off. Idempotent: one that is over stays as it is. Races the callback through the same kind of
    /// conditional statement: one of them wins.
    pub async fn cancel_flow(&self, caller: &Caller, id: FlowId) -> Result<(), BrokerError> {
        require(caller, Operation::FlowCancel)?;
        let record = self.visible_flow(caller, id).await?;
        self.call_off(&record.flow, caller.actor(), "application").await?;
        Ok(())
    }

    pub(crate) async fn call_off(&self, flow: &Flow, actor: Actor, by: &'static str) -> Result<bool, BrokerError> {
        let mut event = self.event(&flow.space, actor, Action::FlowCancelled, subject_of(flow));
        event.detail = json!({ "by": by });
        let cancelled = self.store().cancel_flow(flow.id, self.now(), &event).await?;
        if cancelled {
            self.inner.metrics.flow_ended("cancelled");
        }
        Ok(cancelled)
    }
}
