//! What servers newer than the testbed's list and answer, put into the mouth of one of 6.0.

use bson::{Bson, doc};
use mongoferry::sink::CatalogCommand;
use mongoferry::source::MongoSource;
use mongoferry::{CollectionKind, ErrorKind, Migration, MigrationBuilder, MongoSink, Outcome, Severity, Sink, Source};
use mongoferry_testbed::{Proxy, ReplicaSet, Version};

use super::deadline::{cut_over, ready};

/// Two sets of 6.0, with a collection and a time series on the source, and a proxy before each.
struct Bed {
    source: ReplicaSet,
    target: ReplicaSet,
    before_source: Proxy,
    before_target: Proxy,
}

impl Bed {
    async fn start() -> Self {
        let (source, target) = futures::try_join!(
            ReplicaSet::builder(Version::V6_0).start(),
            ReplicaSet::builder(Version::V6_0).name("rs1").start()
        )
        .unwrap();
        let shop = source.client().await.unwrap().database("shop");
        for command in [
            doc! { "insert": "orders", "documents": [{ "_id": 1 }] },
            doc! { "create": "weather", "timeseries": { "timeField": "t" } },
            doc! { "insert": "weather", "documents": [{ "t": bson::DateTime::from_millis(0), "x": 1 }] },
        ] {
            shop.run_command(command).await.unwrap();
        }
        Self {
            before_source: Proxy::start(source.member_address(0)).await.unwrap(),
            before_target: Proxy::start(target.member_address(0)).await.unwrap(),
            source,
            target,
        }
    }

    async fn migration(&self) -> MigrationBuilder {
        let (from, to) = (
            self.before_source.uri(&self.source),
            self.before_target.uri(&self.target),
        );
        let (source, sink) = futures::try_join!(MongoSource::connect(&from), MongoSink::connect(&to)).unwrap();
        Migration::builder(source, sink)
    }
}

/// Changes what a reply of `listCollections` for the database lists.
fn rewrite_listing(proxy: &Proxy, change: fn(&mut Vec<Bson>)) {
    proxy.rewrite_replies(move |reply| {
        let Ok(cursor) = reply.get_document_mut("cursor") else {
            return;
        };
        if cursor.get_str("ns").is_ok_and(|ns| ns == "shop.$cmd.listCollections")
            && let Ok(listed) = cursor.get_array_mut("firstBatch")
        {
            change(listed);
        }
    });
}

fn is_named(listed: &Bson, name: &str) -> bool {
    listed
        .as_document()
        .is_some_and(|listed| listed.get_str("name").is_ok_and(|found| found == name))
}

/// As 9.0 lists a time-series collection: under its name alone, with its uuid.
fn without_buckets(listed: &mut Vec<Bson>) {
    let Some(buckets) = listed.iter().position(|one| is_named(one, "system.buckets.weather")) else {
        return;
    };
    let buckets = listed.remove(buckets);
    // A listing of names alone shows none.
    let info = buckets.as_document().and_then(|buckets| buckets.get("info").cloned());
    let Some(info) = info else { return };
    for shown in listed.iter_mut().filter(|one| is_named(one, "weather")) {
        shown.as_document_mut().unwrap().insert("info", info.clone());
    }
    listed.retain(|one| !is_named(one, "system.views"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_series_without_buckets_is_blocked_or_left_out() {
    let bed = Bed::start().await;
    rewrite_listing(&bed.before_source, without_buckets);
    let source = MongoSource::connect(&bed.before_source.uri(&bed.source)).await.unwrap();
    let listed = source.collections().await.unwrap();
    let kinds: Vec<_> = listed
        .iter()
        .map(|collection| (collection.namespace.as_str(), collection.kind))
        .collect();
    assert!(
        kinds.contains(&("shop.weather", CollectionKind::TimeSeries)),
        "{kinds:?}"
    );

    let migration = bed.migration().await.build().unwrap();
    let plan = migration.preflight().await.unwrap();
    let blocker = plan
        .findings
        .iter()
        .find(|finding| finding.code == "time_series")
        .unwrap();
    assert_eq!(blocker.severity, Severity::Blocker);
    assert!(blocker.fix.contains(".exclude(\"shop.weather\")"), "{plan}");
    let refused = migration.start().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");

    let migration = bed.migration().await.exclude("shop.weather").build().unwrap();
    let run = migration.start().await.unwrap();
    ready(&run).await;
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert!(
        summary
            .not_migrated
            .iter()
            .any(|left| left == "shop.weather (not selected)"),
        "{:?}",
        summary.not_migrated
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_over_buckets_is_named_as_left_out() {
    let bed = Bed::start().await;
    // As 7.0 to 8.2 list it.
    rewrite_listing(&bed.before_source, |listed| {
        listed.push(
            doc! { "name": "raw_weather", "type": "timeseries", "options": {}, "info": { "readOnly": false } }.into(),
        );
    });
    let migration = bed.migration().await.build().unwrap();
    let named = |all: &[String]| {
        all.iter()
            .any(|left| left == "shop.raw_weather (a view over the buckets of a time-series collection)")
    };
    assert!(named(&migration.preflight().await.unwrap().not_migrated));
    let run = migration.start().await.unwrap();
    ready(&run).await;
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert!(named(&summary.not_migrated), "{:?}", summary.not_migrated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_of_9_0_takes_no_buckets() {
    let bed = Bed::start().await;
    bed.before_target.rewrite_replies(|reply| {
        if reply.contains_key("gitVersion") {
            reply.insert("version", "9.0.0");
            reply.insert("versionArray", [9, 0, 0, 0].map(Bson::Int32).to_vec());
        }
    });
    let plan = bed.migration().await.build().unwrap().preflight().await.unwrap();
    let blocker = plan
        .findings
        .iter()
        .find(|finding| finding.code == "time_series")
        .unwrap();
    assert!(blocker.message.contains("`shop.weather`"), "{plan}");

    // One that is made on the source later.
    let sink = MongoSink::connect(&bed.before_target.uri(&bed.target)).await.unwrap();
    let create = CatalogCommand::Create {
        namespace: "shop.system.buckets.late".parse().unwrap(),
        kind: CollectionKind::TimeSeriesBuckets,
        options: bson::rawdoc! { "timeseries": { "timeField": "t" } },
    };
    let refused = sink.execute(&create).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TargetRefused, "{refused}");
    assert!(refused.to_string().contains(".exclude(\"shop.late\")"), "{refused}");
}
