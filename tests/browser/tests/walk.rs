//! A whole migration, from the first look at the page to the certificate.

use mongoferry::Certificate;
use mongoferry::bson::RawDocumentBuf;

use crate::host::Host;
use crate::page::{LONG, Page};
use crate::sides::Sides;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "drives a browser"]
async fn an_operator_is_taken_from_both_connections_to_the_certificate() {
    let sides = Sides::start(60_000).await;
    let access = sides.access().await;
    let application = sides.application().await;
    let host = Host::start(&[]);
    let page = Page::open(&host.address);

    page.wait_for("No migration yet");
    page.assert_accessible("empty list");
    page.press("New migration");
    page.wait_for("You need");
    page.press("Continue");
    page.fill_host(&access);
    page.assert_accessible("connection by host");
    page.press("Continue");
    page.wait_for("The replica set that the data goes to");
    page.fill_uri(&sides.target.uri());
    page.assert_accessible("connection string");
    page.press("Continue");
    page.press("Options");
    // Slow enough to be looked at.
    page.fill("Limit of the copy, in MB per second", "2");
    page.assert_accessible("settings");
    page.press("Continue");
    page.fill("Name of the migration", "shop");
    page.press("Validate");

    page.wait_for("Both sides fit");
    assert!(
        !page.contains_anywhere(&access.password),
        "the password is still in the page"
    );
    page.assert_accessible("validation");
    page.press("Start the migration");
    page.wait_for("Copying");
    page.wait_for("shop.orders");
    page.assert_accessible("running");
    page.picture("console-running", 900);
    page.press("Change the limits");
    page.fill("Copy and comparison, in MB per second", "");
    page.press("Change");
    page.wait_for("Limit: no limit");

    page.wait_long_for("Green light", LONG);
    page.wait_for("Differences: 0");
    page.assert_accessible("green light");
    page.picture("console-ready", 900);
    page.go("#/");
    page.wait_for("Prepare to cut over");
    page.picture("console-list", 420);
    page.press("Prepare to cut over shop");
    page.wait_for("Cut over in five steps");
    assert!(
        !page.offers("Cut over"),
        "nobody has confirmed that the application is stopped"
    );
    page.assert_accessible("cutover");
    application.stop().await;
    page.wait_long_for("Green light", LONG);
    page.check("Nothing writes to the source any more");
    page.press("Cut over");

    page.wait_long_for("The applications may go to the target", LONG);
    page.wait_for("they are identical");
    page.wait_for(&sides.target.member_address(0));
    page.assert_accessible("result");
    page.go("#/m/shop");
    page.wait_for("by the last run");
    page.picture("console-result", 900);
    page.press("Download the certificate");
    let bytes = page.downloaded("shop-certificate.bson");
    let certificate = Certificate::decode(&RawDocumentBuf::from_bytes(bytes).unwrap()).unwrap();
    assert!(!certificate.collections.is_empty());
    sides.assert_identical().await;

    page.press("Take back …");
    page.press("Begin the way back");
    page.wait_for("shop-reverse");
    page.wait_for("Not started");
    let complaints = page.browser.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");
}
