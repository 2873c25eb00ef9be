//! What people read in the terminal.

use std::io::{self, Write};

use crate::{house::House, registration::ConnectorKey};

/// One or more lines on standard output, at once.
pub(crate) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// A line on standard error. Where even that does not work there is nobody to tell.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// What is running, the one address to open, and what to do there.
pub(crate) fn welcome(house: &House) -> String {
    let addresses = &house.addresses;
    let connector = house.keys.connectors.get(&ConnectorKey::Finish).map_or("", String::as_str);
    format!(
        "
  Valetkey demo

  Open          {app}

  1  Connect    a window opens; choose an account at the pretend provider and allow it
  2  Look       the token's fingerprint and its remaining life; Call the API shows that it works
  3  Refresh    a new token, without asking you again
  4  Revoke     gone here at once, and the provider is told

  Broker        {broker}   (API reference: {broker}/docs)
  Provider      {sandbox}   (a sandbox: no real account is involved)

  Once connected, ask for a token yourself:

    curl -s {broker}/v1/connectors/{connector}/token \\
      -H 'Authorization: Bearer {key}' \\
      -H 'Content-Type: application/json' -d '{{\"user_id\":\"user-a\"}}'

  Everything is on this machine and is deleted at the end. Ctrl-C stops it.
",
        app = addresses.app,
        broker = addresses.broker,
        sandbox = addresses.sandbox,
        key = house.keys.connector.expose(),
    )
}
