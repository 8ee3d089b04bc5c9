//! Options and indexes in the forms in which servers store them: carried over, found to be the same, and named where they cannot be kept.

use std::collections::BTreeMap;

use bson::{Bson, Decimal128, Document, doc};
use futures::TryStreamExt;
use mongodb::Client;
use mongoferry::checkpoint::MemoryStore;
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{
    Certificate, CollectionSettings, ExistingData, IndexPolicy, Migration, MigrationBuilder, NotKept, Outcome,
    Severity, Summary,
};
use mongoferry_testbed::{ReplicaSet, Version};

use super::deadline::{cut_over, ready};
use super::pairs::pairs;

/// The longest expiry of an index.
const LONGEST: i64 = i32::MAX as i64;

struct Pair {
    source: ReplicaSet,
    target: ReplicaSet,
    on_source: Client,
    on_target: Client,
}

impl Pair {
    async fn start(from: Version, to: Version) -> Self {
        let (source, target) = futures::try_join!(
            ReplicaSet::builder(from).start(),
            ReplicaSet::builder(to).name("rs1").start()
        )
        .unwrap();
        let (on_source, on_target) = futures::try_join!(source.client(), target.client()).unwrap();
        Self {
            source,
            target,
            on_source,
            on_target,
        }
    }

    async fn sides(&self) -> (MongoSource, MongoSink) {
        let (from, to) = (self.source.uri(), self.target.uri());
        futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap()
    }

    async fn migration(&self, existing: ExistingData) -> MigrationBuilder {
        let (source, sink) = self.sides().await;
        Migration::builder(source, sink)
            .existing_data(existing)
            .checkpoint_store(MemoryStore::default())
    }
}

async fn run(client: &Client, command: Document) {
    let shown = command.to_string();
    let result = client.database("spec").run_command(command).await;
    result.unwrap_or_else(|error| panic!("{shown}: {error}"));
}

async fn create(client: &Client, name: &str, options: Document) {
    let mut command = doc! { "create": name };
    command.extend(options);
    run(client, command).await;
}

async fn create_index(client: &Client, name: &str, key: Document, fields: Document) {
    let mut index = doc! { "key": key };
    index.extend(fields);
    index.insert("name", "x");
    run(client, doc! { "createIndexes": name, "indexes": [index] }).await;
}

fn of_version_1() -> Document {
    doc! { "idIndex": { "v": 1, "key": { "_id": 1 }, "name": "_id_" } }
}

/// Collections and views with all that a server of this version takes and stores in another form, or that another one does.
fn collections(from: Version) -> Vec<(&'static str, Document)> {
    let mut capped = of_version_1();
    capped.extend(doc! { "capped": true, "size": 5000.5, "max": 0 });
    let mut all = vec![
        ("version_1", of_version_1()),
        ("version_1_capped", capped),
        ("auto_index", doc! { "autoIndexId": true }),
        (
            "validated",
            doc! { "validator": { "a": { "$gt": 5_i64 } }, "validationLevel": "strict" },
        ),
        ("french", doc! { "collation": { "locale": "fr_CA" } }),
        (
            "engine",
            doc! { "storageEngine": { "wiredTiger": {} }, "indexOptionDefaults": { "storageEngine": {} } },
        ),
        (
            "view",
            doc! { "viewOn": "auto_index", "pipeline": [{ "$limit": 3_i64 }], "collation": { "locale": "sv" } },
        ),
    ];
    if from < Version::V5_0 {
        all.push(("capped_0", doc! { "capped": true, "size": 0 }));
    }
    if from < Version::V6_0 {
        all.push(("capped_expiring", doc! { "capped": true, "size": 4096 }));
    }
    if from >= Version::V4_4 {
        all.push(("images", doc! { "recordPreImages": true }));
    }
    if from >= Version::V5_0 {
        all.push((
            "time_series",
            doc! { "timeseries": { "timeField": "t", "metaField": "m" }, "expireAfterSeconds": 1_000_000_000_i64 },
        ));
    }
    if from >= Version::V6_0 {
        all.push((
            "clustered",
            doc! { "clusteredIndex": { "key": { "_id": 1.0 }, "unique": true, "name": "q" }, "expireAfterSeconds": 1e9 },
        ));
    }
    all
}

