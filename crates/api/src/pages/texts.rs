//! Every word that the pages say, in English.
//!
//! A failure says in one sentence what happened, then why, then what to do next and who can do it.

use super::FailurePage;

pub(super) const THE_APPLICATION: &str = "the application";

pub(super) const CONNECTOR: &str = "Connector";
pub(super) const SPACE: &str = "Space";
pub(super) const FOR: &str = "For";

pub(super) const TAKING_YOU_TO: &str = "Taking you to";
pub(super) const CONNECT_LEAD: &str = "There you sign in and choose whether this connector may act for you.";
pub(super) const CONTINUE_TO: &str = "Continue to";
pub(super) const CONNECT_UNREACHABLE: &str =
    "This page could not reach its server. Check your network, then use the button.";

pub(super) const LEAVING: &str = "This page goes on by itself. If it does not, use the button.";

pub(super) const AUTHORIZED_HEADING: &str = "Almost done";
pub(super) const AUTHORIZED_LEAD: &str =
    "your permission has arrived, and the application now finishes the connection.";
pub(super) const CONNECTED_HEADING: &str = "Connected";
pub(super) const CONNECTED_LEAD: &str = "the connection is ready to use.";
pub(super) const REPORTING_TO: &str = "Reporting to";
pub(super) const TOLD: &str = "Done. You can close this window.";
pub(super) const TOLD_FAILURE: &str = "The application has been told. You can close this window.";
pub(super) const RETURN_TO: &str = "Return to";

pub(super) const CONFIRM_HEADING: &str = "Connect";
pub(super) const CONFIRM_LEAD: &str = "You have signed in at the provider. Nothing is connected yet: \
     with your consent this connector may act with that account.";
pub(super) const CONFIRM_WARNING: &str =
    "Did someone send you here? Then cancel: they would get access to your account.";
pub(super) const CONFIRM_AWAKE: &str = "The Connect button can be used now.";
pub(super) const CONNECT: &str = "Connect";
pub(super) const CONNECT_NO_SCRIPT: &str = "Connect";
pub(super) const CANCEL: &str = "Cancel";

pub(super) const WHAT_NEXT: &str = "What to do next";
pub(super) const CODE: &str = "Code";

/// What a failure page says.
pub(super) struct FailureText {
    pub(super) heading: &'static str,
    pub(super) happened: &'static str,
    pub(super) why: &'static str,
    pub(super) next: &'static str,
}

