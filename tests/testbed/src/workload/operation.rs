//! What the shop's application does: planned as data, so that the same operation can be tried again.

use mongodb::{
    ClientSession, Database,
    bson::{Bson, Document, doc},
    error::{Error, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT},
    options::UpdateModifications,
};
use rand::{Rng, rngs::SmallRng};

use super::shop::{self, LOADED, Origin, document, item, pick, words};

/// One operation of the application.
pub(super) enum Operation {
    Insert {
        collection: &'static str,
        documents: Vec<Document>,
    },
    Update {
        collection: &'static str,
        filter: Document,
        update: UpdateModifications,
        options: Update,
    },
    Replace {
        collection: &'static str,
        filter: Document,
        replacement: Document,
    },
    Delete {
        collection: &'static str,
        filter: Document,
    },
    FindAndModify {
        collection: &'static str,
        filter: Document,
        update: Document,
    },
    /// All or nothing, and nothing where `abort` is set.
    Transaction {
        steps: Vec<Operation>,
        abort: bool,
    },
    /// A change of structure, on the database of the name.
    Command {
        database: &'static str,
        command: Document,
    },
}

/// How an update is done.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Update {
    One,
    Many,
    Upsert,
}

/// What a writer has inserted so far, by collection.
#[derive(Default)]
pub(super) struct Inserted {
    pub(super) orders: u64,
    pub(super) customers: u64,
    pub(super) products: u64,
    pub(super) mixed: u64,
    pub(super) others: u64,
}

/// What the plans of one writer depend on.
pub(super) struct Plan {
    pub(super) origin: Origin,
    /// How many documents of each the load has made.
    pub(super) loaded: Inserted,
    pub(super) inserted: Inserted,
    /// How many changes of structure were planned so far.
    pub(super) changes: u64,
}

impl Plan {
    /// The next write, with weights that favour updates.
    pub(super) fn write(&mut self, random: &mut SmallRng) -> Operation {
        match random.random_range(0..100) {
            0..14 => self.insert("orders", 1, random),
            14..18 => self.insert("customers", 1, random),
            18..20 => self.insert("products", 1, random),
            20..26 => self.insert("events", 1, random),
            26..30 => self.insert("audit", 1, random),
            30..32 => {
                let count = random.random_range(2..40);
                self.insert("orders", count, random)
            }
            32..72 => self.update_order(random),
            72..76 => {
                let (collection, update) = match random.random_range(0..3) {
                    0 => ("products", doc! { "$inc": { "stock": random.random_range(-5..5) } }),
                    1 => (
                        "products",
                        doc! { "$set": { format!("attributes.{}", words(random, 1)): words(random, 2) } },
                    ),
                    _ => (
                        "customers",
                        doc! { "$addToSet": { "tags": words(random, 1) }, "$inc": { "points": 1_i64 } },
                    ),
                };
                Operation::Update {
                    collection,
                    filter: self.any(collection, random),
                    update: update.into(),
                    options: Update::One,
                }
            }
            76..78 => {
                let customer = random.random_range(0..10_000_i64);
                let filter = doc! { "customer": { "$gte": customer, "$lt": customer + 5 } };
                let update = doc! { "$set": { "flags.audited": words(random, 1) }, "$inc": { "flags.priority": 1 } };
                Operation::Update {
                    collection: "orders",
                    filter,
                    update: update.into(),
                    options: Update::Many,
                }
            }
            78..82 => {
                let filter = self.any("mixed", random);
                let update =
                    doc! { "$set": { "value": random.random::<i32>() }, "$setOnInsert": { "note": "upserted" } };
                Operation::Update {
                    collection: "mixed",
                    filter,
                    update: update.into(),
                    options: Update::Upsert,
                }
            }
            82..87 => self.replace(random),
            87..90 => Operation::FindAndModify {
                collection: "orders",
                filter: self.any("orders", random),
                update: doc! { "$set": { "status": *pick(random, &["open", "paid", "sent", "done"]) } },
            },
            90..95 => self.transaction(random),
            _ => {
                let collection = *pick(random, &["orders", "orders", "orders", "mixed", "products"]);
                Operation::Delete {
                    collection,
                    filter: self.any(collection, random),
                }
            }
        }
    }

