//! Documents for which a transform fails.

use bson::raw::RawDocument;
use mongoferry::rules::{DeltaEffect, RuleError, RuleIdentity, TouchedFields, Transform, Transformed};
use mongoferry::{ErrorKind, ExistingData, FindingCode, MigrationBuilder, Namespace, OnRuleError, Severity};

use super::*;

pub(super) const NAME: &str = "shop.orders";

/// Fails for documents whose price is no number, or panics.
pub(super) struct Prices {
    pub(super) panics: bool,
}

impl Transform for Prices {
    fn identity(&self) -> RuleIdentity {
        RuleIdentity::new("prices", "1")
    }

    fn apply(&self, _: &Namespace, document: &RawDocument) -> Result<Transformed, RuleError> {
        match document.get_i32("price") {
            Ok(_) => Ok(Transformed::Keep),
            Err(_) if self.panics => panic!("a secret"),
            Err(_) => Err(RuleError::failed("the price is no number")),
        }
    }

    fn delta(&self, _: &Namespace, touched: &TouchedFields<'_>) -> DeltaEffect {
        match touched.contains("price") {
            true => DeltaEffect::Image,
            false => DeltaEffect::Forward,
        }
    }
}

fn orders() -> Vec<Document> {
    (0..20)
        .map(|id| match id % 5 {
            0 => doc! { "_id": id, "price": "secret", "n": 0 },
            _ => doc! { "_id": id, "price": id, "n": 0 },
        })
        .collect()
}

/// Some of the documents have no price that is a number.
pub(super) async fn sides() -> Sides {
    let sides = Sides::start(Version::V6_0).await;
    sides.source(NAME).insert_many(orders()).await.unwrap();
    sides
}

/// Preflight finds no document for which the transform fails, and then there is one.
async fn fails(panics: bool) -> mongoferry::Error {
    let sides = Sides::start(Version::V6_0).await;
    sides
        .source(NAME)
        .insert_many(orders().into_iter().filter(is_right))
        .await
        .unwrap();
    let builder = sides.builder().await.transform(NAME, Prices { panics });
    let policy = OnRuleError::Skip;
    let builder = if panics { builder.on_rule_error(policy) } else { builder };
    let run = builder.build().unwrap().start().await.unwrap();
    timeout(DEADLINE, run.ready_to_cut_over()).await.unwrap().unwrap();
    let set = doc! { "$set": { "price": "secret" } };
    sides.source(NAME).update_one(doc! { "_id": 1 }, set).await.unwrap();
    let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
    let text = format!("{error:#} {error:?}");
    assert!(!text.contains("secret"), "{text}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_transform_ends_the_run() {
    let error = fails(false).await;
    assert_eq!(error.kind(), ErrorKind::Rule);
    assert!(error.to_string().contains("the price is no number"), "{error}");
    assert!(error.to_string().contains("`prices`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_a_transform_ends_the_run() {
    let error = fails(true).await;
    assert_eq!(error.kind(), ErrorKind::Rule);
    assert!(error.to_string().contains("panicked"), "{error}");
}

/// Makes documents fail, and others not, in all the ways in which they can.
pub(super) async fn change(orders: &Collection<Document>) {
    let set = |id: i32, set: Document| async move {
        orders
            .update_one(doc! { "_id": id }, doc! { "$set": set })
            .await
            .unwrap()
    };
    set(0, doc! { "price": 7 }).await;
    set(1, doc! { "price": "secret" }).await;
    set(5, doc! { "n": 1 }).await;
    set(6, doc! { "n": 1 }).await;
    orders.delete_one(doc! { "_id": 10 }).await.unwrap();
    orders
        .replace_one(doc! { "_id": 15 }, doc! { "price": 3 })
        .await
        .unwrap();
    orders
        .replace_one(doc! { "_id": 16 }, doc! { "price": "secret" })
        .await
        .unwrap();
    orders.insert_one(doc! { "_id": 100, "price": "secret" }).await.unwrap();
    orders.insert_one(doc! { "_id": 101, "price": 1 }).await.unwrap();
}

/// Whether the transform has a result.
pub(super) fn is_right(document: &Document) -> bool {
    document.get_i32("price").is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_documents_are_counted() {
    let sides = sides().await;
    let start = async || {
        let builder = sides.builder().await.transform(NAME, Prices { panics: false });
        let migration = builder.on_rule_error(OnRuleError::Skip).build().unwrap();
        migration.start().await.unwrap()
    };
    let run = start().await;
    timeout(DEADLINE, run.ready_to_cut_over()).await.unwrap().unwrap();
    assert_eq!(run.status().rule_failures, 4);
    change(&sides.source(NAME)).await;
    drop(run);
    let summary = cut_over(start().await).await;
    let wanted: Vec<_> = documents(&sides.source(NAME))
        .await
        .into_iter()
        .filter(is_right)
        .collect();
    assert_eq!(documents(&sides.target(NAME)).await, wanted);
    assert_eq!(summary.collections[0].rules.as_ref().unwrap().failed, 4);
}

/// A migration that keeps dead letters in `kept.letters`.
async fn with_letters(sides: &Sides) -> MigrationBuilder {
    let letters = OnRuleError::DeadLetter("kept.letters".parse().unwrap());
    sides
        .builder()
        .await
        .transform(NAME, Prices { panics: false })
        .exclude("kept.*")
        .on_rule_error(letters)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_the_documents_that_failed() {
    let sides = sides().await;
    let start = async || with_letters(&sides).await.build().unwrap().start().await.unwrap();
    let run = start().await;
    timeout(DEADLINE, run.ready_to_cut_over()).await.unwrap().unwrap();
    assert_eq!(documents(&sides.target("kept.letters")).await.len(), 4);
    change(&sides.source(NAME)).await;
    drop(run);
    let summary = cut_over(start().await).await;
    assert_eq!(summary.collections[0].rules.as_ref().unwrap().failed, 4);
    let (right, wrong): (Vec<_>, Vec<_>) = documents(&sides.source(NAME)).await.into_iter().partition(is_right);
    assert_eq!(documents(&sides.target(NAME)).await, right);
    let letters = documents(&sides.target("kept.letters")).await;
    let kept: Vec<_> = letters
        .iter()
        .map(|letter| letter.get_document("document").unwrap())
        .collect();
    assert_eq!(kept, wrong.iter().collect::<Vec<_>>());
    for letter in &letters {
        assert_eq!(letter.get_document("_id").unwrap().get_str("ns").unwrap(), NAME);
        assert_eq!(letter.get_str("reason").unwrap(), "the price is no number");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_not_kept_under_a_migrated_name() {
    let sides = Sides::start(Version::V6_0).await;
    let builder = sides
        .builder()
        .await
        .on_rule_error(OnRuleError::DeadLetter("shop.x".parse().unwrap()));
    let error = builder.build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfiguration);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_not_written_to_what_others_keep() {
    let sides = sides().await;
    let others = doc! { "_id": { "ns": NAME, "id": 1 }, "of": "others" };
    sides.target("kept.letters").insert_one(&others).await.unwrap();
    let migration = with_letters(&sides)
        .await
        .existing_data(ExistingData::Clear)
        .build()
        .unwrap();
    let plan = migration.preflight().await.unwrap();
    let found = plan
        .findings
        .iter()
        .find(|finding| finding.code == FindingCode::ExistingData);
    assert_eq!(found.unwrap().severity, Severity::Blocker);
    assert_eq!(migration.start().await.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(documents(&sides.target("kept.letters")).await, [others]);
}
