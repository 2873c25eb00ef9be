//! The durable record of an attempt, and the one build that goes without it: the null control of the crash proof, which
//! has to report losses. What ships is never built so.

use valetkey_store::{HeldAttempt, NewAttempt};

use crate::{Broker, BrokerError};

#[cfg(not(feature = "without-attempt-record"))]
impl Broker {
    /// Takes the attempt of a generation, durably.
    pub(crate) async fn record_attempt(&self, new: &NewAttempt) -> Result<Option<HeldAttempt>, BrokerError> {
        Ok(self.store().record_attempt(new).await?)
    }

    /// The second mark, right before the first byte.
    pub(crate) async fn mark_attempt_sent(&self, new: &NewAttempt) -> Result<bool, BrokerError> {
        let (id, generation) = (new.connection_id, new.generation);
        Ok(self.store().mark_attempt_sent(id, generation, &new.holder, self.now()).await?)
    }
}

#[cfg(feature = "without-attempt-record")]
#[expect(clippy::unused_async, reason = "stands in for what writes")]
impl Broker {
    pub(crate) async fn record_attempt(&self, new: &NewAttempt) -> Result<Option<HeldAttempt>, BrokerError> {
        Ok(Some(HeldAttempt { id: new.id, send_no: 1, first_sent_at: Some(new.now) }))
    }

    pub(crate) async fn mark_attempt_sent(&self, _new: &NewAttempt) -> Result<bool, BrokerError> {
        Ok(true)
    }
}
