//! Connectors.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use serde_json::{Map, Value, json};
use valetkey_core::Secret;

use super::Context;
use crate::cli::{
    arguments::AddConnector,
    failure::{Exit, Failure},
    table::{Column, Kind},
};

const COLUMNS: &[Column] = &[
    ("ID", "id", Kind::Plain),
    ("NAME", "name", Kind::Plain),
    ("PROVIDER", "provider", Kind::Plain),
    ("AUTH MODE", "auth_mode", Kind::Plain),
    ("GRANT", "grant", Kind::Plain),
    ("SCOPES", "scopes", Kind::Plain),
    ("REDIRECT URI", "redirect_uri", Kind::Plain),
    ("CREATED", "created_at", Kind::Time),
];

/// Standard input, where a file is named.
const STDIN: &str = "-";

/// The largest file that is read.
const FILE_MAX: u64 = 1024 * 1024;

pub(super) async fn add(context: &Context, new: AddConnector) -> Result<(), Failure> {
    let body = body_of(new)?;
    let mut client = context.client("connectors add").await?;
    let made = client.post("/v1/connectors", &body).await;
    client.close().await;
    let made = made?;
    let id = made["id"].as_str().unwrap_or_default();
    context.output.show_value(&made, id)?;
    if made["grant"] == "authorization_code" {
        let redirect_uri = made["redirect_uri"].as_str().unwrap_or_default();
        context.output.tell(&format!("register this redirect URI at the provider: {redirect_uri}"));
    }
    Ok(())
}

pub(super) async fn list(context: &Context) -> Result<(), Failure> {
    let mut client = context.client("connectors list").await?;
    let listed = client.list("/v1/connectors", &[], context.output.listing(COLUMNS)).await;
    client.close().await;
    listed
}

/// The body of `POST /v1/connectors`: what the file says, and what flags say over it.
fn body_of(new: AddConnector) -> Result<Value, Failure> {
    let inputs = new.client_secret_files.iter().chain(&new.file);
    if inputs.filter(|path| path.as_os_str() == STDIN).count() > 1 {
        return Err(wrong_use("standard input can be read for one thing only"));
    }
    let mut body = match &new.file {
        Some(path) => object_of(path)?,
        None => Map::from_iter([("auth_mode".to_owned(), json!("per_user"))]),
    };
    let texts = [
        ("name", new.name),
        ("provider", new.provider),
        ("auth_mode", new.auth_mode),
        ("grant", new.grant),
        ("client_id", new.client_id),
        ("issuer", new.issuer),
        ("binding", new.binding),
    ];
    body.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), json!(text?)))));
    let lists = [
        ("scopes", new.scopes),
        ("optional_scopes", new.optional_scopes),
        ("return_urls", new.return_urls),
        ("origins", new.origins),
    ];
    let given = lists.into_iter().filter(|(_, list)| !list.is_empty());
    body.extend(given.map(|(name, list)| (name.to_owned(), json!(list))));
    if !new.settings.is_empty() {
        let settings: Map<_, _> = new.settings.into_iter().map(|(name, value)| (name, json!(value))).collect();
        body.insert("settings".to_owned(), settings.into());
    }
    let endpoints = [
        ("authorization", new.authorization_endpoint),
        ("token", new.token_endpoint),
        ("revocation", new.revocation_endpoint),
    ];
    for (name, url) in endpoints {
        if let Some(url) = url {
            let all = body.entry("endpoints").or_insert_with(|| json!({}));
            all[name] = json!(url);
        }
    }
    if !new.client_secret_files.is_empty() {
        let secrets = new.client_secret_files.iter().map(|path| read_secret(path));
        let secrets: Vec<Value> = secrets.map(|secret| Ok(json!(secret?.expose()))).collect::<Result<_, Failure>>()?;
        body.insert("client_secrets".to_owned(), secrets.into());
    }
    Ok(body.into())
}

fn object_of(path: &Path) -> Result<Map<String, Value>, Failure> {
    let text = read(path)?;
    let text = text.expose();
    // An object of JSON is no document of TOML, and the other way round.
    let parsed = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| format!("line {}, column {}", error.line(), error.column()))
    } else {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            format!("line {}", text.get(..start).unwrap_or_default().matches('\n').count() + 1)
        })
    };
    // Where it cannot be read is said, what stands there is not: it may be a secret.
    parsed.map_err(|place| wrong_use(&format!("{} is neither TOML nor a JSON object: {place}", path.display())))
}

fn read_secret(path: &Path) -> Result<Secret, Failure> {
    let text = read(path)?;
    let secret = Secret::from(text.expose().trim_end_matches(['\r', '\n']));
    if secret.is_empty() {
        return Err(wrong_use(&format!("{} holds no secret", path.display())));
    }
    Ok(secret)
}

fn read(path: &Path) -> Result<Secret, Failure> {
    let mut text = String::new();
    let read = if path.as_os_str() == STDIN {
        io::stdin().lock().take(FILE_MAX).read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(FILE_MAX).read_to_string(&mut text))
    };
    let text = Secret::from(text);
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(wrong_use(&format!("{} cannot be read: {error}", path.display()))),
    }
}

fn wrong_use(title: &str) -> Failure {
    Failure::local(Exit::WrongUse, "wrong-use", title)
}
