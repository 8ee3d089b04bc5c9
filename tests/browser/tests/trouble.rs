//! What does not go as planned: a side that does not fit, a console that does not answer.

use mongodb::bson::doc;

use crate::host::Host;
use crate::page::{LONG, Page};
use crate::sides::Sides;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "drives a browser"]
async fn a_failed_validation_says_what_to_do_and_is_corrected_in_the_page() {
    let sides = Sides::start(100).await;
    let access = sides.access().await;
    let target = sides.target.client().await.unwrap();
    let old = target.database("shop").collection("orders");
    old.insert_one(doc! { "_id": "old" }).await.unwrap();
    let host = Host::start(&[]);
    let page = Page::open(&format!("{}#/new", host.address));

    page.press("Continue");
    page.press("Continue");
    page.wait_for("Give the host of the primary");
    page.fill_host(&access);
    page.fill("Password", "wrong");
    page.press("Continue");
    page.wait_for("The replica set that the data goes to");
    page.fill_uri(&sides.target.uri());
    page.press("Continue");
    page.press("Continue");
    page.press("Validate");
    page.wait_for("Use 1 to 64 letters");
    page.fill("Name of the migration", "shop");
    page.press("Validate");

    page.wait_for("The migration cannot start yet");
    page.wait_for("credentials_refused");
    assert!(!page.offers("Start the migration"));
    page.assert_accessible("failed connection");
    page.press("Change connections or settings");
    page.check("Give the connection to the source again");
    page.fill_host(&access);
    page.press("Save and validate");

    page.wait_for("existing_data");
    page.wait_for("shop.orders");
    assert!(!page.offers("Start the migration"));
    assert!(
        !page.contains_anywhere(&access.password),
        "the password is still in the page"
    );
    page.assert_accessible("blockers");
    page.press("Change connections or settings");
    page.press("Change the settings");
    page.check("Yes, delete it");
    page.press("Save and validate");
    page.wait_for("Confirm that this data is deleted");
    page.check("I understand that this data on the target is lost.");
    page.press("Save and validate");

    page.wait_for("Both sides fit");
    page.press("Start the migration");
    page.wait_for("Start, and delete data on the target?");
    page.assert_accessible("question");
    page.press("Delete and start");
    page.wait_long_for("Green light", LONG);
    let left = old.count_documents(doc! { "_id": "old" }).await.unwrap();
    assert_eq!(left, 0);
}

#[test]
#[ignore = "drives a browser"]
fn a_console_that_does_not_answer_is_noticed_and_found_again() {
    let host = Host::start(&["--memory", "3"]);
    let port = host.port().to_owned();
    let page = Page::open(&format!("{}#/new", host.address));
    page.press("Continue");
    page.fill("User", "typed before");
    page.go("#/m/memory");
    page.wait_for("Not started");
    page.assert_accessible("migration that was not started");

    host.kill();
    page.wait_for("The console does not answer");
    page.wait_for("Not started");
    page.assert_accessible("lost console");
    page.go("#/new");
    assert_eq!(page.value("User"), "typed before");
    page.go("#/m/memory");
    page.wait_for("The console does not answer");

    let _again = Host::start(&["--memory", "3", "--port", &port]);
    page.wait_until_gone("The console does not answer");
    page.wait_for("Not started");
}
