//! Collections, views and indexes.

use std::pin::pin;
use std::time::{Duration, Instant};

use bson::raw::RawDocumentBuf;
use bson::{doc, rawdoc};
use mongoferry::sink::{CatalogCommand, MongoSink, Sink};
use mongoferry::{Collection, CollectionKind, ErrorKind, Namespace};
use mongoferry_testbed::{Version, wait_until};
use tokio::time::timeout;

use super::{Bench, batch, namespace, on_versions};

on_versions!(collections_are_made_changed_and_dropped);
on_versions!(indexes_are_built_once);
on_versions!(a_build_ends_when_its_index_is_dropped);
on_versions!(time_series_are_made_under_their_own_name: v5_0 V5_0, v6_0 V6_0);

async fn found(sink: &MongoSink, namespace: &Namespace) -> Option<Collection> {
    let collections = sink.collections().await.unwrap();
    collections
        .into_iter()
        .find(|collection| collection.namespace == *namespace)
}

pub(super) fn create(name: &str, kind: CollectionKind, options: RawDocumentBuf) -> CatalogCommand {
    CatalogCommand::Create {
        namespace: namespace(name),
        kind,
        options,
    }
}

async fn collections_are_made_changed_and_dropped(version: Version) {
    let bench = Bench::start(version).await;
    let sink = &bench.sink;
    let plain = rawdoc! {
        "validator": { "a": { "$type": "int" } }, "validationLevel": "strict", "validationAction": "error",
    };
    let capped = rawdoc! { "capped": true, "size": 4096, "max": 5 };
    let collation = rawdoc! { "collation": { "locale": "sv", "strength": 1, "version": "57.1" }, "autoIndexId": true };
    let view = rawdoc! { "viewOn": "plain", "pipeline": [{ "$match": { "a": 1 } }] };
    for _ in 0..2 {
        for command in [
            create("plain", CollectionKind::Plain, plain.clone()),
            create("capped", CollectionKind::Capped, capped.clone()),
            create("names", CollectionKind::Unordered, collation.clone()),
            create("view", CollectionKind::View, view.clone()),
        ] {
            sink.execute(&command).await.unwrap();
        }
    }
    assert_eq!(found(sink, &namespace("plain")).await.unwrap().options, plain);
    assert_eq!(found(sink, &namespace("capped")).await.unwrap().options, capped);
    assert_eq!(
        found(sink, &namespace("names")).await.unwrap().kind,
        CollectionKind::Unordered
    );
    assert_eq!(found(sink, &namespace("view")).await.unwrap().options, view);
    // What is refused by the validator on the target is stored nevertheless, as it was on the source.
    let documents = [rawdoc! { "_id": 1, "a": "not an int" }];
    assert_eq!(sink.insert(&namespace("plain"), &batch(&documents)).await.unwrap(), []);

    let clustered = create(
        "clustered",
        CollectionKind::Clustered,
        rawdoc! { "clusteredIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_", "unique": true } },
    );
    let images = create(
        "images",
        CollectionKind::Plain,
        rawdoc! { "changeStreamPreAndPostImages": { "enabled": true } },
    );
    for (command, option) in [(clustered, "clusteredIndex"), (images, "changeStreamPreAndPostImages")] {
        let result = sink.execute(&command).await;
        if version >= Version::V6_0 {
            result.unwrap();
        } else {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TargetRefused);
            assert!(error.report().contains(option), "{error:#}");
        }
    }
    let disabled = rawdoc! { "changeStreamPreAndPostImages": { "enabled": false }, "recordPreImages": false };
    sink.execute(&create("disabled", CollectionKind::Plain, disabled))
        .await
        .unwrap();

    let modify = CatalogCommand::Modify {
        namespace: namespace("plain"),
        arguments: rawdoc! { "validationLevel": "moderate" },
    };
    let modify_view = CatalogCommand::Modify {
        namespace: namespace("view"),
        arguments: rawdoc! { "viewOn": "names", "pipeline": [] },
    };
    let modify_nothing = CatalogCommand::Modify {
        namespace: namespace("plain"),
        arguments: rawdoc! {},
    };
    let modify_missing = CatalogCommand::Modify {
        namespace: namespace("missing"),
        arguments: rawdoc! { "validationLevel": "off" },
    };
    let wrong = CatalogCommand::Modify {
        namespace: namespace("plain"),
        arguments: rawdoc! { "nonsense": 1 },
    };
    for _ in 0..2 {
        for command in [&modify, &modify_view, &modify_nothing, &modify_missing] {
            sink.execute(command).await.unwrap();
        }
    }
    assert_eq!(sink.execute(&wrong).await.unwrap_err().kind(), ErrorKind::TargetRefused);
    let options = found(sink, &namespace("plain")).await.unwrap().options;
    assert_eq!(options.get_str("validationLevel").unwrap(), "moderate");
    assert_eq!(
        found(sink, &namespace("view"))
            .await
            .unwrap()
            .options
            .get_str("viewOn")
            .unwrap(),
        "names"
    );

    let rename = CatalogCommand::Rename {
        from: namespace("plain"),
        to: namespace("names"),
    };
    let elsewhere = CatalogCommand::Rename {
        from: namespace("names"),
        to: Namespace::new("other", "names"),
    };
    for command in [&rename, &elsewhere] {
        for _ in 0..2 {
            sink.execute(command).await.unwrap();
        }
    }
    assert_eq!(found(sink, &namespace("names")).await, None);
    let moved = found(sink, &Namespace::new("other", "names")).await.unwrap();
    assert_eq!(moved.documents, 1);

    for command in [
        CatalogCommand::Drop {
            namespace: namespace("capped"),
        },
        CatalogCommand::Drop {
            namespace: namespace("view"),
        },
        CatalogCommand::DropDatabase {
            database: "other".to_owned(),
        },
    ] {
        for _ in 0..2 {
            sink.execute(&command).await.unwrap();
        }
    }
    for namespace in [namespace("capped"), namespace("view"), moved.namespace] {
        assert_eq!(found(sink, &namespace).await, None);
    }
}

