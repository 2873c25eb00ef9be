//! A provider that is away and says for how long: the outcome is open, and the next try waits for it, within bounds. The
//! rules that hold for every row are in [`TestApp::classify`].

use std::collections::BTreeMap;

use valetkey_suite::{
    engine_tests,
    faults::{Class, FaultCase},
    sandbox::{Fault, RetryAfter},
};

fn absences() -> Vec<FaultCase> {
    let after = |retry_after| Fault::Unavailable { retry_after };
    let text = |text: &str| after(RetryAfter::Text(text.to_owned()));
    let status = |status| Fault::Status {
        code: status,
        body: "<!doctype html><title>Sorry</title>".to_owned(),
        headers: BTreeMap::from([("retry-after".to_owned(), "900".to_owned())]),
    };
    let row = |name: &str, fault, least, most| FaultCase::new(name, fault, "server_error", Class::Away { least, most });
    vec![
        row("503, 7 seconds", after(RetryAfter::Seconds(7)), 7, 7),
        row("503, 15 minutes", after(RetryAfter::Seconds(900)), 900, 900),
        row("503, a date in 15 minutes", after(RetryAfter::DateIn(900)), 898, 900),
        row("503, a day", after(RetryAfter::Seconds(86_400)), 3_600, 3_600),
        row("503, three thousand years", after(RetryAfter::Seconds(99_999_999_999)), 3_600, 3_600),
        row("503, a date in the year 2100", text("Fri, 31 Dec 2100 23:59:59 GMT"), 3_600, 3_600),
        row("503, a date that is past", text("Sun, 06 Nov 1994 08:49:37 GMT"), 0, 0),
        row("503, zero", after(RetryAfter::Seconds(0)), 0, 0),
        row("503, a negative number", text("-900"), 0, 0),
        row("503, a word", text("soon"), 0, 0),
        row("503, more digits than fit", text("99999999999999999999999999"), 0, 0),
        row("503, nothing said", after(RetryAfter::Absent), 0, 0),
        row("500, 15 minutes", status(500), 900, 900),
        row("502, 15 minutes", status(502), 900, 900),
        row("504, 15 minutes", status(504), 900, 900),
    ]
}

engine_tests! {
    async fn every_absence_that_has_an_end_is_waited_for(app: TestApp) {
        app.classify(&absences()).await;
    }
}
