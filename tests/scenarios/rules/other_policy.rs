//! Another choice for documents for which a transform fails, at a later start of the same migration.

use mongoferry::{ErrorKind, OnRuleError};

use super::policy::{NAME, Prices, change, is_right, sides};
use super::*;

fn letters(collection: &str) -> OnRuleError {
    OnRuleError::DeadLetter(collection.parse().unwrap())
}

async fn start(sides: &Sides, policy: OnRuleError) -> mongoferry::Result<MigrationHandle> {
    let builder = sides.builder().await.transform(NAME, Prices { panics: false });
    let builder = builder.exclude("kept.*").on_rule_error(policy);
    builder.build().unwrap().start().await
}

/// Starts, waits until everything is copied, and stops.
async fn run_once(sides: &Sides, policy: OnRuleError) {
    let run = start(sides, policy).await.unwrap();
    timeout(DEADLINE, run.ready_to_cut_over()).await.unwrap().unwrap();
    assert_eq!(run.status().rule_failures, 4);
    run.abandon().await;
}

/// The source's documents in the letters of a collection of the target.
async fn kept(sides: &Sides, collection: &str) -> Vec<Document> {
    let letters = documents(&sides.target(collection)).await;
    let document = |letter: &Document| letter.get_document("document").unwrap().clone();
    letters.iter().map(document).collect()
}

/// The source's documents for which the transform has a result, and the others.
async fn right_and_wrong(sides: &Sides) -> (Vec<Document>, Vec<Document>) {
    documents(&sides.source(NAME)).await.into_iter().partition(is_right)
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_follow_the_choice_of_each_start() {
    let sides = sides().await;
    run_once(&sides, OnRuleError::Skip).await;
    let (_, wrong) = right_and_wrong(&sides).await;
    run_once(&sides, letters("kept.letters")).await;
    assert_eq!(kept(&sides, "kept.letters").await, wrong);
    run_once(&sides, letters("kept.others")).await;
    assert_eq!(kept(&sides, "kept.others").await, wrong);
    let names = sides.target.database("kept").list_collection_names().await.unwrap();
    assert_eq!(names, ["others"]);
    run_once(&sides, OnRuleError::Skip).await;
    let names = sides.target.database("kept").list_collection_names().await.unwrap();
    assert!(names.is_empty(), "{names:?}");
    change(&sides.source(NAME)).await;
    let summary = cut_over(start(&sides, letters("kept.letters")).await.unwrap()).await;
    let (right, wrong) = right_and_wrong(&sides).await;
    assert_eq!(documents(&sides.target(NAME)).await, right);
    assert_eq!(kept(&sides, "kept.letters").await, wrong);
    assert_eq!(
        summary.collections[0].rules.as_ref().unwrap().failed,
        wrong.len() as u64
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_left_out_earlier_end_a_run_that_may_not_fail() {
    let sides = sides().await;
    run_once(&sides, letters("kept.letters")).await;
    let run = start(&sides, OnRuleError::Fail).await.unwrap();
    let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rule);
    let text = error.to_string();
    assert!(
        text.contains("the price is no number") && text.contains("`prices`"),
        "{text}"
    );
    assert!(
        text.contains("left out by an earlier start") && !text.contains("secret"),
        "{text}"
    );
    let prices = doc! { "price": { "$type": "string" } };
    let set = doc! { "$set": { "price": 1 } };
    sides.source(NAME).update_many(prices, set).await.unwrap();
    let summary = cut_over(start(&sides, OnRuleError::Fail).await.unwrap()).await;
    assert_eq!(summary.collections[0].rules.as_ref().unwrap().failed, 0);
    let all = documents(&sides.source(NAME)).await;
    assert_eq!(documents(&sides.target(NAME)).await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_not_dropped_with_what_others_keep() {
    let sides = sides().await;
    run_once(&sides, letters("kept.letters")).await;
    let others = doc! { "_id": { "ns": NAME, "id": "others" }, "of": "others" };
    sides.target("kept.letters").insert_one(&others).await.unwrap();
    let before = documents(&sides.target("kept.letters")).await;
    let run = start(&sides, OnRuleError::Skip).await.unwrap();
    let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("kept.letters"), "{error}");
    assert_eq!(documents(&sides.target("kept.letters")).await, before);
    sides.target("kept.letters").delete_one(others).await.unwrap();
    run_once(&sides, OnRuleError::Skip).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_later_start_leave_what_others_keep() {
    let sides = sides().await;
    run_once(&sides, OnRuleError::Skip).await;
    let others = doc! { "_id": { "ns": NAME, "id": 1 }, "of": "others" };
    sides.target("kept.letters").insert_one(&others).await.unwrap();
    let run = start(&sides, letters("kept.letters")).await.unwrap();
    let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("kept.letters"), "{error}");
    assert_eq!(documents(&sides.target("kept.letters")).await, [others]);
    run_once(&sides, letters("kept.mine")).await;
    assert_eq!(kept(&sides, "kept.mine").await.len(), 4);
}