/// One index a collection.
fn indexes(from: Version) -> Vec<(&'static str, Document, Document)> {
    let a = || doc! { "a": 1 };
    let decimal: Decimal128 = "60".parse().unwrap();
    let mut all = vec![
        ("doubles", doc! { "a": 1.0, "b": -1_i64 }, doc! {}),
        ("old_format", a(), doc! { "v": 1 }),
        ("sparse", a(), doc! { "sparse": 1 }),
        ("not_sparse", a(), doc! { "sparse": false }),
        ("unique", a(), doc! { "unique": 1 }),
        ("background", a(), doc! { "background": 1 }),
        ("expiring", a(), doc! { "expireAfterSeconds": 60.0 }),
        ("expiring_fraction", a(), doc! { "expireAfterSeconds": 60.7 }),
        ("expiring_decimal", a(), doc! { "expireAfterSeconds": decimal }),
        (
            "flat",
            doc! { "a": "2d" },
            doc! { "bits": 20, "min": -100, "max": 100_i64 },
        ),
        ("flat_fraction", doc! { "a": "2d" }, doc! { "bits": 20.5 }),
        (
            "sphere",
            doc! { "a": "2dsphere" },
            doc! { "2dsphereIndexVersion": 2.0, "finestIndexedLevel": 17.0 },
        ),
        (
            "text",
            doc! { "a": "text" },
            doc! { "textIndexVersion": 1, "default_language": "danish" },
        ),
        ("text_expiring", doc! { "a": "text" }, doc! { "expireAfterSeconds": 60 }),
        ("bits", a(), doc! { "bits": 26 }),
        ("sphere_version", a(), doc! { "2dsphereIndexVersion": 3 }),
        ("language", a(), doc! { "default_language": "english" }),
        (
            "wildcard",
            doc! { "$**": 1 },
            doc! { "wildcardProjection": { "a": 1, "b.c": 1.0 } },
        ),
        (
            "partial",
            a(),
            doc! { "partialFilterExpression": { "a": { "$gt": 5_i64 } } },
        ),
        (
            "swedish",
            a(),
            doc! { "collation": { "locale": "sv", "strength": 1.0 } },
        ),
    ];
    if from < Version::V6_0 {
        all.push(("capped_expiring", a(), doc! { "expireAfterSeconds": 60 }));
    }
    if from < Version::V5_0 {
        all.push(("weights", a(), doc! { "weights": { "a": 1 } }));
    }
    all
}

/// What the target cannot keep of these: the collection and the field.
fn expected(from: Version, to: Version) -> Vec<(&'static str, &'static str)> {
    let mut all = vec![
        ("bits", "bits"),
        ("sphere_version", "2dsphereIndexVersion"),
        ("language", "default_language"),
        ("text_expiring", "expireAfterSeconds"),
        ("version_1_later", "v"),
    ];
    if from < Version::V5_0 {
        all.extend([("weights", "weights"), ("hashed", "hashVersion"), ("hashed", "seed")]);
    }
    if from < Version::V6_0 && to >= Version::V6_0 {
        all.push(("capped_expiring", "expireAfterSeconds"));
    }
    all.sort_unstable();
    all
}

fn named(not_kept: &[NotKept]) -> Vec<(&str, &str)> {
    let mut named: Vec<_> = not_kept
        .iter()
        .map(|lost| (lost.namespace.collection(), lost.option.as_str()))
        .collect();
    named.sort_unstable();
    named
}

/// What servers before 3.4 took: their check of names is turned off for that.
async fn make_old_indexes(client: &Client) {
    let unchecked = |mode: &str| doc! { "configureFailPoint": "skipIndexCreateFieldNameValidation", "mode": mode };
    let admin = client.database("admin");
    admin.run_command(unchecked("alwaysOn")).await.unwrap();
    create_index(
        client,
        "hashed",
        doc! { "a": "hashed" },
        doc! { "hashVersion": 0, "seed": 0 },
    )
    .await;
    create_index(client, "safe", doc! { "a": 1 }, doc! { "safe": true }).await;
    admin.run_command(unchecked("off")).await.unwrap();
}

async fn index_of(client: &Client, collection: &str, name: &str) -> Document {
    let database = client.database("spec");
    let indexes = database.run_command(doc! { "listIndexes": collection }).await.unwrap();
    let indexes = indexes.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
    let mut indexes = indexes.iter().filter_map(Bson::as_document);
    let found = indexes.find(|index| index.get_str("name").is_ok_and(|found| found == name));
    found
        .unwrap_or_else(|| panic!("{collection} has no index {name}"))
        .clone()
}