    /// The next change of structure: an index and a collection are made, changed and dropped in turn.
    pub(super) fn structural_change(&mut self, random: &mut SmallRng) -> Operation {
        let (round, step) = (self.changes / 6, self.changes % 6);
        self.changes += 1;
        let name = format!("returns_{}_{round}", self.origin);
        let renamed = format!("{name}_closed");
        let index = format!("extra_{}_{round}", self.origin);
        let database = shop::DATABASE;
        let command = match step {
            0 => {
                // With its own name in the key: two indexes of the same key cannot be.
                let key =
                    doc! { *pick(random, &["shipping.method", "placed", "flags.priority", "note"]): 1, &index: 1 };
                doc! { "createIndexes": "orders", "indexes": [{ "key": key, "name": index }] }
            }
            // By an insert, as most collections come to be.
            1 => {
                let returns: Vec<Document> = (0..20)
                    .map(|number| doc! { "_id": number, "reason": words(random, 4) })
                    .collect();
                doc! { "insert": name, "documents": returns, "ordered": false }
            }
            2 => doc! { "createIndexes": name, "indexes": [{ "key": { "reason": 1 }, "name": "reason" }] },
            3 => {
                let (from, to) = (format!("{database}.{name}"), format!("{database}.{renamed}"));
                return Operation::Command {
                    database: "admin",
                    command: doc! { "renameCollection": from, "to": to },
                };
            }
            4 => doc! { "dropIndexes": "orders", "index": index },
            // Every other one stays.
            _ if round % 2 == 0 => doc! { "drop": renamed },
            _ => doc! { "collMod": renamed, "validator": { "reason": { "$type": "string" } } },
        };
        Operation::Command { database, command }
    }

    fn insert(&mut self, collection: &'static str, count: u64, random: &mut SmallRng) -> Operation {
        let origin = self.origin;
        let next = self.inserted.of(collection);
        let documents = (*next..*next + count)
            .map(|number| document(collection, origin, number, random))
            .collect();
        *next += count;
        Operation::Insert { collection, documents }
    }

    fn update_order(&mut self, random: &mut SmallRng) -> Operation {
        let mut filter = self.any("orders", random);
        let update = match random.random_range(0..16) {
            0 => doc! { "$set": { "shipping.address.city": words(random, 1), "status": "paid" } },
            1 => doc! { "$set": { "shipping.carrier": { "name": words(random, 1), "code": random.random::<i32>() } } },
            2 => doc! { "$inc": { "flags.priority": 1, "flags.views": 1_i64 } },
            3 | 4 => doc! { "$push": { "shipping.steps": { "place": words(random, 1), "n": random.random::<i32>() } } },
            5 => doc! { "$push": { "items": { "$each": [item(random), item(random)], "$position": 0, "$slice": 8 } } },
            6 => doc! { "$pull": { "items": { "quantity": { "$lt": 3 } } } },
            7 => doc! { "$pop": { "shipping.steps": -1 } },
            8 => doc! { "$unset": { "note": "", "shipping.carrier": "" } },
            9 => doc! { "$set": { "note": words(random, 8), "flags.gift": true } },
            10 => {
                filter.insert("items.quantity", doc! { "$gt": 4 });
                doc! { "$set": { "items.$.quantity": 1 } }
            }
            11 => {
                filter.insert("items.0", doc! { "$exists": true });
                doc! { "$set": { "items.0.price": 0.5 }, "$unset": { "items.0.sku": "" } }
            }
            12 => doc! { "$inc": { "items.$[].quantity": 1 }, "$mul": { "total": 1.01 } },
            13 => doc! { "$rename": { "note": "remark" }, "$currentDate": { "changed": true } },
            14 => doc! { "$min": { "total": 5.0 }, "$set": { "stamps": { words(random, 1): 1, words(random, 1): 2 } } },
            _ => {
                let stages = vec![
                    doc! { "$set": { "total": { "$sum": "$items.price" } } },
                    doc! { "$set": { "first": { "$arrayElemAt": ["$items.sku", 0] } } },
                    doc! { "$unset": "flags.gift" },
                ];
                return Operation::Update {
                    collection: "orders",
                    filter,
                    update: stages.into(),
                    options: Update::One,
                };
            }
        };
        Operation::Update {
            collection: "orders",
            filter,
            update: update.into(),
            options: Update::One,
        }
    }

    fn replace(&mut self, random: &mut SmallRng) -> Operation {
        let collection = *pick(random, &["orders", "products", "events"]);
        let filter = self.any(collection, random);
        let mut replacement = document(collection, self.origin, 0, random);
        replacement.remove("_id");
        Operation::Replace {
            collection,
            filter,
            replacement,
        }
    }

