//! The numbers of this process, in a registry of its own.

use std::{fmt, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use valetkey_core::Trigger;

use crate::attempt_end::CLASSES;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefreshLabel {
    provider: String,
    outcome: &'static str,
    trigger: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabel {
    provider: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProviderLabel {
    provider: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabel {
    job: &'static str,
}

/// The numbers of this process.
pub struct Metrics {
    registry: Registry,
    token_calls: Family<OutcomeLabel, Counter>,
    /// The one that counts most, without a look-up.
    issued: Counter,
    refreshes: Family<RefreshLabel, Counter>,
    refresh_seconds: Histogram,
    attempts: Family<ClassLabel, Counter>,
    needs_reauth: Family<ReasonLabel, Counter>,
    flows: Family<OutcomeLabel, Counter>,
    callbacks_refused: Family<ReasonLabel, Counter>,
    flow_calls_refused: Family<ReasonLabel, Counter>,
    problems: Family<CodeLabel, Counter>,
    limited: Family<LimitLabel, Counter>,
    limiter_keys: Family<LimitLabel, Gauge>,
    revocations_ended: Family<StateLabel, Counter>,
    connections: Family<ConnectionLabel, Gauge>,
    revocations: Family<StateLabel, Gauge>,
    due: Gauge,
    overdue: Gauge,
    lag_seconds: Gauge,
    hold: Gauge,
    clock_skews: Family<ProviderLabel, Gauge<f64, AtomicU64>>,
    job_runs: Family<JobLabel, Counter>,
    job_failures: Family<JobLabel, Counter>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(..)")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All numbers at zero.
    pub fn new() -> Self {
        let seconds = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0];
        let token_calls = Family::<OutcomeLabel, Counter>::default();
        let issued = token_calls.get_or_create_owned(&OutcomeLabel { outcome: "issued" });
        let mut metrics = Self {
            registry: Registry::with_prefix("valetkey"),
            token_calls,
            issued,
            refreshes: Family::default(),
            refresh_seconds: Histogram::new(seconds),
            attempts: Family::default(),
            needs_reauth: Family::default(),
            flows: Family::default(),
            callbacks_refused: Family::default(),
            flow_calls_refused: Family::default(),
            problems: Family::default(),
            limited: Family::default(),
            limiter_keys: Family::default(),
            revocations_ended: Family::default(),
            connections: Family::default(),
            revocations: Family::default(),
            due: Gauge::default(),
            overdue: Gauge::default(),
            lag_seconds: Gauge::default(),
            hold: Gauge::default(),
            clock_skews: Family::default(),
            job_runs: Family::default(),
            job_failures: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("token_calls", "Token calls by outcome", self.token_calls.clone());
        registry.register("refresh_attempts", "Refreshes by provider, outcome and trigger", self.refreshes.clone());
        // Each is there from the beginning, so that an alert can be written on what has not happened yet.
        for class in CLASSES {
            drop(self.attempts.get_or_create(&ClassLabel { class }));
        }
        registry.register("attempts_ended", "Ended attempts to refresh by class of outcome", self.attempts.clone());
        registry.register("refresh_duration_seconds", "Duration of refresh requests", self.refresh_seconds.clone());
        registry.register(
            "needs_reauth",
            "Connections that came to need their owner, by reason",
            self.needs_reauth.clone(),
        );
        registry.register("flows", "Ended flows by outcome", self.flows.clone());
        registry.register("callbacks_refused", "Browsers turned away, by reason", self.callbacks_refused.clone());
        registry.register(
            "flow_calls_refused",
            "Calls about flows refused, by reason",
            self.flow_calls_refused.clone(),
        );
        registry.register(
            "problems",
            "Failures answered by the API, by the code of their problem",
            self.problems.clone(),
        );
        registry.register("limited", "Calls refused by a limit", self.limited.clone());
        registry.register("limiter_keys", "Keys or addresses that a limit has in mind", self.limiter_keys.clone());
        registry.register("revocations_ended", "Ended revocations by state", self.revocations_ended.clone());
        registry.register("connections", "Connections by provider and status", self.connections.clone());
        registry.register("revocations", "Revocations by state", self.revocations.clone());
        registry.register("refresh_due", "Connections whose refresh is due", self.due.clone());
        registry.register(
            "refresh_overdue",
            "Connections whose refresh is due for more than a minute",
            self.overdue.clone(),
        );
        registry.register("refresh_lag_seconds", "Age of the oldest due refresh", self.lag_seconds.clone());
        registry.register(
            "provider_clock_skew_seconds",
            "By how much a provider's clock is ahead of ours",
            self.clock_skews.clone(),
        );
        registry.register("hold", "1 while a hold is in force", self.hold.clone());
        registry.register("job_runs", "Runs of scheduled work", self.job_runs.clone());
        registry.register("job_failures", "Failed runs of scheduled work", self.job_failures.clone());
    }

    /// The Prometheus text (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn token_issued(&self) {
        self.issued.inc();
    }

    pub(crate) fn token_refused(&self, outcome: &'static str) {
        self.token_calls.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(crate) fn refreshed(&self, provider: &str, outcome: &'static str, trigger: Trigger, took: Duration) {
        let label = RefreshLabel { provider: provider.to_owned(), outcome, trigger: trigger.as_str() };
        self.refreshes.get_or_create(&label).inc();
        self.refresh_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn attempt_ended(&self, class: &'static str) {
        self.attempts.get_or_create(&ClassLabel { class }).inc();
    }

    pub(crate) fn reauth_needed(&self, reason: &'static str) {
        self.needs_reauth.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn flow_ended(&self, outcome: &'static str) {
        self.flows.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a browser that was turned away.
    pub fn browser_refused(&self, reason: &'static str) {
        self.callbacks_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn flow_call_refused(&self, reason: &'static str) {
        self.flow_calls_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Makes these codes of problems known at zero, so that an alert can be written on what has not happened yet.
    pub fn know_problems(&self, codes: impl Iterator<Item = &'static str>) {
        for code in codes {
            drop(self.problems.get_or_create(&CodeLabel { code }));
        }
    }

    /// Counts a failure that the API answered, by the code of its problem.
    pub fn problem_answered(&self, code: &'static str) {
        self.problems.get_or_create(&CodeLabel { code }).inc();
    }

    /// Counts a call that a limit refused.
    pub fn limited(&self, limit: &'static str) {
        self.limited.get_or_create(&LimitLabel { limit }).inc();
    }

    /// Says how many keys a limit of this process has in mind.
    pub fn limiter_keys(&self, limit: &'static str, count: usize) {
        self.limiter_keys.get_or_create(&LimitLabel { limit }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn revocation_ended(&self, state: &'static str) {
        self.revocations_ended.get_or_create(&StateLabel { state }).inc();
    }

    pub(crate) fn connections_are(&self, counts: impl Iterator<Item = (String, &'static str, i64)>) {
        self.connections.clear();
        for (provider, status, count) in counts {
            self.connections.get_or_create(&ConnectionLabel { provider, status }).set(count);
        }
    }

    pub(crate) fn revocations_are(&self, counts: impl Iterator<Item = (&'static str, i64)>) {
        self.revocations.clear();
        for (state, count) in counts {
            self.revocations.get_or_create(&StateLabel { state }).set(count);
        }
    }

    pub(crate) fn due_is(&self, due: i64, overdue: i64, lag_seconds: i64) {
        self.due.set(due);
        self.overdue.set(overdue);
        self.lag_seconds.set(lag_seconds);
    }

    pub(crate) fn clock_skews_are(&self, skews: impl Iterator<Item = (String, f64)>) {
        self.clock_skews.clear();
        for (provider, seconds) in skews {
            self.clock_skews.get_or_create(&ProviderLabel { provider }).set(seconds);
        }
    }

    pub(crate) fn hold_is(&self, in_force: bool) {
        self.hold.set(i64::from(in_force));
    }

    /// Counts one run of scheduled work.
    pub fn job_ran(&self, job: &'static str, worked: bool) {
        self.job_runs.get_or_create(&JobLabel { job }).inc();
        if !worked {
            self.job_failures.get_or_create(&JobLabel { job }).inc();
        }
    }
}
