//! What comes home with a browser, and the page that asks before.

use std::collections::BTreeMap;

use url::Url;

use crate::Page;

/// What came home: read from the result page's data attributes, or from the redirect.
#[derive(Debug, Clone)]
pub struct Home {
    /// The flow.
    pub flow_id: String,
    /// The one-use handle, if the provider said yes.
    pub handle: Option<String>,
    /// The code of a failure.
    pub code: Option<String>,
    /// The origin that a popup posts to; none for a redirect.
    pub origin: Option<String>,
    /// Where the browser goes by itself: the relay with its fragment, or the return URL with its query.
    pub target: Url,
    /// The page.
    pub page: Page,
}

impl Home {
    /// Reads a page that brings a flow home; fails if it does not.
    #[track_caller]
    pub fn of(page: &Page) -> Self {
        match Self::find(page) {
            Some(home) => home,
            None => panic!("{}: nothing comes home: {} {}", page.request, page.status, page.html),
        }
    }

    /// Reads a page; `None` if nothing comes home with it.
    pub fn find(page: &Page) -> Option<Self> {
        let refresh = page.header("refresh").split_once("url=").map(|(_, target)| target);
        let redirect = if page.header("location").is_empty() { refresh } else { Some(page.header("location")) };
        let target: Url = match redirect {
            Some(target) => target.parse().ok()?,
            None => page.attribute("id=\"return\" class=\"button plain\" href")?.parse().ok()?,
        };
        let load = target.fragment().or(target.query()).unwrap_or_default();
        let load: BTreeMap<String, String> = url::form_urlencoded::parse(load.as_bytes()).into_owned().collect();
        let home = Self {
            flow_id: load.get("flow_id")?.clone(),
            handle: load.get("handle").cloned(),
            code: load.get("code").cloned(),
            origin: page.attribute("data-origin"),
            target: target.clone(),
            page: page.clone(),
        };
        if home.origin.is_some() {
            // The message to the opener and the way by the relay bring the same.
            assert_eq!(page.attribute("data-flow").as_ref(), Some(&home.flow_id), "{}", page.request);
            assert_eq!(page.attribute("data-handle"), home.handle, "{}", page.request);
            assert_eq!(page.attribute("data-code"), home.code, "{}", page.request);
        }
        Some(home)
    }

    /// The handle; fails if a failure came home.
    #[track_caller]
    pub fn handle(&self) -> &str {
        match &self.handle {
            Some(handle) => handle,
            None => panic!("{}: no handle came home but {:?}", self.page.request, self.code),
        }
    }

    /// Fails unless this failure came home.
    #[track_caller]
    pub fn expect_code(&self, code: &str) {
        assert_eq!((self.code.as_deref(), self.handle.as_deref()), (Some(code), None), "{}", self.page.request);
    }
}

/// Our page that asks before anything is redeemed.
#[derive(Debug, Clone)]
pub struct Confirming {
    /// Where its form posts to.
    pub action: String,
    /// Its one-use token.
    pub token: String,
    /// The page.
    pub page: Page,
}

impl Confirming {
    #[track_caller]
    pub(crate) fn of(home: &str, page: Page) -> Self {
        let page = page.expect(200);
        let action = page.attribute("action").expect("a form");
        let action = home.parse::<Url>().and_then(|home| home.join(&action)).expect("an address").into();
        Self { action, token: page.input("token").expect("a token"), page }
    }
}
