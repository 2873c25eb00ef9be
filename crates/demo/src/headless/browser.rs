//! A browser without a screen: keeps cookies, follows nothing by itself, and remembers where it is.

use anyhow::{Context, ensure};
use reqwest::{
    Method, RequestBuilder, Response,
    header::{ACCEPT, COOKIE, LOCATION, ORIGIN, SET_COOKIE},
};
use serde_json::Value;
use url::Url;

use super::html::{Form, Html};

/// What a browser asks for when it navigates.
const PAGES: &str = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";

/// A cookie. All that is visited here is one host, and cookies do not know ports.
#[derive(Debug)]
struct Cookie {
    name: String,
    value: String,
    path: String,
}

/// One person's browser.
#[derive(Debug)]
pub(super) struct Browser {
    http: reqwest::Client,
    cookies: Vec<Cookie>,
}

/// What an address answered with.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) url: Url,
    pub(super) status: u16,
    pub(super) html: Html,
    /// Where it sends the browser, if it does.
    pub(super) location: Option<Url>,
}

impl Page {
    /// The heading, which is what a person reads first.
    pub(super) fn heading(&self) -> String {
        self.html.text_of("h1").unwrap_or_else(|| "(a page without a heading)".to_owned())
    }

    /// Goes on only if this is what was expected; else says what a person would see.
    pub(super) fn expect(self, status: u16, what: &str) -> anyhow::Result<Self> {
        let (seen, heading) = (self.status, self.heading());
        ensure!(seen == status, "{what} answered {seen} instead of {status}, and shows \"{heading}\"");
        Ok(self)
    }

    pub(super) fn form(&self) -> anyhow::Result<Form> {
        self.html.form().with_context(|| format!("there is no form on the page \"{}\"", self.heading()))
    }
}

impl Browser {
    pub(super) fn new(http: reqwest::Client) -> Self {
        Self { http, cookies: Vec::new() }
    }

    /// Opens an address.
    pub(super) async fn open(&mut self, url: &Url) -> anyhow::Result<Page> {
        let request = self.http.get(url.clone()).header(ACCEPT, PAGES);
        self.navigate(url, request).await
    }

    /// Presses a form's button.
    pub(super) async fn submit(&mut self, page: &Page, form: &Form, button: (&str, &str)) -> anyhow::Result<Page> {
        let target = page.url.join(&form.action)?;
        let mut fields = form.fields.clone();
        fields.push((button.0.to_owned(), button.1.to_owned()));
        let request =
            self.http.post(target.clone()).header(ACCEPT, PAGES).header(ORIGIN, origin(&page.url)).form(&fields);
        self.navigate(&target, request).await
    }

    /// What a page's script does: a request to the page's own origin, answered with JSON.
    pub(super) async fn fetch(
        &mut self,
        page: &Url,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(u16, Value)> {
        let target = page.join(path)?;
        let mut request =
            self.http.request(method, target.clone()).header(ACCEPT, "application/json").header(ORIGIN, origin(page));
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = self.send(&target, request).await?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    /// Whether a cookie would be sent to this address.
    pub(super) fn has_cookie(&self, url: &Url, starts_with: &str) -> bool {
        self.cookies_for(url).any(|cookie| cookie.name.starts_with(starts_with))
    }

    async fn navigate(&mut self, url: &Url, request: RequestBuilder) -> anyhow::Result<Page> {
        let response = self.send(url, request).await?;
        let status = response.status().as_u16();
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.map(|location| url.join(location)).transpose()?;
        let html = Html::read(&response.text().await?);
        Ok(Page { url: url.clone(), status, html, location })
    }

    async fn send(&mut self, url: &Url, mut request: RequestBuilder) -> anyhow::Result<Response> {
        let cookies: Vec<_> = self.cookies_for(url).map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        // The address may hold a ticket or a code: it is not repeated.
        let response = request.send().await.map_err(reqwest::Error::without_url)?;
        for value in response.headers().get_all(SET_COOKIE) {
            self.keep(value.to_str().unwrap_or_default());
        }
        Ok(response)
    }

    fn cookies_for(&self, url: &Url) -> impl Iterator<Item = &Cookie> {
        self.cookies.iter().filter(move |cookie| is_below(url.path(), &cookie.path))
    }

    /// Takes a `Set-Cookie` (RFC 6265, section 5.3), as far as this machine's servers use it.
    fn keep(&mut self, set_cookie: &str) {
        let mut parts = set_cookie.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { return };
        let mut path = "/";
        let mut is_over = false;
        for part in parts {
            match part.split_once('=') {
                Some((key, value)) if key.eq_ignore_ascii_case("path") => path = value,
                Some((key, value)) if key.eq_ignore_ascii_case("max-age") => is_over = value == "0",
                _ => {}
            }
        }
        self.cookies.retain(|cookie| cookie.name != name || cookie.path != path);
        if !is_over {
            self.cookies.push(Cookie { name: name.to_owned(), value: value.to_owned(), path: path.to_owned() });
        }
    }
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// RFC 6265, section 5.1.4.
fn is_below(path: &str, cookie_path: &str) -> bool {
    match path.strip_prefix(cookie_path) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || cookie_path.ends_with('/'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn browser() -> Browser {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Browser::new(crate::broker_api::client().unwrap())
    }

    #[test]
    fn a_cookie_is_kept_for_its_path_replaced_and_taken_away() {
        let mut browser = browser();
        let inside = Url::parse("http://127.0.0.1:1/oauth/callback").unwrap();
        let outside = Url::parse("http://127.0.0.1:2/oauthority").unwrap();
        browser.keep("vk_1=a; Path=/oauth; HttpOnly; Max-Age=600");
        assert!(browser.has_cookie(&inside, "vk_") && !browser.has_cookie(&outside, "vk_"));
        browser.keep("vk_1=b; Path=/oauth");
        assert_eq!(browser.cookies_for(&inside).map(|cookie| cookie.value.as_str()).collect::<Vec<_>>(), ["b"]);
        browser.keep("vk_1=; Path=/oauth; Max-Age=0");
        assert!(!browser.has_cookie(&inside, "vk_"));
    }
}
