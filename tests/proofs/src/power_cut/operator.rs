//! What the operator of the machine asks for through the socket in the data directory: keys change while all goes on.

use std::path::Path;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// A new key-encryption key: the ring's file and the table of data keys change one after the other, and the old key goes.
pub(crate) async fn replace_key_encryption_key(data_dir: &Path) -> anyhow::Result<()> {
    post(data_dir, "/v1/keyring/rewrap", &json!({ "all": true, "new_key": true, "drop_old": true })).await?;
    Ok(())
}

/// A new data key, and everything sealed anew under it.
pub(crate) async fn rotate_data_key(data_dir: &Path) -> anyhow::Result<()> {
    post(data_dir, "/v1/keyring/rotate", &json!({})).await?;
    // What is not done after a few steps goes on with the next rotation.
    for _ in 0..3 {
        let step = post(data_dir, "/v1/keyring/step", &json!({ "alone": true })).await?;
        if step["phase"] == "done" {
            break;
        }
    }
    Ok(())
}

/// One request by HTTP/1.1 on a connection of its own.
async fn post(data_dir: &Path, path: &str, body: &Value) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(data_dir.join("valetkey.sock")).await.context("the operator's socket")?;
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end of its head")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{path} was answered with {}: {body}", head.lines().next().unwrap_or_default());
    }
    serde_json::from_str(body).context("an answer that is not JSON")
}
