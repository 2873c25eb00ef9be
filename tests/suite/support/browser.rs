//! A browser with a person in front of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use reqwest::{
    Method,
    header::{HeaderMap, SET_COOKIE},
};
use url::Url;

use crate::{Confirming, Home, client, witness};

/// A browser with its own cookies. It follows no redirect and runs no script by itself: each step is a call.
#[derive(Debug)]
pub struct Browser {
    http: reqwest::Client,
    home: String,
    /// The name under which the person signs in at the provider.
    person: String,
    /// Cookies by host and name. Ports do not part them (RFC 6265, section 8.5).
    cookies: Mutex<BTreeMap<(String, String), String>>,
}

/// What a browser was shown.
#[derive(Debug, Clone)]
pub struct Page {
    /// The request, as `GET https://…`, for messages.
    pub request: String,
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub html: String,
}

impl Page {
    /// A header as text; empty if absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Fails unless the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.request, self.html);
        self
    }

    /// Fails unless this is our page of that failure, with that status.
    #[track_caller]
    pub fn expect_failure(self, status: u16, code: &str) -> Self {
        let page = self.expect(status);
        let shown = page.html.contains(&format!("<code>{code}</code>"));
        assert!(shown, "{}: the page does not show `{code}`: {}", page.request, page.html);
        page
    }

    /// Where a redirect leads.
    #[track_caller]
    pub fn location(&self) -> String {
        assert!(!self.header("location").is_empty(), "{}: no Location: {} {}", self.request, self.status, self.html);
        self.header("location").to_owned()
    }

    /// The value of an attribute, of the first element that has it.
    pub fn attribute(&self, name: &str) -> Option<String> {
        let start = self.html.find(&format!(" {name}=\""))? + name.len() + 3;
        let length = self.html[start..].find('"')?;
        Some(unescape(&self.html[start..start + length]))
    }

    /// The value of a form's hidden input.
    pub fn input(&self, name: &str) -> Option<String> {
        let input = self.html.find(&format!("name=\"{name}\""))?;
        let rest = Self { html: self.html[input..].to_owned(), ..self.clone() };
        rest.attribute("value")
    }
}