    fn transaction(&mut self, random: &mut SmallRng) -> Operation {
        let points = random.random_range(1..50_i64);
        let transfer = [-points, points].map(|points| Operation::Update {
            collection: "customers",
            filter: self.any("customers", random),
            update: doc! { "$inc": { "points": points } }.into(),
            options: Update::One,
        });
        let mut steps: Vec<Operation> = transfer.into();
        let count = random.random_range(1..5);
        steps.push(self.insert("orders", count, random));
        steps.push(self.insert("events", 1, random));
        // The same documents again: their changes within the transaction have an order.
        steps.push(self.update_order(random));
        if random.random_bool(0.5) {
            steps.push(Operation::Delete {
                collection: "mixed",
                filter: self.any("mixed", random),
            });
        }
        Operation::Transaction {
            steps,
            abort: random.random_bool(0.1),
        }
    }

    /// A filter for the `_id` of some document, which may be gone. Some are chosen far more often than others.
    fn any(&mut self, collection: &'static str, random: &mut SmallRng) -> Document {
        let (loaded, own) = (*self.loaded.of(collection), *self.inserted.of(collection));
        let (origin, count) = if own > 0 && random.random_bool(0.4) {
            (self.origin, own)
        } else {
            (LOADED, loaded)
        };
        let number = if random.random_bool(0.2) {
            random.random_range(0..count.clamp(1, 20))
        } else {
            random.random_range(0..count.max(1))
        };
        doc! { "_id": shop::id(collection, origin, number) }
    }
}

impl Inserted {
    pub(super) fn of(&mut self, collection: &str) -> &mut u64 {
        match collection {
            "orders" => &mut self.orders,
            "customers" => &mut self.customers,
            "products" => &mut self.products,
            "mixed" => &mut self.mixed,
            _ => &mut self.others,
        }
    }
}

impl Operation {
    /// Does it once.
    pub(super) async fn run(&self, database: &Database) -> Result<(), Error> {
        match self {
            Operation::Transaction { steps, abort } => {
                let mut session = database.client().start_session().await?;
                session.start_transaction().await?;
                for step in steps {
                    step.run_in(database, &mut session).await?;
                }
                if *abort {
                    return session.abort_transaction().await;
                }
                loop {
                    match session.commit_transaction().await {
                        Err(error)
                            if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT)
                                && !error.contains_label(TRANSIENT_TRANSACTION_ERROR) =>
                        {
                            // The driver has tried twice already; an election takes longer.
                            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                        }
                        result => return result,
                    }
                }
            }
            Operation::Insert { collection, documents } => {
                let collection = database.collection::<Document>(collection);
                match documents.as_slice() {
                    [document] => collection.insert_one(document).await.map(drop),
                    documents => collection.insert_many(documents).await.map(drop),
                }
            }
            Operation::Update {
                collection,
                filter,
                update,
                options,
            } => {
                let collection = database.collection::<Document>(collection);
                let (filter, update) = (filter.clone(), update.clone());
                match options {
                    Update::Many => collection.update_many(filter, update).await.map(drop),
                    _ => collection
                        .update_one(filter, update)
                        .upsert(*options == Update::Upsert)
                        .await
                        .map(drop),
                }
            }
            Operation::Replace {
                collection,
                filter,
                replacement,
            } => {
                let collection = database.collection::<Document>(collection);
                collection.replace_one(filter.clone(), replacement).await.map(drop)
            }
            Operation::Delete { collection, filter } => database
                .collection::<Document>(collection)
                .delete_one(filter.clone())
                .await
                .map(drop),
            Operation::FindAndModify {
                collection,
                filter,
                update,
            } => {
                let collection = database.collection::<Document>(collection);
                collection
                    .find_one_and_update(filter.clone(), update.clone())
                    .await
                    .map(drop)
            }
            Operation::Command {
                database: name,
                command,
            } => {
                let answer = database.client().database(name).run_command(command.clone()).await?;
                // Inserts report what they refused beside `ok: 1`; nothing here is refused but what is there already.
                debug_assert_eq!(answer.get("ok"), Some(&Bson::Double(1.0)));
                Ok(())
            }
        }
    }

    /// The steps that transactions have.
    async fn run_in(&self, database: &Database, session: &mut ClientSession) -> Result<(), Error> {
        match self {
            Operation::Insert { collection, documents } => database
                .collection::<Document>(collection)
                .insert_many(documents)
                .session(session)
                .await
                .map(drop),
            Operation::Update {
                collection,
                filter,
                update,
                ..
            } => {
                let collection = database.collection::<Document>(collection);
                collection
                    .update_one(filter.clone(), update.clone())
                    .session(session)
                    .await
                    .map(drop)
            }
            Operation::Delete { collection, filter } => {
                let collection = database.collection::<Document>(collection);
                collection.delete_one(filter.clone()).session(session).await.map(drop)
            }
            _ => Err(Error::custom("not a step of a transaction")),
        }
    }
}
