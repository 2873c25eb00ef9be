//! Where a refresh stands between two durable steps, for proofs that end the process exactly there.

use std::{fmt, sync::Arc};

use valetkey_core::ConnectionId;

/// A point of a refresh, or of the recovery of one, at which a process may die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Boundary {
    /// Nothing is written yet.
    BeforeRecord,
    /// The attempt is durable.
    AfterRecord,
    /// Class W: the second mark is about to be written.
    BeforeSecondMark,
    /// Class W: the second mark is durable.
    AfterSecondMark,
    /// The send gate was passed; the next step sends.
    BeforeSend,
    /// The whole answer was read and classified.
    AnswerRead,
    /// New tokens are about to be stored.
    BeforeSettle,
    /// New tokens are durable.
    AfterSettle,
    /// Whoever waited for the refresh was told.
    AfterWaitersTold,
    /// A failure is written to the connection and not yet to the attempt.
    BetweenFailureWrites,
    /// A death is written to the connection and not yet to the attempt.
    BetweenDeathWrites,
    /// An abandoned attempt was found, and nothing is written about it yet.
    BeforeRecoveryWrite,
    /// An abandoned attempt is decided.
    AfterRecoveryWrite,
}

impl Boundary {
    /// Every boundary, in the order in which a refresh meets them.
    pub const ALL: [Self; 13] = [
        Self::BeforeRecord,
        Self::AfterRecord,
        Self::BeforeSecondMark,
        Self::AfterSecondMark,
        Self::BeforeSend,
        Self::AnswerRead,
        Self::BeforeSettle,
        Self::AfterSettle,
        Self::AfterWaitersTold,
        Self::BetweenFailureWrites,
        Self::BetweenDeathWrites,
        Self::BeforeRecoveryWrite,
        Self::AfterRecoveryWrite,
    ];

    /// Its name on command lines and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BeforeRecord => "before_record",
            Self::AfterRecord => "after_record",
            Self::BeforeSecondMark => "before_second_mark",
            Self::AfterSecondMark => "after_second_mark",
            Self::BeforeSend => "before_send",
            Self::AnswerRead => "answer_read",
            Self::BeforeSettle => "before_settle",
            Self::AfterSettle => "after_settle",
            Self::AfterWaitersTold => "after_waiters_told",
            Self::BetweenFailureWrites => "between_failure_writes",
            Self::BetweenDeathWrites => "between_death_writes",
            Self::BeforeRecoveryWrite => "before_recovery_write",
            Self::AfterRecoveryWrite => "after_recovery_write",
        }
    }
}

type Observer = dyn Fn(Boundary, ConnectionId) + Send + Sync;

/// Who is told of each boundary; nobody, unless a proof says otherwise.
#[derive(Clone, Default)]
pub struct Boundaries(Option<Arc<Observer>>);

impl Boundaries {
    /// Calls this at each boundary, in the task of the refresh.
    pub fn observed_by(observer: impl Fn(Boundary, ConnectionId) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observer)))
    }

    pub(crate) fn reached(&self, boundary: Boundary, connection: ConnectionId) {
        if let Some(observer) = &self.0 {
            observer(boundary, connection);
        }
    }
}

impl fmt::Debug for Boundaries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Boundaries(observed)" } else { "Boundaries(nobody)" })
    }
}
