//! Who may do what: one table.

use crate::connection::text_enum;

text_enum!(
    /// What a key is for.
    Role {
        /// Fetches tokens of the connectors that it names.
        Connector => "connector",
        /// Starts, watches, finishes and cancels flows; lists and disconnects its users' connections.
        App => "app",
        /// With `app`: connects and disconnects shared connections.
        Shared => "shared",
        /// Lists and revokes connections, reads audit and revocations; never fetches token values.
        Operator => "operator",
        /// Manages connectors and keys, imports, and may what an operator may.
        Admin => "admin",
    }
);

text_enum!(
    /// What a caller may be allowed to do; one per operation of the API.
    Operation {
        /// Make a connector.
        ConnectorCreate => "connector_create",
        /// List connectors.
        ConnectorList => "connector_list",
        /// Show a connector.
        ConnectorShow => "connector_show",
        /// Edit a connector.
        ConnectorUpdate => "connector_update",
        /// Delete a connector.
        ConnectorDelete => "connector_delete",
        /// Read the provider catalogue.
        ProviderRead => "provider_read",
        /// Start a flow.
        FlowStart => "flow_start",
        /// Watch a flow.
        FlowShow => "flow_show",
        /// Finish a flow.
        FlowFinish => "flow_finish",
        /// Cancel a flow.
        FlowCancel => "flow_cancel",
        /// Fetch a token.
        TokenFetch => "token_fetch",
        /// Take a grant back for its user.
        Disconnect => "disconnect",
        /// List connections.
        ConnectionList => "connection_list",
        /// Show a connection.
        ConnectionShow => "connection_show",
        /// Revoke one connection.
        ConnectionRevoke => "connection_revoke",
        /// Revoke connections by filter.
        BulkRevoke => "bulk_revoke",
        /// Import connections.
        Import => "import",
        /// List revocations.
        RevocationList => "revocation_list",
        /// Make a key.
        KeyCreate => "key_create",
        /// List keys.
        KeyList => "key_list",
        /// Revoke a key.
        KeyRevoke => "key_revoke",
        /// Read the audit.
        AuditRead => "audit_read",
    }
);

/// The roles of which one is enough for an operation.
///
/// `App` sees connections of one named user at a time; the broker holds that. What a shared grant needs in addition
/// (`Shared`) is checked where the owner is known.
pub fn allowed_roles(operation: Operation) -> &'static [Role] {
    use Role::{Admin, App, Connector, Operator};
    match operation {
        Operation::ConnectorCreate
        | Operation::ConnectorUpdate
        | Operation::ConnectorDelete
        | Operation::Import
        | Operation::KeyCreate
        | Operation::KeyList
        | Operation::KeyRevoke => &[Admin],
        Operation::ProviderRead => &[Connector, App, Operator, Admin],
        Operation::FlowStart
        | Operation::FlowShow
        | Operation::FlowFinish
        | Operation::FlowCancel
        | Operation::Disconnect => &[App],
        Operation::TokenFetch => &[Connector],
        Operation::ConnectorList | Operation::ConnectorShow | Operation::ConnectionList | Operation::ConnectionShow => {
            &[App, Operator, Admin]
        }
        Operation::ConnectionRevoke | Operation::BulkRevoke | Operation::RevocationList | Operation::AuditRead => {
            &[Operator, Admin]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_never_fetch_tokens() {
        assert_eq!(allowed_roles(Operation::TokenFetch), &[Role::Connector]);
    }

    #[test]
    fn texts_name_each_value_once() {
        for operation in Operation::ALL {
            assert_eq!(operation.as_str().parse::<Operation>(), Ok(*operation));
        }
    }
}