async fn indexes_are_built_once(version: Version) {
    let bench = Bench::start(version).await;
    let sink = &bench.sink;
    let collection = namespace("c");
    let documents: Vec<RawDocumentBuf> = (0..100).map(|id| rawdoc! { "_id": id, "a": id, "b": id % 2 }).collect();
    assert_eq!(sink.insert(&collection, &batch(&documents)).await.unwrap(), []);
    let mut specifications = vec![
        rawdoc! { "v": 2, "key": { "a": 1 }, "name": "a_1", "unique": true },
        rawdoc! { "v": 2, "key": { "t": 1 }, "name": "t_1", "expireAfterSeconds": 1_000_000_000 },
        rawdoc! { "v": 2, "key": { "b": -1, "c": "hashed" }, "name": "bc", "background": true },
        rawdoc! { "v": 1, "key": { "d": 1 }, "name": "d_1", "partialFilterExpression": { "d": { "$gt": 1 } } },
        rawdoc! { "v": 2, "key": { "$**": 1 }, "name": "wild", "wildcardProjection": { "x": 0 } },
        rawdoc! {
            "v": 2, "key": { "_fts": "text", "_ftsx": 1 }, "name": "text", "weights": { "s": 1 }, "default_language": "none",
            "language_override": "language", "textIndexVersion": 3,
        },
    ];
    if version >= Version::V4_4 {
        specifications.push(rawdoc! { "v": 2, "key": { "h": 1 }, "name": "h_1", "hidden": true });
    } else {
        specifications.remove(2);
    }
    for _ in 0..2 {
        for specification in &specifications {
            sink.create_index(&collection, specification).await.unwrap();
        }
    }
    let id = rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" };
    let clustered = rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_", "unique": true, "clustered": true };
    for specification in [&id, &clustered] {
        sink.create_index(&namespace("not_there"), specification).await.unwrap();
    }
    assert_eq!(found(sink, &namespace("not_there")).await, None);
    // 4.2 listed the namespace as well, which may have another name here.
    let elsewhere = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1", "ns": "elsewhere.c" };
    sink.create_index(&collection, &elsewhere).await.unwrap();
    specifications.push(rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1" });

    let listed = found(sink, &collection).await.unwrap().indexes;
    assert_eq!(listed.len(), specifications.len() + 1, "{listed:?}");
    for specification in &specifications {
        let name = specification.get_str("name").unwrap();
        let index = listed
            .iter()
            .find(|index| index.get_str("name").unwrap() == name)
            .unwrap();
        for field in specification.iter_elements() {
            let field = field.unwrap();
            if field.key() == "wildcardProjection" {
                // 5.0 lists it in a form of its own.
                continue;
            }
            let listed = index.get(field.key()).unwrap().unwrap();
            assert_eq!(
                format!("{listed:?}"),
                format!("{:?}", field.value().unwrap()),
                "{name} on {version}"
            );
        }
    }

    for (wrong, why) in [
        (
            rawdoc! { "v": 2, "key": { "b": 1 }, "name": "b_1", "unique": true },
            "duplicate key",
        ),
        (rawdoc! { "v": 2, "key": { "z": 1 }, "name": "a_1" }, "a_1"),
    ] {
        let error = sink.create_index(&collection, &wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TargetRefused, "{error}");
        assert!(error.report().contains(why), "{error:#}");
    }
    let drop = CatalogCommand::DropIndex {
        namespace: collection.clone(),
        name: "a_1".to_owned(),
    };
    let missing = CatalogCommand::DropIndex {
        namespace: namespace("missing"),
        name: "a_1".to_owned(),
    };
    for command in [&drop, &drop, &missing] {
        sink.execute(command).await.unwrap();
    }
    assert_eq!(found(sink, &collection).await.unwrap().indexes.len(), listed.len() - 1);
}

async fn time_series_are_made_under_their_own_name(version: Version) {
    let bench = Bench::start(version).await;
    let sink = &bench.sink;
    bench
        .command(
            "test",
            doc! { "create": "weather", "timeseries": { "timeField": "t", "metaField": "m" }, "expireAfterSeconds": 3600_i64 },
        )
        .await;
    let original = found(sink, &namespace("weather").buckets()).await.unwrap();
    assert_eq!(original.kind, CollectionKind::TimeSeriesBuckets);
    let copy = namespace("copy").buckets();
    let create = CatalogCommand::Create {
        namespace: copy.clone(),
        kind: original.kind,
        options: original.options.clone(),
    };
    let index = rawdoc! { "v": 2, "key": { "meta": 1, "control.min.t": 1 }, "name": "m_1_t_1" };
    for _ in 0..2 {
        sink.execute(&create).await.unwrap();
        sink.create_index(&copy, &index).await.unwrap();
    }
    let made = found(sink, &copy).await.unwrap();
    for field in ["timeseries", "clusteredIndex", "expireAfterSeconds"] {
        assert_eq!(
            format!("{:?}", made.options.get(field).unwrap()),
            format!("{:?}", original.options.get(field).unwrap())
        );
    }
    assert!(
        made.indexes
            .iter()
            .any(|index| index.get_str("name").unwrap() == "m_1_t_1"),
        "{:?}",
        made.indexes
    );
    let modify = CatalogCommand::Modify {
        namespace: copy.clone(),
        arguments: rawdoc! { "expireAfterSeconds": 7200_i64 },
    };
    sink.execute(&modify).await.unwrap();
    assert_eq!(
        found(sink, &copy)
            .await
            .unwrap()
            .options
            .get_i64("expireAfterSeconds")
            .unwrap(),
        7200
    );
    let drop_index = CatalogCommand::DropIndex {
        namespace: copy.clone(),
        name: "m_1_t_1".to_owned(),
    };
    let drop = CatalogCommand::Drop {
        namespace: copy.clone(),
    };
    for _ in 0..2 {
        sink.execute(&drop_index).await.unwrap();
        sink.execute(&drop).await.unwrap();
    }
    assert_eq!(found(sink, &copy).await, None);
}

/// Documents with so many different words that a text index takes long to be built.
async fn insert_words(bench: &Bench, name: &str) {
    let collection = bench.set.client().await.unwrap().database("test").collection(name);
    for part in 0..20_u64 {
        let words = |number: u64| {
            let word = |place: u64| format!("{:x}", (number * 1000 + place).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            (0..100).map(word).collect::<Vec<_>>().join(" ")
        };
        let documents = (0..1000).map(|number| doc! { "words": words(part * 1000 + number) });
        collection.insert_many(documents).await.unwrap();
    }
}

/// The build of an index that is dropped ends, so that it holds nothing up.
async fn a_build_ends_when_its_index_is_dropped(version: Version) {
    const WAIT: Duration = Duration::from_secs(120);
    let bench = Bench::start(version).await;
    let sink = &bench.sink;
    let words = namespace("words");
    insert_words(&bench, "words").await;
    let index = rawdoc! { "v": 2, "key": { "words": "text" }, "name": "words" };
    let drop_index = CatalogCommand::DropIndex {
        namespace: words.clone(),
        name: "words".to_owned(),
    };
    let began = Instant::now();
    sink.create_index(&words, &index).await.unwrap();
    let whole = began.elapsed();
    sink.execute(&drop_index).await.unwrap();
    let is_building = async || {
        let builds = doc! { "currentOp": 1, "command.createIndexes": { "$exists": true } };
        let running = bench.command("admin", builds).await;
        !running.get_array("inprog").unwrap().is_empty()
    };
    {
        let mut building = pin!(sink.create_index(&words, &index));
        tokio::select! {
            built = &mut building => panic!("it is built before anything else can be asked: {built:?}"),
            begun = wait_until(WAIT, "the build", is_building) => begun.unwrap(),
        }
    }
    let began = Instant::now();
    timeout(WAIT, sink.execute(&drop_index)).await.unwrap().unwrap();
    assert!(
        began.elapsed() < whole / 2,
        "it waited for the build: {:?}",
        began.elapsed()
    );
    assert!(!is_building().await);
    assert_eq!(found(sink, &words).await.unwrap().indexes.len(), 1);
}
