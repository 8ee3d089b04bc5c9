//! Two people with the same migration in front of them.

use serde_json::json;

use crate::host::Host;
use crate::page::{LONG, Page};

/// Lets the page hear nothing of the console's events any more, and so keep what it knows.
const DEAFEN: &str = "const before = window.fetch;
window.fetch = (address, options) => (String(address).endsWith('/events') ? new Promise(() => {}) : before(address, options))";

#[test]
#[ignore = "drives a browser"]
fn a_cutover_that_was_confirmed_for_an_earlier_state_is_refused_and_asked_for_again() {
    let host = Host::start(&["--memory", "3"]);
    let page = Page::open(&format!("{}#/m/memory/validate", host.address));
    page.press("Validate");
    page.press("Start the migration");
    page.wait_long_for("Green light", LONG);

    let first = page.browser.tab();
    page.browser.new_tab();
    page.browser.open(&host.address);
    page.wait_for("Ready to cut over");
    page.browser.run(DEAFEN, &[]).unwrap();
    page.go("#/m/memory/cutover");
    page.check("Nothing writes to the source any more");
    let second = page.browser.tab();

    // The run is another one when the second tab asks.
    page.browser.switch_to(&first);
    page.press("Stop …");
    page.press("Stop the run");
    page.wait_for("The run was stopped");
    page.press("Start again");
    page.wait_long_for("Green light", LONG);

    page.browser.switch_to(&second);
    page.press("Cut over");
    page.wait_for("Something has changed since you confirmed");
    assert!(!page.has_checked("Nothing writes to the source any more"));
    assert!(!page.offers("Cut over"));
    page.assert_accessible("stale cutover");
    page.check("Nothing writes to the source any more");
    page.press("Cut over");
    page.browser.switch_to(&first);
    page.wait_for("The applications may go to the target");
    let closed = page
        .browser
        .run("return document.querySelectorAll('dialog').length", &[])
        .unwrap();
    assert_eq!(closed, json!(0));
}
