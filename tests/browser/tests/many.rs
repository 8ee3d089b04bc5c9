//! Long lists.

use serde_json::json;

use crate::host::Host;
use crate::page::{LONG, Page};

#[test]
#[ignore = "drives a browser"]
fn five_hundred_collections_and_migrations_are_searched_and_paged_through() {
    let host = Host::start(&["--memory", "500", "--listed", "500"]);
    let page = Page::open(&host.address);
    page.wait_for("1 to 100 of 501");
    page.press("Next");
    page.wait_for("101 to 200 of 501");
    page.fill("Search", "tenant-49");
    page.wait_for("tenant-499");
    assert!(!page.text().contains("tenant-400"));
    page.assert_accessible("long list");

    page.go("#/m/memory/validate");
    page.press("Validate");
    page.wait_for("500 collections");
    page.press("Start the migration");
    page.wait_long_for("Green light", LONG);
    page.wait_for("1 to 10 of 500");
    page.fill("Filter", "collection_42");
    page.wait_for("shop.collection_429");
    assert!(!page.text().contains("shop.collection_000"));
    page.assert_accessible("many collections");
    let longest = page.browser.run(LONGEST_FRAME, &[]).unwrap();
    assert!(
        longest.as_f64().unwrap() < 500.0,
        "the page stood still for {longest} ms"
    );
    assert_ne!(longest, json!(0));
}

/// The longest time between two frames within three seconds.
const LONGEST_FRAME: &str = "return new Promise((done) => {
    const begin = performance.now();
    let last = begin, longest = 0;
    const frame = (now) => {
        longest = Math.max(longest, now - last);
        last = now;
        now - begin < 3000 ? requestAnimationFrame(frame) : done(longest);
    };
    requestAnimationFrame(frame);
})";
