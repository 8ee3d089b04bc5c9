//! The page without a mouse.

use serde_json::json;

use crate::host::Host;
use crate::page::{LONG, Page, until};

const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const SPACE: &str = " ";
const ESCAPE: &str = "\u{e00c}";

/// What has the focus: its own words, or those of its label.
const FOCUSED: &str = "const focused = document.activeElement;
return (focused.labels?.[0]?.textContent || focused.getAttribute('aria-label') || focused.textContent || '').trim()";

/// Whether one can see what has the focus.
const VISIBLE: &str = "const style = getComputedStyle(document.activeElement);
return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2";

#[test]
#[ignore = "drives a browser"]
fn a_migration_is_run_and_handed_over_by_keys_alone() {
    let host = Host::start(&["--memory", "3"]);
    let page = Page::open(&host.address);
    page.wait_for("memory");
    go_to(&page, "memory");
    page.browser.keys(ENTER);
    page.wait_for("Nothing has been read or written yet");
    go_to(&page, "Validate and start");
    page.browser.keys(ENTER);
    go_to(&page, "Validate");
    page.browser.keys(ENTER);
    page.wait_for("Both sides fit");
    go_to(&page, "Start the migration");
    page.browser.keys(SPACE);
    page.wait_long_for("Green light", LONG);
    page.wait_for("Stop …");

    // A dialog gives the focus back to the button that has opened it.
    go_to(&page, "Stop …");
    page.browser.keys(ENTER);
    page.wait_for("Stop memory?");
    page.browser.keys(ESCAPE);
    page.wait_until_gone("Stop memory?");
    assert_eq!(focused(&page), "Stop …");

    go_to(&page, "Prepare to cut over");
    page.browser.keys(ENTER);
    page.wait_for("Cut over in five steps");
    go_to(&page, "Nothing writes to the source any more");
    page.browser.keys(SPACE);
    page.wait_for("Cut over");
    go_to(&page, "Cut over");
    page.browser.keys(ENTER);
    page.wait_for("The applications may go to the target");
}

/// Presses Tab until the focus is there. Whatever has the focus on the way must be visible.
fn go_to(page: &Page, words: &str) {
    let mut way = Vec::new();
    assert!(until(std::time::Duration::from_secs(15), || page.offers(words)
        || page.text().contains(words)));
    for _ in 0..80 {
        page.browser.keys(TAB);
        let now = focused(page);
        if now == words {
            assert_eq!(
                page.browser.run(VISIBLE, &[]).unwrap(),
                json!(true),
                "the focus on {now} cannot be seen"
            );
            return;
        }
        way.push(now);
    }
    panic!("Tab does not lead to {words}: {way:?}");
}

fn focused(page: &Page) -> String {
    page.browser
        .run(FOCUSED, &[])
        .unwrap()
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
