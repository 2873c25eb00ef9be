//! What can be said at the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, builder::PossibleValuesParser};
use valetkey_core::{ConnectionId, ConnectorId, KeyId, Label, ReauthReason, Role, SpaceId, Status, UserId};

const EXAMPLES: &str = "Examples:
  valetkey serve
  valetkey keys create --name workflows --role app

Exit status: 0 done, 1 failed, 2 wrong use, 3 not found, 4 not allowed,
5 needs a person (a confirmation is missing), 6 try later, 130 interrupted.";

/// A token broker for connectors.
#[derive(Debug, Parser)]
#[command(name = "valetkey", bin_name = "valetkey", version, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every verb")]
pub(crate) struct Common {
    /// The configuration; without it everything is as it is by default
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where database, key ring and socket are [default: $VALETKEY_DATA_DIR, else ./valetkey-data]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The space that the verb is about
    #[arg(long, global = true, value_name = "SPACE", default_value = "default")]
    pub(crate) space: SpaceId,
    /// Print the objects of the API as JSON; failures too, on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Never shorten what a table shows
    #[arg(long, global = true)]
    pub(crate) wide: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the service until SIGTERM or SIGINT
    #[command(after_help = "Examples:
  valetkey serve
  valetkey serve --config /etc/valetkey/valetkey.toml --data-dir /var/lib/valetkey

The first signal stops cleanly, within 25 seconds; the second one at once.")]
    Serve,
    /// Explain every setting in force and where it came from, or name every fault
    CheckConfig,
    /// Bring the database schema up to date; `serve` does it too
    Migrate,
    /// Print the description of the HTTP API (OpenAPI 3.1)
    Openapi,
    /// Spaces: what is in one does not exist for another
    #[command(subcommand)]
    Spaces(Spaces),
    /// API keys
    #[command(subcommand)]
    Keys(Keys),
    /// The keys that everything stored is sealed under
    #[command(subcommand)]
    Keyring(Keyring),
    /// Connectors: OAuth clients registered at providers
    #[command(subcommand)]
    Connectors(Connectors),
    /// Connections: the grants that are stored
    #[command(subcommand)]
    Connections(Connections),
    /// Hold back every refresh that another copy of this database could suffer from, and every revocation
    #[command(after_help = "Examples:
  valetkey hold --reason 'restored the backup of Sunday'
  valetkey release-hold

To be said before the first `serve` on a copy or on a restored database that no witness stands beside. Unexpired tokens are
served, providers of the rotation classes N and S are asked for new ones, everything else waits for `release-hold`.")]
    Hold {
        /// What other operators should know
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Say what a hold keeps back and what its end means; with --yes, end it
    #[command(after_help = "Examples:
  valetkey release-hold
  valetkey release-hold --yes

End it only when no other copy of this database is in use. Grants whose refresh token another copy has spent are lost when
this one presents it: whoever can connect again before, should.")]
    ReleaseHold {
        /// Yes, end it
        #[arg(long)]
        yes: bool,
    },
    /// Delete what is over, in every space, by the criteria of [retention]; a server does it every ten minutes
    Purge {
        /// Only say how much would be deleted
        #[arg(long, required_unless_present = "yes")]
        dry_run: bool,
        /// Yes, now
        #[arg(long, conflicts_with = "dry_run")]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Spaces {
    /// Make a space
    Create {
        /// 1 to 63 of a-z, 0-9 and `-`
        name: SpaceId,
    },
    /// List the spaces
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key and print it, this one time, on standard output
    #[command(after_help = "Examples:
  valetkey keys create --name workflows --role app
  valetkey keys create --name sync --role connector --connector ctr_06bc4jn7tg1hf0c9q2m8r5vk3o --expires-in-days 90")]
    Create(CreateKey),
    /// List the keys of the space, without their texts
    List,
    /// Revoke a key, for good
    Revoke {
        /// `key_…`
        id: KeyId,
        /// Yes, this one
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateKey {
    /// What people call it
    #[arg(long)]
    pub(crate) name: String,
    /// What it may do; repeat it for several
    #[arg(long = "role", value_name = "ROLE", required = true, value_parser = PossibleValuesParser::new(Role::ALL.iter().map(|role| role.as_str())))]
    pub(crate) roles: Vec<String>,
    /// A connector that it may see, and no others; repeat it for several
    #[arg(long = "connector", value_name = "ID")]
    pub(crate) connectors: Vec<ConnectorId>,
    /// After how many days it ends
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) expires_in_days: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keyring {
    /// Show the data keys: what wraps them, how old they are, how many fields each has sealed
    Status {
        /// Also open every sealed field, and fail if one does not open
        #[arg(long)]
        check: bool,
    },
    /// Make a new data key and seal everything with it anew, while serving
    #[command(
        after_help = "Said again, it goes on with a rotation that was interrupted; a running server does so by itself.
Progress is told on standard error. The old data key is kept, as `retired`, once nothing is left that it sealed."
    )]
    Rotate {
        /// Without pauses, for when nobody is served
        #[arg(long)]
        full_speed: bool,
    },
    /// Wrap the data keys by the key-encryption key that the configuration names now
    #[command(after_help = "Examples:
  valetkey keyring rewrap --new-key            a new key in the key ring, and the data keys under it
  valetkey keyring rewrap                      after keyring.transit_key, key_file, credential or key was changed, with
                                               the one before in keyring.previous")]
    Rewrap {
        /// First make a new key in the key ring
        #[arg(long)]
        new_key: bool,
        /// Then take keys out of the key ring that wrap nothing any more
        #[arg(long)]
        drop_old: bool,
        /// Also those that it wraps already, as after a rotation of the key at a transit service
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Connectors {
    /// Add a connector, from flags or from a file
    #[command(after_help = "Examples:
  valetkey connectors add --name GitHub --provider github --client-id Iv1.8a61 --client-secret-file secret.txt \\
      --scope repo --return-url https://app.example/connected --origin https://app.example
  valetkey connectors add --file github.toml

The file holds the fields of `POST /v1/connectors`, as TOML or JSON; flags win over it. `-` reads standard input.
A client secret is never an argument: other users of the machine could read it.")]
    Add(Box<AddConnector>),
    /// List the connectors of the space
    List,
}

#[derive(Debug, Default, Args)]
pub(crate) struct AddConnector {
    /// A file with the connector, TOML or JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// What people call it
    #[arg(long, required_unless_present = "file")]
    pub(crate) name: Option<String>,
    /// The provider's profile, as `github`; `oidc` and `oauth2` are generic
    #[arg(long, required_unless_present = "file")]
    pub(crate) provider: Option<String>,
    /// Whose grants it holds [default: per_user]
    #[arg(long, value_name = "MODE", value_parser = ["per_user", "shared"])]
    pub(crate) auth_mode: Option<String>,
    /// The grant type [default: authorization_code]
    #[arg(long, value_name = "GRANT", value_parser = ["authorization_code", "client_credentials"])]
    pub(crate) grant: Option<String>,
    /// The client id at the provider
    #[arg(long, required_unless_present = "file")]
    pub(crate) client_id: Option<String>,
    /// A file with a client secret; repeat it, and they are tried in order
    #[arg(long = "client-secret-file", value_name = "FILE")]
    pub(crate) client_secret_files: Vec<PathBuf>,
    /// A scope to ask for; repeat it for several
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// A scope that a flow may ask for in addition
    #[arg(long = "optional-scope", value_name = "SCOPE")]
    pub(crate) optional_scopes: Vec<String>,
    /// A value for a placeholder of the profile, as `tenant=contoso`
    #[arg(long = "setting", value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub(crate) settings: Vec<(String, String)>,
    /// The issuer, for `oidc`
    #[arg(long, value_name = "URL")]
    pub(crate) issuer: Option<String>,
    /// The authorization endpoint, for `oauth2`
    #[arg(long, value_name = "URL")]
    pub(crate) authorization_endpoint: Option<String>,
    /// The token endpoint, for `oauth2`
    #[arg(long, value_name = "URL")]
    pub(crate) token_endpoint: Option<String>,
    /// The revocation endpoint, for `oauth2`
    #[arg(long, value_name = "URL")]
    pub(crate) revocation_endpoint: Option<String>,
    /// How flows are bound [default: finish]
    #[arg(long, value_name = "BINDING", value_parser = ["finish", "confirm_page"])]
    pub(crate) binding: Option<String>,
    /// Where browsers may be sent back to; repeat it for several
    #[arg(long = "return-url", value_name = "URL")]
    pub(crate) return_urls: Vec<String>,
    /// An origin that may open the popup; repeat it for several
    #[arg(long = "origin", value_name = "ORIGIN")]
    pub(crate) origins: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Connections {
    /// List connections, never with token values
    List {
        #[command(flatten)]
        filter: Filter,
    },
    /// Revoke one connection by its id, or many by a filter
    #[command(after_help = "Examples:
  valetkey connections revoke cxn_06bc4jq1v81hf0c9q2m8r5vk3o --yes
  valetkey connections revoke --user u-17
  valetkey connections revoke --user u-17 --confirm 3

By filter, nothing is revoked until the number of connections is confirmed: the first call says it and ends with 5.")]
    Revoke(RevokeConnections),
}

/// Which connections; what is absent does not narrow.
#[derive(Debug, Default, Args)]
pub(crate) struct Filter {
    /// Of this connector
    #[arg(long, value_name = "ID")]
    pub(crate) connector: Option<ConnectorId>,
    /// Of this user
    #[arg(long, value_name = "USER_ID", conflicts_with = "shared")]
    pub(crate) user: Option<UserId>,
    /// Of no single user
    #[arg(long)]
    pub(crate) shared: bool,
    /// In this status
    #[arg(long, value_parser = PossibleValuesParser::new(Status::ALL.iter().map(|status| status.as_str())))]
    pub(crate) status: Option<String>,
    /// At this provider
    #[arg(long)]
    pub(crate) provider: Option<String>,
    /// With this label
    #[arg(long)]
    pub(crate) label: Option<Label>,
    /// Needing their owner for this reason
    #[arg(long, value_parser = PossibleValuesParser::new(ReauthReason::ALL.iter().map(|reason| reason.as_str())))]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeConnections {
    /// `cxn_…`, for one connection
    #[arg(conflicts_with_all = ["connector", "user", "shared", "status", "provider", "label", "reason", "all", "confirm", "dry_run"])]
    pub(crate) id: Option<ConnectionId>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Every connection of the space
    #[arg(long, conflicts_with_all = ["connector", "user", "shared", "status", "provider", "label", "reason"])]
    pub(crate) all: bool,
    /// Yes, this one
    #[arg(long, requires = "id")]
    pub(crate) yes: bool,
    /// Revoke what the filter finds, if it is so many
    #[arg(long, value_name = "COUNT")]
    pub(crate) confirm: Option<i64>,
    /// Only say what would be revoked
    #[arg(long, conflicts_with = "confirm")]
    pub(crate) dry_run: bool,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}
