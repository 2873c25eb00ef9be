//! What goes over the wire: input and output types, apart from the domain's.

mod audit;
mod bulk;
mod connection;
mod connector;
mod flow;
mod hold;
mod import;
mod key;
mod page;
mod provider;
mod revocation;
mod space;
mod token;

pub(crate) use audit::{AuditEventOut, AuditEventPage, AuditParams};
pub(crate) use bulk::{BulkAsk, BulkIn, BulkOut};
pub(crate) use connection::{ConnectionOut, ConnectionPage, ConnectionParams, DisconnectIn, DisconnectedOut};
pub(crate) use connector::{ConnectorIn, ConnectorOut, ConnectorPage, ConnectorPatchIn, DeletedConnectorOut};
pub(crate) use flow::{FinishIn, FlowOut, StartFlowIn, StartedFlowOut};
pub(crate) use hold::{HoldIn, HoldOut, ReleasedOut};
pub(crate) use import::{ImportLineIn, ImportLineOut};
pub(crate) use key::{CreatedKeyOut, KeyIn, KeyOut, KeyPage};
pub(crate) use page::{Page, PageParams};
pub(crate) use provider::{ProviderOut, ProviderPage};
pub(crate) use revocation::{RevocationOut, RevocationPage, RevocationParams};
pub(crate) use space::{SpaceIn, SpaceOut};
pub(crate) use token::{TokenIn, TokenOut};
