//! Start a flow: the application's backend asks for a link that its user opens.

use std::time::Duration;

use serde_json::json;
use valetkey_core::{
    Action, AuthMode, Caller, Connector, ConnectorId, Flow, FlowId, FlowMode, FlowStatus, Grant, Label, Operation,
    Owner, Role, Secret, Subject, Timestamp, UserId,
};
use valetkey_store::{Begun, FlowCaps};

use crate::{
    Broker, BrokerError, Fault, Resource,
    broker::require,
    refusals::About,
    targets::{check_origin, check_return_url, is_registered},
};

/// How often something begins anew because its connector was edited at the same moment.
pub(crate) const EDITS: usize = 3;

/// What the application asks for.
#[derive(Debug, Clone)]
pub struct StartFlow {
    /// The signed-in user, on a `per_user` connector.
    pub user_id: Option<UserId>,
    /// The signed-in administrator, on a `shared` connector.
    pub actor: Option<UserId>,
    /// How the confirm page names the user.
    pub user_display: Option<String>,
    /// Which of the owner's accounts.
    pub label: Label,
    /// How the browser goes and comes.
    pub mode: FlowMode,
    /// A registered return URL.
    pub return_url: String,
    /// A registered origin, for a popup.
    pub origin: Option<String>,
    /// Scopes to ask for; the connector's own if absent.
    pub scopes: Option<Vec<String>>,
    /// Whom the provider's sign-in page should suggest.
    pub login_hint: Option<String>,
    /// Base64url SHA-256 of a verifier in the user's session.
    pub binding_challenge: Option<String>,
    /// Another account may take the place of the one connected before.
    pub allow_account_change: bool,
}

/// A started flow.
#[derive(Debug, Clone)]
pub struct StartedFlow {
    /// Its id.
    pub flow_id: FlowId,
    /// The link that the user's browser opens; a secret until then.
    pub start_url: Secret,
    /// When its life ends.
    pub expires_at: Timestamp,
}

impl Broker {
    /// Starts a flow for the user whom the application vouches for.
    pub async fn start_flow(
        &self,
        caller: &Caller,
        connector: ConnectorId,
        start: &StartFlow,
    ) -> Result<StartedFlow, BrokerError> {
        require(caller, Operation::FlowStart)?;
        // An edit at the same moment is no reason to refuse: what is asked for is looked at again.
        for _ in 0..EDITS {
            let connector = self.visible_connector(caller, connector).await?;
            match self.start_flow_for(caller, &connector, start).await {
                Err(BrokerError::VersionConflict { .. }) => {}
                other => return other,
            }
        }
        let now = self.visible_connector(caller, connector).await?;
        Err(BrokerError::VersionConflict { current: now.version })
    }

    /// The connector, if it exists for the caller.
    pub(crate) async fn visible_connector(&self, caller: &Caller, id: ConnectorId) -> Result<Connector, BrokerError> {
        let found = self.store().find_connector(&caller.space, id).await?;
        found.filter(|connector| caller.sees(connector.id)).ok_or(BrokerError::NotFound(Resource::Connector))
    }

