use futures::{StreamExt, TryStreamExt, stream};
use mongodb::{
    Client,
    bson::{Binary, Bson, DateTime, Decimal128, Document, doc, oid::ObjectId, spec::BinarySubtype},
    options::WriteConcern,
};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use crate::TestbedError;

/// The database that the workload uses.
pub const DATABASE: &str = "shop";

/// Documents per insert command of [`load`].
const BATCH: u64 = 1000;

/// Collections by their share of the documents, in percent.
const SHARES: [(&str, u64); 6] = [
    ("orders", 50),
    ("customers", 15),
    ("products", 10),
    ("events", 15),
    ("mixed", 5),
    ("audit", 5),
];

/// Makes the shop's collections, indexes and view, and inserts `documents` documents in all, the same for the same
/// `seed`.
///
/// `orders` (nested documents and arrays; multikey and partial indexes), `customers` (unique email, validator, index
/// with a collation), `products` (text, 2dsphere and wildcard indexes), `events` (compound, hashed and TTL indexes),
/// `mixed` (an `_id` of every type), `audit` (capped, so the oldest go) and the view `open_orders`.
///
/// # Errors
///
/// [`TestbedError::Server`] when the server refuses something, for instance because the collections exist.
pub async fn load(client: &Client, documents: u64, seed: u64) -> Result<(), TestbedError> {
    let database = client.database(DATABASE);
    for command in collections() {
        database
            .run_command(command)
            .await
            .map_err(TestbedError::server("making the shop's collections"))?;
    }
    for (name, share) in SHARES {
        let collection = database.collection::<Document>(name);
        let count = (documents * share / 100).max(1);
        let batches = stream::iter((0..count).step_by(BATCH as usize)).map(|first| {
            let mut random = SmallRng::seed_from_u64(seed ^ (first << 8) ^ share);
            let batch: Vec<Document> = (first..(first + BATCH).min(count))
                .map(|number| document(name, LOADED, number, &mut random))
                .collect();
            let collection = collection.clone();
            async move {
                let insert = collection.insert_many(batch).write_concern(WriteConcern::nodes(1));
                insert
                    .await
                    .map(drop)
                    .map_err(TestbedError::server(format!("inserting into {name}")))
            }
        });
        // One after the other in the capped collection, whose order counts.
        let parallel = if name == "audit" { 1 } else { 2 };
        batches.buffer_unordered(parallel).try_collect::<()>().await?;
    }
    // What was written above is durable with this.
    let marker = database.collection::<Document>("counters");
    marker
        .insert_one(doc! { "_id": "loaded", "documents": documents as i64, "seed": seed as i64 })
        .write_concern(WriteConcern::majority())
        .await
        .map(drop)
        .map_err(TestbedError::server("inserting into counters"))
}

/// Makes the time-series collection `readings` in the shop's database, for servers from 5.0 on, and inserts `documents`
/// documents into it, the same for the same `seed`.
///
/// # Errors
///
/// [`TestbedError::Server`] when the server refuses something, for instance because it is too old.
pub async fn load_readings(client: &Client, documents: u64, seed: u64) -> Result<(), TestbedError> {
    let database = client.database(DATABASE);
    let options = doc! { "timeField": "at", "metaField": "room", "granularity": "minutes" };
    database
        .run_command(doc! { "create": "readings", "timeseries": options })
        .await
        .map_err(TestbedError::server("making the time series"))?;
    let mut random = SmallRng::seed_from_u64(seed);
    let readings = database.collection::<Document>("readings");
    for first in (0..documents).step_by(BATCH as usize) {
        let batch = (first..(first + BATCH).min(documents)).map(|number| {
            doc! {
                "at": DateTime::from_millis(1_700_000_000_000 + number as i64 * 1000),
                "room": { "floor": (number % 5) as i32, "door": *pick(&mut random, &WORDS[..4]) },
                "celsius": f64::from(random.random_range(150..250)) / 10.0,
            }
        });
        readings
            .insert_many(batch)
            .await
            .map_err(TestbedError::server("inserting into readings"))?;
    }
    Ok(())
}

