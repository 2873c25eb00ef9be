//! The pages that a person sees in the popup, and the files they load.
//!
//! Everything here is a pure function from a view to a response: no page asks the broker anything. Nothing that came from
//! the provider or from a query string is in any view, so it cannot be rendered (DESIGN.md, section 4, rule 9).

mod assets;
mod failure;
mod headers;
mod home;
mod marks;
mod texts;
mod views;

#[cfg(test)]
mod tests;

pub(crate) use assets::asset_response;
pub(crate) use failure::FailurePage;
pub(crate) use home::{Brought, Home, Window};
pub(crate) use views::{
    ConfirmView, ConnectView, FailureView, ResultView, Subject, confirm_page, connect_page, failure_page, home_page,
    leaving_page, redirect_home,
};