    /// Starts a flow at the connector as it was read; a version conflict if it was edited meanwhile.
    pub(crate) async fn start_flow_for(
        &self,
        caller: &Caller,
        connector: &Connector,
        start: &StartFlow,
    ) -> Result<StartedFlow, BrokerError> {
        let owner = owner_of(caller, connector, start.user_id.as_ref(), start.actor.as_ref())?;
        let scopes = match check(connector, start) {
            Ok(scopes) => scopes,
            Err(error) => {
                self.refuse_target(caller, connector, &error).await?;
                return Err(error);
            }
        };
        // A connector whose provider cannot be used is refused here, where the operator sees it, not in the popup.
        self.provider().facts(connector).await?;
        let person = owner.user_id().or(start.actor.as_ref());
        let quotas = self.start_quotas(connector, person);
        self.take_start_quotas(&quotas).await?;
        let now = self.now();
        let ticket = self.entropy().token();
        let key = caller.key_id().ok_or(BrokerError::Forbidden(Operation::FlowStart))?;
        let flow = Flow {
            id: FlowId::new(now, self.entropy()),
            space: connector.space.clone(),
            connector_id: connector.id,
            started_by: key,
            owner,
            actor: start.actor.clone(),
            user_display: start.user_display.clone(),
            label: start.label.clone(),
            mode: start.mode,
            return_url: start.return_url.clone(),
            origin: start.origin.clone(),
            scopes,
            login_hint: start.login_hint.clone(),
            binding_challenge: start.binding_challenge.clone(),
            allow_account_change: start.allow_account_change,
            status: FlowStatus::Pending,
            failure: None,
            connection_id: None,
            created_at: now,
            expires_at: now.plus(self.inner.parts.settings.limits.flow_life),
            handle_expires_at: None,
        };
        let mut event = self.event(&flow.space, caller.actor(), Action::FlowStarted, subject_of(&flow));
        event.detail = json!({ "mode": flow.mode, "scopes": flow.scopes, "actor": flow.actor });
        let limits = &self.inner.parts.settings.limits;
        let caps = FlowCaps {
            per_caller: limits.open_flows_per_caller,
            per_user: limits.open_flows_per_user,
            total: limits.open_flows_total,
        };
        let begun = self.store().insert_flow(&flow, connector.version, &ticket.digest(), caps, &event).await?;
        if begun != Begun::Stored {
            for (quota, per, _) in &quotas {
                self.store().give_back_quota(quota, *per, now);
            }
        }
        match begun {
            Begun::Stored => {}
            Begun::Capped => {
                self.inner.metrics.limited("open-flows");
                return Err(BrokerError::Limited { limit: "open-flows", retry_after: Duration::from_secs(60) });
            }
            Begun::ConnectorChanged => return Err(BrokerError::VersionConflict { current: connector.version }),
        }
        Ok(StartedFlow {
            flow_id: flow.id,
            start_url: Secret::from(self.public(&format!("connect/{}", ticket.expose()))),
            expires_at: flow.expires_at,
        })
    }

    /// Notes a start that named a target which is not registered: somebody may be steering the application. What was named
    /// is not kept.
    async fn refuse_target(
        &self,
        caller: &Caller,
        connector: &Connector,
        error: &BrokerError,
    ) -> Result<(), BrokerError> {
        let BrokerError::Invalid(faults) = error else { return Ok(()) };
        if !faults.iter().any(|fault| ["return_url", "origin"].contains(&fault.field.as_str())) {
            return Ok(());
        }
        self.inner.metrics.flow_call_refused("target");
        let Some(key) = caller.key_id() else { return Ok(()) };
        let subject = Subject { connector_id: Some(connector.id), ..Subject::default() };
        let event = self.event(&connector.space, caller.actor(), Action::FlowStartRefused, subject);
        self.append_refusal(About::starts(key, self.now()), event, "target").await
    }

    async fn take_start_quotas(&self, quotas: &[(String, Duration, u32)]) -> Result<(), BrokerError> {
        for (quota, per, burst) in quotas {
            if let Err(retry_after) = self.store().take_quota(quota, *per, *burst, self.now()).await? {
                self.inner.metrics.limited("starts");
                return Err(BrokerError::Limited { limit: "starts", retry_after });
            }
        }
        Ok(())
    }

    /// The quotas of a person's starts: the name of each, in what time it gives one, and how many at once.
    fn start_quotas(&self, connector: &Connector, person: Option<&UserId>) -> [(String, Duration, u32); 2] {
        let limits = &self.inner.parts.settings.limits;
        let person = person.map_or("", UserId::as_str);
        let windows = [
            ("m", Duration::from_secs(60), limits.starts_per_minute_and_user),
            ("h", Duration::from_secs(3_600), limits.starts_per_hour_and_user),
        ];
        windows.map(|(name, window, burst)| {
            let burst = burst.max(1);
            (format!("start:{name}:{}:{person}", connector.space), window / burst, burst)
        })
    }
}

/// What a flow's events are about.
pub(crate) fn subject_of(flow: &Flow) -> Subject {
    Subject {
        connector_id: Some(flow.connector_id),
        connection_id: flow.connection_id,
        flow_id: Some(flow.id),
        key_id: None,
        owner: Some(flow.owner.clone()),
    }
}