fn collections() -> Vec<Document> {
    vec![
        doc! { "create": "orders" },
        doc! { "createIndexes": "orders", "indexes": [
            { "key": { "customer": 1, "placed": -1 }, "name": "customer_placed" },
            { "key": { "items.sku": 1 }, "name": "items_sku" },
            { "key": { "total": 1 }, "name": "open_total", "partialFilterExpression": { "status": "open" } },
        ] },
        doc! { "create": "customers", "validator": { "$jsonSchema": {
            "required": ["email", "name"], "properties": { "email": { "bsonType": "string" } },
        } }, "validationLevel": "moderate" },
        doc! { "createIndexes": "customers", "indexes": [
            { "key": { "email": 1 }, "name": "email", "unique": true },
            { "key": { "address.city": 1 }, "name": "city", "collation": { "locale": "en", "strength": 2 } },
            { "key": { "phone": 1 }, "name": "phone", "sparse": true },
        ] },
        doc! { "create": "products" },
        doc! { "createIndexes": "products", "indexes": [
            { "key": { "name": "text", "description": "text" }, "name": "words", "weights": { "name": 5 } },
            { "key": { "location": "2dsphere" }, "name": "location" },
            { "key": { "attributes.$**": 1 }, "name": "attributes" },
        ] },
        doc! { "create": "events" },
        doc! { "createIndexes": "events", "indexes": [
            { "key": { "kind": 1, "at": -1 }, "name": "kind_at" },
            { "key": { "customer": "hashed" }, "name": "customer_hashed" },
            { "key": { "expires": 1 }, "name": "expires", "expireAfterSeconds": 0 },
        ] },
        doc! { "create": "mixed" },
        doc! { "create": "audit", "capped": true, "size": 4 * 1024 * 1024 },
        doc! { "create": "open_orders", "viewOn": "orders", "pipeline": [
            { "$match": { "status": "open" } }, { "$project": { "customer": 1, "total": 1 } },
        ] },
    ]
}

/// Who inserted a document, as part of its `_id`: the load, or one run of a writer.
pub(super) type Origin = u32;

/// The load.
pub(super) const LOADED: Origin = 0;

/// The `_id` of a document of one of the shop's collections.
pub(super) fn id(collection: &str, origin: Origin, number: u64) -> Bson {
    match collection {
        "customers" => Bson::Int64((i64::from(origin) << 40) + number as i64),
        "products" => Bson::String(format!("P{origin}-{number:07}")),
        "mixed" => mixed_id(origin, number),
        _ => {
            let mut bytes = [0; 12];
            bytes[..4].copy_from_slice(&(1_700_000_000 + number as u32).to_be_bytes());
            bytes[4..8].copy_from_slice(&origin.to_be_bytes());
            bytes[8..].copy_from_slice(&(number as u32).to_be_bytes());
            Bson::ObjectId(ObjectId::from_bytes(bytes))
        }
    }
}

/// Distinct for each origin and number, also where types compare as equal, such as 1 and 1.0.
fn mixed_id(origin: Origin, number: u64) -> Bson {
    let whole = (i64::from(origin) << 40) + number as i64;
    match number % 9 {
        0 => Bson::Int64(whole),
        1 => Bson::Double(whole as f64 + 0.5),
        2 => format!("{whole}.25")
            .parse::<Decimal128>()
            .map_or(Bson::Int64(whole), Bson::Decimal128),
        3 => Bson::String(format!("{origin}/{number}")),
        4 => id("orders", origin, number),
        5 => Bson::DateTime(DateTime::from_millis(whole)),
        6 => Bson::Document(doc! { "shelf": i64::from(origin), "place": { "row": number as i64 } }),
        7 => Bson::Binary(Binary {
            subtype: BinarySubtype::Generic,
            bytes: whole.to_be_bytes().to_vec(),
        }),
        _ => Bson::Int32(-((number % 1_000_000) as i32) - (origin as i32 % 2000) * 1_000_000),
    }
}

/// A document of one of the shop's collections.
pub(super) fn document(collection: &str, origin: Origin, number: u64, random: &mut SmallRng) -> Document {
    let fields = match collection {
        "orders" => order(random),
        "customers" => customer(origin, number, random),
        "products" => product(random),
        "events" => event(random),
        "mixed" => doc! { "value": random.random::<i32>(), "note": words(random, 6) },
        _ => doc! { "at": time(random), "who": words(random, 1), "what": words(random, 5), "n": number as i64 },
    };
    // `_id` comes first, as the server stores it.
    let mut whole = doc! { "_id": id(collection, origin, number) };
    whole.extend(fields);
    whole
}

