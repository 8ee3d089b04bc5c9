//! Random writes under a filter and field rules, with a process that is killed and elections on both sides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bson::doc;
use mongoferry::{MigrationBuilder, MigrationHandle};
use mongoferry_testbed::wait_until;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;

const NAME: &str = "shop.orders";
const PLAIN: &str = "shop.plain";

/// `_id`s that documents can have.
const IDS: i32 = 3000;

const WRITERS: u64 = 3;

fn rules(builder: MigrationBuilder) -> MigrationBuilder {
    let wanted = doc! { "$or": [{ "state": "open", "year": { "$gte": 2020 } }, { "tags": "always" }] };
    builder
        .filter(NAME, wanted)
        .transform(NAME, without_notes())
        .chunk_bytes(64 << 10)
        .cross_check_bytes(0)
}

/// The document on the target.
fn expected(document: &Document) -> Option<Document> {
    let has_tag = document
        .get_array("tags")
        .is_ok_and(|tags| tags.iter().any(|tag| tag.as_str() == Some("always")));
    let is_open = document.get_str("state").is_ok_and(|state| state == "open")
        && document.get_i32("year").is_ok_and(|year| year >= 2020);
    (has_tag || is_open).then(|| without_note(document))
}

fn order(random: &mut StdRng, id: i32) -> Document {
    let mut order = doc! { "_id": id };
    if random.random_bool(0.8) {
        order.insert("note", "n".repeat(random.random_range(0..200)));
    }
    order.insert("state", ["open", "done", "late"][random.random_range(0..3)]);
    order.insert("mail", format!("{}@example.org", random.random_range(0..100)));
    order.insert("year", random.random_range(2015..2026));
    if random.random_bool(0.3) {
        order.insert(
            "tags",
            ["always", "never"]
                .map(|tag| tag[..random.random_range(4..6)].to_owned())
                .to_vec(),
        );
    }
    order.insert(
        "lines",
        vec![doc! { "price": 1 }, doc! { "price": random.random_range(0..50) }],
    );
    order
}

fn update(random: &mut StdRng) -> Document {
    let number = random.random_range(0..1000);
    let (state, step, tag) = match random.random_bool(0.5) {
        true => ("open", 3, "always"),
        false => ("done", -3, "other"),
    };
    match random.random_range(0..14) {
        0 => doc! { "$set": { "state": state } },
        1 => doc! { "$inc": { "year": step } },
        2 => doc! { "$set": { "note": number } },
        3 => doc! { "$unset": { "note": "" } },
        4 => doc! { "$set": { "mail": number } },
        5 => doc! { "$unset": { "mail": "", "state": "" } },
        6 => doc! { "$push": { "tags": tag } },
        7 => doc! { "$pop": { "tags": -1 } },
        8 => doc! { "$set": { "lines.1.price": number, "lines.0.count": 1 } },
        9 => doc! { "$set": { "other": number, "new": { "x": number } } },
        10 => doc! { "$unset": { "other": "" }, "$set": { "new.x": number } },
        11 => doc! { "$rename": { "other": "mail" } },
        12 => doc! { "$set": { "note": { "deep": number }, "other": number } },
        _ => doc! { "$inc": { "count": 1 } },
    }
}

async fn write(client: Client, seed: u64, stop: Arc<AtomicBool>) {
    let mut random = StdRng::seed_from_u64(seed);
    let orders = collection(&client, NAME);
    let plain = collection(&client, PLAIN);
    while !stop.load(Ordering::Relaxed) {
        let id = random.random_range(0..IDS);
        let found = doc! { "_id": id };
        // What fails, such as an insert of an `_id` that is taken, or an election, is not done.
        let _ = match random.random_range(0..12) {
            0 => orders.insert_one(order(&mut random, id)).await.map(drop),
            1 => orders.delete_one(found).await.map(drop),
            2 => {
                let order = order(&mut random, id);
                orders.replace_one(found, order).upsert(true).await.map(drop)
            }
            3 => transaction(&client, &mut random).await,
            4 => plain.update_one(found, update(&mut random)).await.map(drop),
            _ => orders.update_one(found, update(&mut random)).await.map(drop),
        };
    }
}

/// Several changes of the same documents at one position.
async fn transaction(client: &Client, random: &mut StdRng) -> mongodb::error::Result<()> {
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    let orders = collection(client, NAME);
    let id = random.random_range(0..IDS);
    for _ in 0..random.random_range(1..5) {
        let found = doc! { "_id": id };
        orders.update_one(found, update(random)).session(&mut session).await?;
    }
    orders.delete_one(doc! { "_id": id + 1 }).session(&mut session).await?;
    session.commit_transaction().await
}

async fn start(sides: &Sides) -> MigrationHandle {
    rules(sides.builder().await).build().unwrap().start().await.unwrap()
}

async fn moves_on(run: &MigrationHandle) {
    let before = run.status().source_position;
    wait_until(DEADLINE, "the watermark to move on", async || {
        let status = run.status();
        status.position > before && status.position.is_some()
    })
    .await
    .unwrap();
}

async fn random_writes_arrive(version: Version) {
    let sides = Sides::start(version).await;
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for name in [NAME, PLAIN] {
        let orders = (0..IDS).filter(|id| id % 3 > 0).map(|id| order(&mut random, id));
        let orders: Vec<_> = orders.collect();
        sides.source(name).insert_many(orders).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<JoinHandle<()>> = (0..WRITERS)
        .map(|writer| {
            tokio::spawn(write(
                sides.source.clone(),
                seed.wrapping_add(writer),
                Arc::clone(&stop),
            ))
        })
        .collect();
    let mut run = start(&sides).await;
    for round in 0..4 {
        sleep(Duration::from_millis(random.random_range(0..700))).await;
        match round {
            0 | 2 => {
                drop(run);
                run = start(&sides).await;
            }
            1 => sides.target_set.step_down().await.unwrap(),
            _ => sides.source_set.step_down().await.unwrap(),
        }
        moves_on(&run).await;
    }
    timeout(DEADLINE, run.ready_to_cut_over()).await.unwrap().unwrap();
    let stop_writes = async {
        stop.store(true, Ordering::Relaxed);
        futures::future::join_all(writers).await;
    };
    let summary = timeout(DEADLINE, run.cutover(stop_writes)).await.unwrap().unwrap();
    let source = documents(&sides.source(NAME)).await;
    let wanted: Vec<_> = source.iter().filter_map(expected).collect();
    assert!(
        wanted.len() > 100 && wanted.len() < source.len() - 100,
        "{} documents",
        wanted.len()
    );
    assert_same(&documents(&sides.target(NAME)).await, &wanted);
    assert_same(
        &documents(&sides.target(PLAIN)).await,
        &documents(&sides.source(PLAIN)).await,
    );
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
}

/// Field order included.
fn assert_same(found: &[Document], wanted: &[Document]) {
    let bytes = |document: &Document| bson::serialize_to_vec(document).unwrap();
    for (found, wanted) in found.iter().zip(wanted) {
        assert!(bytes(found) == bytes(wanted), "{found} instead of {wanted}");
    }
    assert_eq!(found.len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn random_writes_arrive_under_rules_4_2() {
    random_writes_arrive(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_writes_arrive_under_rules_4_4() {
    random_writes_arrive(Version::V4_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_writes_arrive_under_rules_5_0() {
    random_writes_arrive(Version::V5_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_writes_arrive_under_rules_6_0() {
    random_writes_arrive(Version::V6_0).await;
}