/// The owner that a request speaks of, by the connector's mode.
pub(crate) fn owner_of(
    caller: &Caller,
    connector: &Connector,
    user_id: Option<&UserId>,
    actor: Option<&UserId>,
) -> Result<Owner, BrokerError> {
    match (connector.auth_mode, user_id, actor) {
        (AuthMode::PerUser, Some(user), None) => Ok(Owner::User(user.clone())),
        (AuthMode::PerUser, None, _) => {
            Err(BrokerError::Invalid(vec![Fault::new("user_id", "is required: this connector holds a grant per user")]))
        }
        (AuthMode::PerUser, Some(_), Some(_)) => {
            Err(BrokerError::Invalid(vec![Fault::new("actor", "is for shared connectors; name the user alone")]))
        }
        (AuthMode::Shared, Some(_), _) => {
            Err(BrokerError::Invalid(vec![Fault::new("user_id", "is refused: this connector's grant is shared")]))
        }
        (AuthMode::Shared, None, _) if !caller.has(Role::Shared) => Err(BrokerError::SharedRoleRequired),
        (AuthMode::Shared, None, None) => {
            Err(BrokerError::Invalid(vec![Fault::new("actor", "is required: the administrator who acts")]))
        }
        (AuthMode::Shared, None, Some(_)) => Ok(Owner::Shared),
    }
}

/// Checks what was asked against the connector and answers with the scopes to ask for.
fn check(connector: &Connector, start: &StartFlow) -> Result<Vec<String>, BrokerError> {
    let mut faults = Vec::new();
    if connector.grant == Grant::ClientCredentials {
        faults.push(Fault::new("connector", "uses client credentials: there is nobody to ask, fetch the token"));
    }
    match check_return_url(&start.return_url) {
        Err(why) => faults.push(Fault::new("return_url", why)),
        Ok(_) if !is_registered(&connector.return_urls, &start.return_url) => {
            faults.push(Fault::new("return_url", "is not one of the connector's return_urls, character for character"));
        }
        Ok(url) => check_popup(connector, start, &url, &mut faults),
    }
    if let Some(challenge) = &start.binding_challenge
        && (challenge.len() != 43 || data_encoding::BASE64URL_NOPAD.decode(challenge.as_bytes()).is_err())
    {
        faults.push(Fault::new("binding_challenge", "is the base64url SHA-256 of your verifier, 43 characters"));
    }
    for (field, text, most) in [("user_display", &start.user_display, 200), ("login_hint", &start.login_hint, 320)] {
        if text.as_ref().is_some_and(|text| text.len() > most || text.chars().any(char::is_control)) {
            faults.push(Fault::new(field, format!("has at most {most} bytes and no control characters")));
        }
    }
    let mut scopes = connector.scopes.clone();
    if let Some(asked) = &start.scopes {
        for scope in asked {
            let known = connector.scopes.contains(scope) || connector.optional_scopes.contains(scope);
            if !known {
                faults.push(Fault::new("scopes", "holds a scope that is in neither scopes nor optional_scopes"));
                break;
            }
        }
        scopes.clone_from(asked);
        scopes.dedup();
    }
    if faults.is_empty() { Ok(scopes) } else { Err(BrokerError::Invalid(faults)) }
}

fn check_popup(connector: &Connector, start: &StartFlow, return_url: &url::Url, faults: &mut Vec<Fault>) {
    match (start.mode, &start.origin) {
        (FlowMode::Redirect, None) => {}
        (FlowMode::Redirect, Some(_)) => faults.push(Fault::new("origin", "is for mode popup")),
        (FlowMode::Popup, None) => faults.push(Fault::new("origin", "is required in mode popup: who opens the window")),
        (FlowMode::Popup, Some(origin)) => {
            if check_origin(origin).is_err() || !is_registered(&connector.origins, origin) {
                faults.push(Fault::new("origin", "is not one of the connector's origins, character for character"));
            } else if return_url.origin().ascii_serialization() != *origin {
                faults.push(Fault::new("return_url", "must be on the popup's origin: it is the relay page"));
            }
        }
    }
}

/// Compares a binding verifier with its challenge (the S256 rule of RFC 7636, one level up).
pub(crate) fn fits_challenge(challenge: &str, verifier: &Secret) -> bool {
    let computed = data_encoding::BASE64URL_NOPAD.encode(&verifier.digest());
    valetkey_core::constant_time_eq(computed.as_bytes(), challenge.as_bytes())
}