/// The uuid of each collection that is compared by `_id`. Others are copied anew whatever stands there.
async fn uuids(client: &Client) -> BTreeMap<String, Bson> {
    let database = client.database("spec");
    let listed = database.run_cursor_command(doc! { "listCollections": 1 });
    let listed: Vec<Document> = listed.await.unwrap().try_collect().await.unwrap();
    let uuid = |listed: Document| {
        let uuid = listed.get_document("info").ok()?.get("uuid")?.clone();
        let options = listed.get_document("options").ok()?;
        let has_ranges = !options.contains_key("capped") && !options.contains_key("collation");
        has_ranges.then_some((listed.get_str("name").ok()?.to_owned(), uuid))
    };
    listed.into_iter().filter_map(uuid).collect()
}

fn assert_complete(summary: &Summary) {
    let different: Vec<_> = summary
        .collections
        .iter()
        .filter(|it| !it.differences.is_empty())
        .collect();
    let indexes: Vec<_> = summary.indexes.iter().filter(|index| !index.ok).collect();
    assert_eq!(summary.outcome, Outcome::Complete, "{different:#?} {indexes:#?}");
}

async fn carry_over(from: Version, to: Version) {
    let pair = Pair::start(from, to).await;
    for (name, options) in collections(from) {
        create(&pair.on_source, name, options).await;
    }
    for (name, key, fields) in indexes(from) {
        create_index(&pair.on_source, name, key, fields).await;
    }
    if from < Version::V5_0 {
        make_old_indexes(&pair.on_source).await;
        // A server takes this of an index that is there, and not of a new one.
        create_index(
            &pair.on_source,
            "long",
            doc! { "a": 1 },
            doc! { "expireAfterSeconds": 60 },
        )
        .await;
        let long = doc! { "name": "x", "expireAfterSeconds": 1_i64 << 40 };
        run(&pair.on_source, doc! { "collMod": "long", "index": long }).await;
    }

    let migration = pair.migration(ExistingData::Refuse).await.build().unwrap();
    let plan = migration.preflight().await.unwrap();
    assert!(plan.blockers().next().is_none(), "{plan}");
    let handle = migration.start().await.unwrap();
    ready(&handle).await;
    // The source's oplog does not say so, and its own secondaries make another version too.
    create(&pair.on_source, "version_1_later", of_version_1()).await;
    if from < Version::V5_0 {
        let never = doc! { "expireAfterSeconds": f64::NAN };
        create_index(&pair.on_source, "never", doc! { "a": 1 }, never).await;
    }
    let summary = cut_over(&handle).await;
    assert_complete(&summary);
    assert_eq!(named(&summary.not_kept), expected(from, to));
    let at_the_start = |lost: &&NotKept| lost.namespace.collection() != "version_1_later";
    for lost in summary.not_kept.iter().filter(at_the_start) {
        let mut findings = plan.findings.iter();
        let index = format!("{} index {}", lost.namespace, lost.index.as_deref().unwrap_or_default());
        let names = [lost.namespace.to_string(), index];
        let says_so = findings.any(|finding| {
            finding.code == lost.code.as_str() && finding.affected.iter().any(|name| names.contains(name))
        });
        assert!(says_so, "{lost} {plan}");
    }
    let certificate = summary.certificate.as_ref().unwrap();
    assert_eq!(certificate.not_kept, summary.not_kept);
    assert_eq!(
        &Certificate::decode(&certificate.encode().unwrap()).unwrap(),
        certificate
    );
    let (source, sink) = pair.sides().await;
    assert_eq!(certificate.check(&source, &sink).await.unwrap(), [""; 0]);

    for name in ["version_1", "version_1_capped"] {
        let index = index_of(&pair.on_target, name, "_id_").await;
        assert_eq!(index.get_i32("v").unwrap(), 1, "{name}");
    }
    if from < Version::V5_0 {
        for name in ["never", "long"] {
            let seconds = index_of(&pair.on_target, name, "x")
                .await
                .remove("expireAfterSeconds")
                .unwrap();
            let number = seconds.as_i64().or(seconds.as_i32().map(i64::from));
            assert!(number.is_some_and(|number| number >= LONGEST), "{name}: {seconds}");
        }
    }
    keep(&pair, &summary).await;
}

/// Begins anew on top of what stands: nothing of it is made anew, since it is the same.
async fn keep(pair: &Pair, first: &Summary) {
    create(&pair.on_target, "version_2", doc! {}).await;
    create(&pair.on_source, "version_2", of_version_1()).await;
    // NaN has to be told apart before a start, since one release deletes everything by it.
    let _ = pair
        .on_source
        .database("spec")
        .collection::<Document>("never")
        .drop()
        .await;
    let before = uuids(&pair.on_target).await;
    let migration = pair.migration(ExistingData::Keep).await.build().unwrap();
    let plan = migration.preflight().await.unwrap();
    let mut versions = plan
        .findings
        .iter()
        .filter(|finding| finding.code == "id_index_version");
    let of_version_2 = versions.find(|finding| finding.message.contains("`spec.version_2`"));
    assert!(
        of_version_2.is_some_and(|finding| finding.severity == Severity::Note),
        "{plan}"
    );
    let handle = migration.start().await.unwrap();
    ready(&handle).await;
    let summary = cut_over(&handle).await;
    assert_complete(&summary);
    let mut expected = named(&first.not_kept);
    expected.push(("version_2", "v"));
    expected.sort_unstable();
    assert_eq!(named(&summary.not_kept), expected);
    assert_eq!(uuids(&pair.on_target).await, before);
}

