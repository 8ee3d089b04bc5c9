//! Runs that are interrupted, and go on.

use crate::host::Host;
use crate::page::{LONG, Page};
use crate::sides::Sides;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "drives a browser"]
async fn a_run_is_paused_resumed_and_gets_a_longer_window() {
    let sides = Sides::start(1_000).await;
    let access = sides.access().await;
    let host = Host::start(&["--target", &sides.target.uri()]);
    let page = Page::open(&host.address);
    create(&page, &access, "");
    page.press("Start the migration");
    page.wait_long_for("Green light", LONG);

    page.press("Pause");
    page.wait_for("it reads and writes nothing");
    assert!(!page.offers("Pause") && !page.offers("Prepare to cut over"));
    page.assert_accessible("paused");
    page.press("Resume");
    page.wait_long_for("Green light", LONG);
    page.wait_for("closes in 119 h");
    page.press("Extend by 24 hours");
    page.wait_for("closes in 143 h");

    page.press("Stop …");
    page.press("Stop the run");
    page.wait_for("The run was stopped");
    page.press("Start again");
    page.wait_long_for("Green light", LONG);
    page.wait_for("closes in 143 h");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "drives a browser"]
async fn a_killed_process_is_followed_by_one_that_goes_on_from_the_checkpoint() {
    let sides = Sides::start(20_000).await;
    let access = sides.access().await;
    let target = sides.target.uri();
    let host = Host::start(&["--target", &target]);
    let page = Page::open(&host.address);
    create(&page, &access, "1");
    page.press("Start the migration");
    page.wait_for("Copying");
    page.wait_for("Started from the beginning");
    host.kill();

    let host = Host::start(&["--target", &target]);
    page.browser.open(&host.address);
    // The lease of the killed process has to expire.
    page.wait_for("shop");
    page.wait_long_for("Interrupted", LONG);
    page.press("shop");
    page.wait_for("Give the connection of the source to go on");
    page.assert_accessible("stored");
    page.press("Give the connection");
    page.fill_host(&access);
    page.press("Save and validate");
    page.wait_for("Both sides fit");
    page.press("Go on");
    page.wait_for("Continued from the checkpoint");
    page.wait_long_for("Green light", LONG);
}

/// Creates the migration `shop`, and validates it.
fn create(page: &Page, access: &crate::sides::Access, limit: &str) {
    page.press("New migration");
    page.press("Continue");
    page.fill_host(access);
    page.press("Continue");
    page.press("Options");
    page.fill("Limit of the copy, in MB per second", limit);
    page.press("Continue");
    page.fill("Name of the migration", "shop");
    page.press("Validate");
    page.wait_for("Both sides fit");
}
