//! What the walk prints.

use serde_json::Value;

use crate::screen;

/// Ids and fingerprints are compared by their beginnings.
const SHOWN: usize = 8;

/// A step, and what is to be said of it.
pub(super) fn step(title: &str, lines: &[&str]) -> anyhow::Result<()> {
    let mut text = format!("\n* {title}");
    for line in lines.iter().flat_map(|line| line.lines()) {
        text.push_str("\n    ");
        text.push_str(line);
    }
    Ok(screen::say(&text)?)
}

/// The calls that the backend made to the broker, one a line.
pub(super) fn calls(answer: &Value) -> String {
    let all = answer["calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let line = |call: &Value| {
        let part = |name| call[name].as_str().unwrap_or_default();
        let path: Vec<_> = part("path").split('/').map(shorten).collect();
        format!("-> {} {} {}", part("method"), path.join("/"), call["status"])
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// How it stands with the provider, token by token.
pub(super) fn revocations(answer: &Value) -> String {
    let all = answer["revocations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |revocation: &Value| {
        let part = |name| revocation[name].as_str().unwrap_or_default();
        format!("{} token {}", part("token"), part("state"))
    };
    all.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A long name, cut: of an id the kind and a little more.
pub(super) fn shorten(name: &str) -> String {
    let is_id = name.len() > 20 && name.as_bytes().get(3) == Some(&b'_');
    match name.get(..SHOWN) {
        Some(start) if is_id || name.len() == 44 => format!("{start}…"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ids_and_fingerprints_are_cut_and_words_are_not() {
        assert_eq!(shorten("ctr_06bc4jn7tg1hf0c9q2m8r5vk3o"), "ctr_06bc…");
        assert_eq!(shorten("n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg="), "n4bQgYhM…");
        assert_eq!(shorten("connectors"), "connectors");
    }

    #[test]
    fn a_call_is_told_in_one_line() {
        let answer = json!({ "calls": [
            { "method": "POST", "path": "/v1/flows/flw_06bc4jp3kg1hf0c9q2m8r5vk3o/finish", "status": 200 },
            { "method": "GET", "path": "http://127.0.0.1:4000/api/whoami", "status": 401 },
        ] });
        let told = "-> POST /v1/flows/flw_06bc…/finish 200\n-> GET http://127.0.0.1:4000/api/whoami 401";
        assert_eq!(calls(&answer), told);
    }
}