pairs! {
    carry_over;
    specifications_from_4_2_to_6_0: V4_2 => V6_0,
    specifications_from_4_4_to_5_0_32: V4_4 => V5_0_32,
    specifications_from_6_0_to_6_0_27: V6_0 => V6_0_27,
    #[ignore = "as its neighbours, on other releases"]
    specifications_from_4_2_to_4_2: V4_2 => V4_2,
    #[ignore = "as its neighbours, on other releases"]
    specifications_from_4_2_to_4_4: V4_2 => V4_4,
    #[ignore = "as its neighbours, on other releases"]
    specifications_from_4_2_to_5_0: V4_2 => V5_0,
    #[ignore = "as its neighbours, on other releases"]
    specifications_from_4_2_to_6_0_27: V4_2 => V6_0_27,
    #[ignore = "as its neighbours, on other releases"]
    specifications_from_5_0_to_5_0_32: V5_0 => V5_0_32,
    #[ignore = "as its neighbours, on other releases"]
    specifications_from_5_0_to_6_0_27: V5_0 => V6_0_27,
    #[ignore = "as its neighbours, on other releases"]
    specifications_from_6_0_to_6_0: V6_0 => V6_0,
}

/// There and back, with commands about indexes that the target does not have.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_are_left_out_stay_away_there_and_back() {
    let pair = Pair::start(Version::V6_0, Version::V6_0).await;
    let source = &pair.on_source;
    let sessions = source.database("spec").collection::<Document>("sessions");
    let documents = (0..100).map(|id| doc! { "_id": id, "at": bson::DateTime::now(), "user": id });
    sessions.insert_many(documents).await.unwrap();
    create_index(
        source,
        "sessions",
        doc! { "at": 1 },
        doc! { "expireAfterSeconds": 3600 },
    )
    .await;
    let user = doc! { "key": { "user": 1 }, "name": "user", "unique": true };
    run(source, doc! { "createIndexes": "sessions", "indexes": [user] }).await;
    let never = CollectionSettings::default().indexes(IndexPolicy::Never);
    let builder = pair.migration(ExistingData::Refuse).await;
    let handle = builder.collection_settings("spec.*", never).build().unwrap();
    let handle = handle.start().await.unwrap();
    ready(&handle).await;
    let expire = doc! { "name": "x", "expireAfterSeconds": 7200 };
    run(source, doc! { "collMod": "sessions", "index": expire }).await;
    run(source, doc! { "dropIndexes": "sessions", "index": "user" }).await;
    let again = doc! { "key": { "user": -1 }, "name": "user" };
    run(source, doc! { "createIndexes": "sessions", "indexes": [again] }).await;
    sessions.delete_one(doc! { "_id": 7 }).await.unwrap();
    let summary = cut_over(&handle).await;
    assert_complete(&summary);
    let left_out = |summary: &Summary| {
        summary
            .not_migrated
            .iter()
            .any(|what| what.contains("the indexes x, user of spec.sessions"))
    };
    assert!(left_out(&summary), "{:?}", summary.not_migrated);
    let names = async |client: &Client| {
        let sessions = client.database("spec").collection::<Document>("sessions");
        sessions.list_index_names().await.unwrap()
    };
    assert_eq!(names(&pair.on_target).await, ["_id_"]);

    let target = pair.on_target.database("spec").collection::<Document>("sessions");
    target
        .insert_one(doc! { "_id": 1000, "at": bson::DateTime::now(), "user": 1000 })
        .await
        .unwrap();
    let (from, to) = (pair.target.uri(), pair.source.uri());
    let (back_source, back_sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
    let back = summary
        .reverse(back_source, back_sink)
        .unwrap()
        .collection_settings("spec.*", never);
    let handle = back.build().unwrap().start().await.unwrap();
    ready(&handle).await;
    let summary = cut_over(&handle).await;
    assert_complete(&summary);
    assert_eq!(names(source).await, ["_id_", "x", "user"]);
    assert_eq!(sessions.count_documents(doc! {}).await.unwrap(), 100);
}
