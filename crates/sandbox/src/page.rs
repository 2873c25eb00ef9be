//! The pages that a person sees: consent, and what went wrong.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::answer::Answer;
use crate::settings::Account;

/// What the consent page shows.
#[derive(Debug)]
pub(crate) struct Consent<'a> {
    pub(crate) page: &'a str,
    pub(crate) client_name: &'a str,
    pub(crate) scopes: &'a [String],
    pub(crate) accounts: &'a [Account],
    pub(crate) chosen: Option<&'a str>,
    pub(crate) action: &'a str,
}

pub(crate) fn consent(consent: &Consent<'_>) -> String {
    let mut accounts = String::new();
    for (index, account) in consent.accounts.iter().enumerate() {
        let checked = if consent.chosen == Some(account.id.as_str()) { " checked" } else { "" };
        let (id, name) = (escape(&account.id), escape(&account.name));
        accounts.push_str(&format_args!(
            r#"<label class="account" for="account-{index}"><input type="radio" id="account-{index}" name="account" value="{id}" required{checked}><span class="who"><b>{name}</b><span class="id">{id}</span></span></label>
"#
        ).to_string());
    }
    let mut scopes = String::new();
    for scope in consent.scopes {
        scopes.push_str("<li><code>");
        scopes.push_str(&escape(scope));
        scopes.push_str("</code></li>");
    }
    if scopes.is_empty() {
        scopes.push_str("<li>know who you are</li>");
    }
    let name = escape(consent.client_name);
    document(
        "Allow access",
        &format!(
            r#"<h1><span class="client">{name}</span> asks for access</h1>
<form method="post" action="{action}">
<input type="hidden" name="page" value="{page}">
<fieldset><legend>Account</legend>
{accounts}</fieldset>
<section aria-labelledby="wants"><h2 id="wants">It wants to</h2><ul class="scopes">{scopes}</ul></section>
<div class="actions"><button type="submit" name="decision" value="allow" class="allow">Allow</button>
<button type="submit" name="decision" value="deny" class="deny" formnovalidate>Deny</button></div>
</form>"#,
            action = escape(consent.action),
            page = escape(consent.page),
        ),
    )
}

/// A page that says why nothing can be decided here.
pub(crate) fn refusal(status: u16, what: &str) -> Response {
    let body = format!("<h1>This request cannot go on</h1><p>{}</p>", escape(what));
    html(status, document("Request refused", &body))
}

/// An HTML response under a policy that lets nothing run.
pub(crate) fn html(status: u16, document: String) -> Response {
    let mut response = Answer::text(status, "text/html; charset=utf-8", document).into_response();
    let headers = response.headers_mut();
    // No `form-action`: Chromium applies it to the redirect back to the application as well.
    let policy = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn document(title: &str, body: &str) -> String {
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · Sandbox provider</title>
<link rel="stylesheet" href="/sandbox.css">
</head>
<body>
<main>
<p class="banner"><strong>Sandbox provider</strong><span>A pretend sign-in for trying things out. No real account is involved.</span></p>
{body}
</main>
</body>
</html>
"#
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

pub(crate) async fn stylesheet() -> Response {
    Answer::text(200, "text/css; charset=utf-8", include_str!("sandbox.css")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_sent_becomes_markup() {
        let scopes = ["<script>".to_owned()];
        let accounts = [Account { id: "\"x".to_owned(), name: "<b>".to_owned() }];
        let page = consent(&Consent {
            page: "p",
            client_name: "a&b",
            scopes: &scopes,
            accounts: &accounts,
            chosen: Some("\"x"),
            action: "/authorize/decision",
        });
        assert!(!page.contains("<script>"));
        assert!(page.contains("a&amp;b"));
        assert!(page.contains(r#"value="&quot;x" required checked"#));
    }
}