fn order(random: &mut SmallRng) -> Document {
    let items: Vec<Document> = (0..random.random_range(1..6)).map(|_| item(random)).collect();
    doc! {
        "customer": random.random_range(0..10_000_i64),
        "placed": time(random),
        "status": *pick(random, &["open", "paid", "sent", "done"]),
        "items": items,
        "total": f64::from(random.random_range(100..100_000)) / 100.0,
        "shipping": { "address": address(random), "method": *pick(random, &["post", "courier"]), "steps": [] },
        "note": words(random, 12),
        "flags": { "gift": random.random_bool(0.2), "priority": random.random_range(0..3) },
    }
}

pub(super) fn item(random: &mut SmallRng) -> Document {
    doc! {
        "sku": format!("P0-{:07}", random.random_range(0..10_000)),
        "quantity": random.random_range(1..10),
        "price": f64::from(random.random_range(100..10_000)) / 100.0,
    }
}

fn customer(origin: Origin, number: u64, random: &mut SmallRng) -> Document {
    let mut customer = doc! {
        "email": format!("{}.{number}@{origin}.example", pick(random, &WORDS)),
        "name": { "first": words(random, 1), "last": words(random, 1) },
        "address": address(random),
        "points": random.random_range(0..1000_i64),
        "tags": [*pick(random, &WORDS), *pick(random, &WORDS)],
    };
    if random.random_bool(0.3) {
        customer.insert(
            "phone",
            format!("+{}", random.random_range(100_000_000_u64..999_999_999)),
        );
    }
    customer
}

fn product(random: &mut SmallRng) -> Document {
    let longitude = random.random_range(-179.0..179.0);
    doc! {
        "name": words(random, 3),
        "description": words(random, 30),
        "location": { "type": "Point", "coordinates": [longitude, random.random_range(-85.0..85.0)] },
        "stock": random.random_range(0..500),
        "attributes": { *pick(random, &WORDS): words(random, 1), "weight": random.random_range(0.1..50.0) },
        "thumbnail": Binary { subtype: BinarySubtype::Generic, bytes: (0..64).map(|_| random.random()).collect() },
    }
}

fn event(random: &mut SmallRng) -> Document {
    // In the 22nd century: an expiry would change the data after the writers stopped.
    let expires = DateTime::from_millis(4_102_444_800_000 + random.random_range(1..100) * 86_400_000);
    doc! {
        "kind": *pick(random, &["view", "search", "basket", "login"]),
        "at": time(random),
        "customer": random.random_range(0..10_000_i64),
        "expires": expires,
        "data": { "path": words(random, 2), "ms": random.random_range(1..2000) },
    }
}

fn address(random: &mut SmallRng) -> Document {
    doc! { "street": words(random, 2), "city": words(random, 1), "zip": random.random_range(10_000..99_999) }
}

fn time(random: &mut SmallRng) -> DateTime {
    DateTime::from_millis(random.random_range(1_600_000_000_000..1_750_000_000_000))
}

/// `count` words with spaces between them.
pub(super) fn words(random: &mut SmallRng, count: usize) -> String {
    (0..count).map(|_| *pick(random, &WORDS)).collect::<Vec<_>>().join(" ")
}

/// One of the choices, of which there is one at least.
pub(super) fn pick<'a, T>(random: &mut SmallRng, choices: &'a [T]) -> &'a T {
    choices.choose(random).unwrap_or(&choices[0])
}

const WORDS: [&str; 40] = [
    "amber", "anchor", "basket", "birch", "bottle", "button", "candle", "canvas", "cedar", "chair", "clock", "copper",
    "cotton", "crystal", "feather", "garden", "glass", "hammer", "harbour", "iron", "ivory", "kettle", "lantern",
    "leather", "linen", "marble", "mirror", "needle", "olive", "paper", "pepper", "pillow", "ribbon", "saddle",
    "silver", "thimble", "timber", "velvet", "walnut", "window",
];