fn unescape(text: &str) -> String {
    [("&#38;", "&"), ("&#34;", "\""), ("&#39;", "'"), ("&#60;", "<"), ("&#62;", ">"), ("&quot;", "\""), ("&amp;", "&")]
        .into_iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

impl Browser {
    pub(crate) fn new(home: &str, person: &str) -> Self {
        let (home, person) = (home.to_owned(), person.to_owned());
        Self { http: client::http(), home, person, cookies: Mutex::default() }
    }

    /// `GET`, as a navigation.
    pub async fn get(&self, url: &str) -> Page {
        self.send(self.request(Method::GET, url)).await
    }

    /// Submits a form of our own pages.
    pub async fn post_form(&self, url: &str, form: &[(&str, &str)]) -> Page {
        self.send(self.request(Method::POST, url).header("origin", origin_of(url)).form(form)).await
    }

    /// Any other request with this browser's cookies; send it with [`Browser::send`].
    pub fn request(&self, method: Method, url: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, url);
        match self.cookie_line(url) {
            line if line.is_empty() => request,
            line => request.header("cookie", line),
        }
    }

    /// Sends a request, keeps its cookies, and keeps its answer for the witness.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Page {
        let request = request.build().expect("a request");
        let name = format!("{} {}", request.method(), request.url());
        let url = request.url().clone();
        for (_, value) in url.query_pairs().filter(|(_, value)| value.starts_with("sbx_code_")) {
            // Whatever somebody hung on to it is none.
            let code = value.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').next();
            witness::plant(code.unwrap_or_default(), "a code");
        }
        let response = self.http.execute(request).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let html = response.text().await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        for line in headers.get_all(SET_COOKIE) {
            self.keep_cookie(&url, line.to_str().expect("a cookie is text"));
        }
        if url.as_str().starts_with(&self.home) {
            witness::record_page(name.split(' ').next().unwrap_or_default(), url.path(), status, &headers, &html);
        }
        Page { request: name, status, headers, html }
    }

    /// A cookie of the server by the start of its name: its name and value.
    pub fn cookie(&self, start: &str) -> Option<(String, String)> {
        let cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
        let found = cookies.iter().find(|((host, name), _)| *host == host_of(&self.home) && name.starts_with(start));
        found.map(|((_, name), value)| (name.clone(), value.clone()))
    }

    /// Forgets all cookies.
    pub fn forget_cookies(&self) {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn cookie_line(&self, url: &str) -> String {
        let cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
        let host = host_of(url);
        let of_host = cookies.iter().filter(|((of, _), _)| *of == host);
        of_host.map(|((_, name), value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    fn keep_cookie(&self, url: &Url, line: &str) {
        let (pair, attributes) = line.split_once(';').unwrap_or((line, ""));
        let (name, value) = pair.split_once('=').expect("a cookie has a value");
        let key = (url.host_str().unwrap_or_default().to_owned(), name.trim().to_owned());
        let mut cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
        if attributes.split(';').any(|attribute| attribute.trim() == "Max-Age=0") {
            cookies.remove(&key);
        } else {
            cookies.insert(key, value.trim().to_owned());
        }
    }
}

fn host_of(url: &str) -> String {
    url.parse::<Url>().expect("an address").host_str().unwrap_or_default().to_owned()
}

fn origin_of(url: &str) -> String {
    url.parse::<Url>().expect("an address").origin().ascii_serialization()
}

/// The person's way through a flow.
impl Browser {
    /// Opens a start link: shows its page, and posts as the page's script does. Gives the provider's address.
    pub async fn open(&self, start_url: &str) -> String {
        self.get(start_url).await.expect(200);
        let page = self.post_start(start_url).await.expect(200);
        let answer: serde_json::Value = serde_json::from_str(&page.html).expect("JSON");
        answer["location"].as_str().expect("a location").to_owned()
    }

    /// What the start page's script posts.
    pub async fn post_start(&self, start_url: &str) -> Page {
        let request = self.request(Method::POST, start_url).header("accept", "application/json");
        self.send(request.header("origin", origin_of(start_url))).await
    }

    /// Signs in at the provider and says yes. Gives the address that the provider sends the browser back to.
    pub async fn consent(&self, location: &str) -> String {
        self.decide(location, &self.person, "allow").await
    }

    /// Signs in at the provider under another name and says yes.
    pub async fn consent_as(&self, location: &str, account: &str) -> String {
        self.decide(location, account, "allow").await
    }

    /// Says no at the provider.
    pub async fn deny(&self, location: &str) -> String {
        self.decide(location, "deny", "deny").await
    }

    /// Where the sandbox consents by itself it goes by `login_hint`; else its page is answered.
    async fn decide(&self, location: &str, account: &str, decision: &str) -> String {
        let mut url: Url = location.parse().expect("an address");
        let kept: Vec<(String, String)> =
            url.query_pairs().filter(|(name, _)| name != "login_hint").map(|(n, v)| (n.into(), v.into())).collect();
        url.query_pairs_mut().clear().extend_pairs(kept).append_pair("login_hint", account);
        let page = self.get(url.as_str()).await;
        if page.status == 302 {
            return page.location();
        }
        let page = page.expect(200);
        let decided = url.join("/authorize/decision").expect("an address");
        let known = page.input("page").expect("the consent page");
        let form = [("page", known.as_str()), ("account", account), ("decision", decision)];
        self.post_form(decided.as_str(), &form).await.expect(302).location()
    }

    /// Goes to the callback, where the flow comes home.
    pub async fn come_home(&self, callback: &str) -> Home {
        Home::of(&self.get(callback).await)
    }

    /// The whole way of a flow bound by finish: open, consent, home.
    pub async fn walk(&self, start_url: &str) -> Home {
        let location = self.open(start_url).await;
        let callback = self.consent(&location).await;
        self.come_home(&callback).await
    }

    /// The way of a flow bound by our page, up to that page.
    pub async fn walk_to_confirm(&self, start_url: &str) -> Confirming {
        let location = self.open(start_url).await;
        let callback = self.consent(&location).await;
        Confirming::of(&self.home, self.get(&callback).await)
    }

    /// Presses a button of the confirm page: `connect` or `cancel`.
    pub async fn press(&self, confirming: &Confirming, decision: &str) -> Page {
        let form = [("token", confirming.token.as_str()), ("decision", decision)];
        self.post_form(&confirming.action, &form).await
    }
}
