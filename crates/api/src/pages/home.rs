//! The way home: what a flow brings back, and where to.

use url::Url;
use valetkey_core::Secret;

/// The window that comes home.
#[derive(Clone, Copy)]
pub(crate) enum Window<'a> {
    /// A popup: it speaks to its opener at this registered origin, or goes on to the relay page.
    Popup {
        /// The origin of the page that opened it.
        origin: &'a str,
    },
    /// The whole page goes back.
    Page,
}

/// What is brought home.
#[derive(Clone, Copy)]
pub(crate) enum Brought<'a> {
    /// The one-use handle that lets the application finish.
    Handle(&'a Secret),
    /// The code of a failure.
    Code(&'a str),
    /// Nothing: the connection exists already, and the flow's status says so.
    Nothing,
}

/// Where a flow goes when our pages are done with it.
#[derive(Clone, Copy)]
pub(crate) struct Home<'a> {
    /// Which flow.
    pub(crate) flow_id: &'a str,
    /// What it brings.
    pub(crate) brought: Brought<'a>,
    /// The registered target: the relay page of a popup, the page that resumes for a redirect.
    pub(crate) return_url: &'a Url,
    /// How it gets there.
    pub(crate) window: Window<'a>,
}

impl Home<'_> {
    /// The address to go to. A popup carries its load in the fragment, which no server logs; a redirect in the query,
    /// after whatever the registered target has there already.
    pub(crate) fn address(&self) -> Url {
        let mut load = url::form_urlencoded::Serializer::new(String::new());
        load.append_pair("flow_id", self.flow_id);
        match self.brought {
            Brought::Handle(handle) => {
                load.append_pair("handle", handle.expose());
            }
            Brought::Code(code) => {
                load.append_pair("code", code);
            }
            Brought::Nothing => {}
        }
        let load = load.finish();
        let mut address = self.return_url.clone();
        match self.window {
            Window::Popup { .. } => address.set_fragment(Some(&load)),
            Window::Page => {
                let query = match address.query().filter(|query| !query.is_empty()) {
                    Some(query) => format!("{query}&{load}"),
                    None => load,
                };
                address.set_query(Some(&query));
            }
        }
        address
    }

    /// How the application is named to the person: the host of its registered target, in ASCII, so that no look-alike
    /// letters can pose as another.
    pub(super) fn host(&self) -> &str {
        self.return_url.host_str().unwrap_or(super::texts::THE_APPLICATION)
    }

    pub(super) fn popup_origin(&self) -> Option<&str> {
        match self.window {
            Window::Popup { origin } => Some(origin),
            Window::Page => None,
        }
    }

    pub(super) fn handle(&self) -> Option<&str> {
        match self.brought {
            Brought::Handle(handle) => Some(handle.expose()),
            Brought::Code(_) | Brought::Nothing => None,
        }
    }

    pub(super) fn code(&self) -> Option<&str> {
        match self.brought {
            Brought::Code(code) => Some(code),
            Brought::Handle(_) | Brought::Nothing => None,
        }
    }
}