/// The words for a failure.
#[expect(clippy::too_many_lines, reason = "a table: one arm for each failure, and none may be missing")]
pub(super) const fn failure(page: FailurePage) -> FailureText {
    match page {
        FailurePage::AccessDenied => FailureText {
            heading: "You declined access",
            happened: "Nothing was connected, as you chose.",
            why: "The provider told us that permission was not given.",
            next: "If that was not what you wanted, start again in the application and accept at the provider.",
        },
        FailurePage::ProviderError => FailureText {
            heading: "The provider reported an error",
            happened: "The provider ended the sign-in with an error, so nothing was connected.",
            why: "It may be a passing fault there, or your account or organisation may not allow this connection.",
            next: "Start again in the application. If it happens twice, give your administrator the code below.",
        },
        FailurePage::ClientRefused => FailureText {
            heading: "The provider does not accept this connector",
            happened: "The provider refused the connector's registration, so nothing was connected.",
            why: "The connector's client id, secret, redirect address or permissions do not match what the provider has on record.",
            next: "You cannot mend this yourself. Give your administrator the code below.",
        },
        FailurePage::ProviderUnavailable => FailureText {
            heading: "The provider cannot be reached",
            happened: "The provider did not answer as it should, so nothing was connected.",
            why: "It may be down or very slow at the moment.",
            next: "Wait a few minutes, then start again in the application.",
        },
        FailurePage::IssuerMismatch => FailureText {
            heading: "The answer came from the wrong place",
            happened: "The sign-in was stopped for your safety, and nothing was connected.",
            why: "The answer did not say that it comes from the provider you were sent to.",
            next: "Start again in the application. If it happens twice, give your administrator the code below.",
        },
        FailurePage::CodeRefused => FailureText {
            heading: "The provider took its answer back",
            happened: "The provider did not accept its own confirmation any more, so nothing was connected.",
            why: "Such a confirmation is good for a short time and only once.",
            next: "Start again in the application, and go through the steps without a long pause.",
        },
        FailurePage::IdTokenInvalid => FailureText {
            heading: "The account could not be verified",
            happened: "The sign-in was stopped for your safety, and nothing was connected.",
            why: "What the provider said about your account does not fit this sign-in.",
            next: "Start again in the application. If it happens twice, give your administrator the code below.",
        },
        FailurePage::AccountChanged => FailureText {
            heading: "This is a different account",
            happened: "The connection was left as it was.",
            why: "You signed in at the provider with another account than the one that is connected.",
            next: "Sign out at the provider, start again in the application, and sign in with the account you used before.",
        },
        FailurePage::UserMismatch => FailureText {
            heading: "Someone else started this",
            happened: "The sign-in was stopped for your safety, and nothing was connected.",
            why: "The person signed in to the application is not the one who started the connection.",
            next: "Sign in to the application as yourself and start the connection there.",
        },
        FailurePage::BindingMismatch => FailureText {
            heading: "The application could not prove that it started this",
            happened: "The sign-in was stopped for your safety, and nothing was connected.",
            why: "The proof that the application sent does not belong to this connection.",
            next: "Start again in the application. If it happens twice, give your administrator the code below.",
        },
        FailurePage::HandleExpired => FailureText {
            heading: "This took too long",
            happened: "Your permission was not used in time, so nothing was connected.",
            why: "It must be used within a minute after you come back from the provider.",
            next: "Start again in the application, and leave its page open until it is done.",
        },
        FailurePage::ConnectorChanged => FailureText {
            heading: "This connector was changed",
            happened: "The connection could not be finished.",
            why: "An administrator removed the connector or changed its addresses while you were signing in.",
            next: "Start again in the application. If it happens twice, give your administrator the code below.",
        },
        FailurePage::Interrupted => FailureText {
            heading: "The connection was interrupted",
            happened: "Our server stopped while it was connecting you.",
            why: "It was restarted at just that moment, and the provider's confirmation is good only once.",
            next: "Start again in the application.",
        },
        FailurePage::ScopesMissing => FailureText {
            heading: "A permission is missing",
            happened: "Not every permission that the connector needs was given, so nothing was connected.",
            why: "A box may have been left unticked at the provider, or your organisation may not allow it.",
            next: "Start again in the application and leave every permission ticked, or ask your administrator.",
        },
        FailurePage::FlowExpired => FailureText {
            heading: "The time is up",
            happened: "The connection was not finished in time, so nothing was connected.",
            why: "For your safety it must be finished within minutes of being started.",
            next: "Start again in the application.",
        },
        FailurePage::FlowCancelled => FailureText {
            heading: "Cancelled",
            happened: "Nothing was connected.",
            why: "The connection was called off here or in the application.",
            next: "You can close this window. To connect after all, start again in the application.",
        },
        FailurePage::LinkUsed => FailureText {
            heading: "This link was used already",
            happened: "This page cannot be used a second time.",
            why: "For your safety each link works once. Reloading, or going back, shows this page.",
            next: "Look in the application whether you are connected. If not, start again there.",
        },
        FailurePage::WrongBrowser => FailureText {
            heading: "This was started in another browser",
            happened: "The sign-in was stopped here for your safety, and nothing was connected.",
            why: "The link was opened first in another browser or profile, or this browser does not keep cookies for this site.",
            next: "Go on in the browser where you started. If that is this one, allow cookies for this site and start \
                   again in the application. If someone sent you this link, close this window.",
        },
        FailurePage::TooManyTries => FailureText {
            heading: "Too many tries",
            happened: "This page does not answer for the moment.",
            why: "Too many failed tries came from your network within a short time.",
            next: "Wait a minute, then start again in the application.",
        },
        FailurePage::LinkNotFound => FailureText {
            heading: "This link leads nowhere",
            happened: "There is nothing to connect under this address.",
            why: "It may be incomplete, or it is so old that it has been removed.",
            next: "Start again in the application. If you typed or pasted the address, check that it is complete.",
        },
        FailurePage::AlreadyFinished => FailureText {
            heading: "This is finished already",
            happened: "The connection was completed before, and nothing is left to do here.",
            why: "This page was opened again after the end.",
            next: "You can close this window. The application shows what is connected.",
        },
        FailurePage::CallbackInvalid => FailureText {
            heading: "This answer is not complete",
            happened: "The address that brought you here lacks what is needed, so nothing was connected.",
            why: "It was cut short or changed on its way, or it was opened by hand.",
            next: "Start again in the application. If it happens twice, give your administrator the code below.",
        },
        FailurePage::ConfirmInvalid => FailureText {
            heading: "This could not be confirmed",
            happened: "The confirmation was refused for your safety, and nothing was connected.",
            why: "It did not come from the page that we showed you, or it came twice.",
            next: "Start again in the application, and answer in the window that it opens.",
        },
        FailurePage::Internal => FailureText {
            heading: "Something went wrong on our side",
            happened: "An error in our server stopped the connection.",
            why: "This is not your doing, and your account at the provider is safe.",
            next: "Wait a few minutes, then start again in the application. If it happens twice, give your administrator \
                   the code below.",
        },
    }
}
