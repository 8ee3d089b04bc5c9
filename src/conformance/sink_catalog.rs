//! Checks of a sink's description, and of changes to its catalog.

use std::collections::{BTreeMap, BTreeSet};

use bson::raw::RawDocumentBuf;
use bson::{Uuid, rawdoc};

use super::data::{batch_of, drain, ensure_index, ensure_same, filled, find, namespace};
use super::{ConformanceFailure, Outcome, check, ensure};
use crate::error::{ErrorKind, Result};
use crate::model::{Collection, CollectionKind, Namespace, Range, Selection};
use crate::sink::{CatalogCommand, Sink, SinkRead};

pub(super) async fn run(sink: &dyn Sink) -> std::result::Result<(), ConformanceFailure> {
    check("the identity of a sink stays the same", identity(sink)).await?;
    check(
        "a collection is made with its options, and left as it is when it exists",
        create(sink),
    )
    .await?;
    check("some are found by their names as all are listed", named(sink)).await?;
    check("a view is made, changed and dropped", view(sink)).await?;
    check("what is missing is dropped without an error", drops(sink)).await?;
    check("a rename replaces what has the new name", rename(sink)).await?;
    check("options are changed, twice with the same result", modify(sink)).await?;
    check("an index is built once", index(sink)).await?;
    check("a unique index over equal keys is refused", unique(sink)).await
}

pub(super) async fn make(sink: &dyn Sink, namespace: &Namespace, options: RawDocumentBuf) -> Result<()> {
    let kind = crate::catalog::kind::kind_of(namespace, &options);
    sink.execute(&CatalogCommand::Create {
        namespace: namespace.clone(),
        kind,
        options,
    })
    .await
}

/// All documents of a collection in `_id` order.
pub(super) async fn contents(sink: &dyn Sink, namespace: &Namespace) -> Result<Vec<RawDocumentBuf>> {
    let request = SinkRead {
        namespace: namespace.clone(),
        kind: CollectionKind::Plain,
        range: Range::FULL,
        batch_bytes: 1 << 20,
        document_bytes: 0,
    };
    Ok(drain(sink.read(request).await).await?.0)
}

async fn is_listed(sink: &dyn Sink, namespace: &Namespace) -> Result<bool> {
    let listed = sink.collections().await?;
    Ok(listed.iter().any(|collection| collection.namespace == *namespace))
}

async fn identity(sink: &dyn Sink) -> Outcome {
    let first = sink.describe().await?;
    let second = sink.describe().await?;
    ensure!(!first.identity.is_empty(), "the identity is empty");
    ensure!(first == second, "{first:?} became {second:?}");
    Ok(())
}

async fn named(sink: &dyn Sink) -> Outcome {
    let (plain, view, missing) = (
        namespace("found_plain"),
        namespace("found_view"),
        namespace("found_never"),
    );
    make(sink, &plain, rawdoc! {}).await?;
    make(sink, &view, rawdoc! { "viewOn": "found_plain", "pipeline": [] }).await?;
    let listed = sink.collections().await?;
    // The selection writes to this collection by a rename alone.
    let mut selection = Selection::all();
    selection.include("elsewhere.plain")?;
    selection.rename("elsewhere.plain", plain.as_str())?;
    let selected = sink.collections_selected(&selection).await?;
    ensure!(
        find(&selected, &plain)? == find(&listed, &plain)?,
        "{plain} is listed in another form for a selection"
    );
    let names = BTreeSet::from([plain.clone(), view.clone(), missing.clone()]);
    let found = sink.collections_named(&names).await?;
    ensure!(
        found.len() == 2 && found.iter().all(|one| listed.contains(one)),
        "asked for two of the collections by name and for one that does not exist, the sink gives {found:?}"
    );
    let in_database = sink.names_in(plain.database()).await?;
    let expected: BTreeSet<Namespace> = listed
        .iter()
        .filter(|collection| collection.namespace.database() == plain.database())
        .map(|collection| collection.namespace.clone())
        .collect();
    ensure!(
        in_database == expected,
        "of a database that has {expected:?} the sink names {in_database:?}"
    );
    let identities = sink.identities(&names).await?;
    ensure!(
        identities.contains_key(&view) && !identities.contains_key(&missing),
        "of a view and of what does not exist the sink says {identities:?}"
    );
    let id = |identities: &BTreeMap<Namespace, Uuid>| identities.get(&plain).copied();
    let before = id(&identities);
    ensure!(
        before == Some(find(&listed, &plain)?.id),
        "{plain} is listed with another id than {before:?}"
    );
    sink.execute(&CatalogCommand::Drop {
        namespace: plain.clone(),
    })
    .await?;
    make(sink, &plain, rawdoc! {}).await?;
    let after = id(&sink.identities(&names).await?);
    ensure!(
        after.is_some() && after != before,
        "{plain} was created again and still has the id {after:?}"
    );
    Ok(())
}

async fn create(sink: &dyn Sink) -> Outcome {
    let plain = namespace("made_plain");
    let capped = namespace("made_capped");
    let collated = namespace("made_collated");
    make(sink, &plain, rawdoc! { "validator": { "n": { "$gte": 0 } } }).await?;
    make(sink, &capped, rawdoc! { "capped": true, "size": 65536 }).await?;
    make(sink, &collated, rawdoc! { "collation": { "locale": "de" } }).await?;
    sink.insert(&plain, &batch_of(&[filled(1, 10)])).await?;
    // Creating it again, with the same options and with others, changes nothing.
    make(sink, &plain, rawdoc! { "validator": { "n": { "$gte": 0 } } }).await?;
    make(sink, &plain, rawdoc! {}).await?;
    let listed = sink.collections().await?;
    for (name, kind) in [
        (&plain, CollectionKind::Plain),
        (&capped, CollectionKind::Capped),
        (&collated, CollectionKind::Unordered),
    ] {
        let found = find(&listed, name)?;
        ensure!(found.kind == kind, "{name} is listed as {:?}, not {kind:?}", found.kind);
        ensure_index(found, "_id_", &rawdoc! { "_id": 1 })?;
    }
    let found = find(&listed, &plain)?;
    let validator = found.options.get_document("validator")?;
    ensure!(
        validator == &*rawdoc! { "n": { "$gte": 0 } },
        "the options of {plain} have the validator {validator:?}"
    );
    ensure!(found.documents == 1, "one document is counted as {}", found.documents);
    let internal = listed.iter().find(|collection| collection.namespace.is_internal());
    ensure!(internal.is_none(), "the server's own {internal:?} is listed");
    Ok(())
}

async fn view(sink: &dyn Sink) -> Outcome {
    let (base, view) = (namespace("view_base"), namespace("view"));
    make(sink, &base, rawdoc! {}).await?;
    let definition = rawdoc! { "viewOn": "view_base", "pipeline": [{ "$match": { "n": 0 } }] };
    make(sink, &view, definition.clone()).await?;
    make(sink, &view, definition).await?;
    let listed = sink.collections().await?;
    let kind = find(&listed, &view)?.kind;
    ensure!(kind == CollectionKind::View, "the view is listed as {kind:?}");
    let arguments = rawdoc! { "viewOn": "view_base", "pipeline": [{ "$match": { "n": 1 } }] };
    sink.execute(&CatalogCommand::Modify {
        namespace: view.clone(),
        arguments,
    })
    .await?;
    let listed = sink.collections().await?;
    let pipeline = find(&listed, &view)?.options.get_array("pipeline")?;
    let expected = rawdoc! { "$match": { "n": 1 } };
    ensure!(
        pipeline.get_document(0)? == &*expected,
        "the view's pipeline was changed, and is {pipeline:?}"
    );
    sink.execute(&CatalogCommand::Drop {
        namespace: view.clone(),
    })
    .await?;
    ensure!(!is_listed(sink, &view).await?, "the view is still listed");
    Ok(())
}

async fn drops(sink: &dyn Sink) -> Outcome {
    let name = namespace("dropped");
    make(sink, &name, rawdoc! {}).await?;
    sink.insert(&name, &batch_of(&[filled(1, 10)])).await?;
    let database = format!("{}_dropped", name.database());
    let other = Namespace::new(&database, "dropped");
    make(sink, &other, rawdoc! {}).await?;
    let index = CatalogCommand::DropIndex {
        namespace: name.clone(),
        name: "n_1".to_owned(),
    };
    sink.create_index(&name, &rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1" })
        .await?;
    let drop = CatalogCommand::Drop {
        namespace: name.clone(),
    };
    let drop_database = CatalogCommand::DropDatabase { database };
    for command in [&index, &index, &drop, &drop, &index, &drop_database, &drop_database] {
        sink.execute(command).await?;
        if matches!(command, CatalogCommand::DropIndex { .. })
            && let Some(collection) = sink
                .collections()
                .await?
                .iter()
                .find(|collection| collection.namespace == name)
        {
            ensure!(
                !has_index(collection, "n_1"),
                "the index is still listed after it was dropped"
            );
        }
    }
    ensure!(!is_listed(sink, &name).await?, "the collection is still listed");
    ensure!(
        !is_listed(sink, &other).await?,
        "a collection of the database is still listed"
    );
    let left = contents(sink, &name).await?;
    ensure!(left.is_empty(), "the collection was dropped and reads as {left:?}");
    Ok(())
}

async fn rename(sink: &dyn Sink) -> Outcome {
    let (from, to) = (namespace("rename_from"), namespace("rename_to"));
    make(sink, &from, rawdoc! {}).await?;
    make(sink, &to, rawdoc! {}).await?;
    let moved = vec![filled(1, 10)];
    sink.insert(&from, &batch_of(&moved)).await?;
    sink.insert(&to, &batch_of(&[filled(2, 10), filled(3, 10)])).await?;
    let command = CatalogCommand::Rename {
        from: from.clone(),
        to: to.clone(),
    };
    sink.execute(&command).await?;
    ensure_same("the renamed collection", &contents(sink, &to).await?, &moved)?;
    ensure!(!is_listed(sink, &from).await?, "the old name is still listed");
    // The response may have been lost. The second command finds nothing to rename, and must not drop what the first one renamed.
    sink.execute(&command).await?;
    ensure_same("the collection renamed twice", &contents(sink, &to).await?, &moved)
}

async fn modify(sink: &dyn Sink) -> Outcome {
    let name = namespace("modified");
    make(sink, &name, rawdoc! { "validator": { "n": { "$gte": 0 } } }).await?;
    let index = rawdoc! { "v": 2, "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 1_000_000_000 };
    sink.create_index(&name, &index).await?;
    for arguments in [
        rawdoc! { "validator": { "n": { "$gte": 5 } } },
        rawdoc! { "index": { "name": "at_1", "expireAfterSeconds": 3600 } },
    ] {
        let command = CatalogCommand::Modify {
            namespace: name.clone(),
            arguments,
        };
        sink.execute(&command).await?;
        sink.execute(&command).await?;
    }
    let listed = sink.collections().await?;
    let found = find(&listed, &name)?;
    let validator = found.options.get_document("validator")?;
    ensure!(
        validator == &*rawdoc! { "n": { "$gte": 5 } },
        "the validator is {validator:?}"
    );
    let seconds = found
        .indexes
        .iter()
        .find(|index| index.get_str("name").is_ok_and(|name| name == "at_1"))
        .and_then(|index| index.get("expireAfterSeconds").ok().flatten())
        .and_then(|value| {
            value
                .as_i32()
                .or_else(|| value.as_i64().and_then(|value| i32::try_from(value).ok()))
        });
    ensure!(
        seconds == Some(3600),
        "the index expires after {seconds:?} seconds, not 3600"
    );
    // A replayed change may find that its collection or index was dropped later.
    for (namespace, arguments) in [
        (namespace("modified_missing"), rawdoc! { "validator": {} }),
        (
            name,
            rawdoc! { "index": { "name": "missing", "expireAfterSeconds": 1 } },
        ),
    ] {
        sink.execute(&CatalogCommand::Modify { namespace, arguments }).await?;
    }
    let missing = is_listed(sink, &namespace("modified_missing")).await?;
    ensure!(!missing, "changing a missing collection created it");
    Ok(())
}

async fn index(sink: &dyn Sink) -> Outcome {
    let name = namespace("indexed");
    make(sink, &name, rawdoc! {}).await?;
    let documents: Vec<_> = (0..50).map(|id| filled(id, 10)).collect();
    sink.insert(&name, &batch_of(&documents)).await?;
    let specification = rawdoc! { "v": 2, "key": { "n": 1, "filling": -1 }, "name": "compound", "sparse": true };
    sink.create_index(&name, &specification).await?;
    sink.create_index(&name, &specification).await?;
    let listed = sink.collections().await?;
    let found = find(&listed, &name)?;
    ensure_index(found, "compound", &rawdoc! { "n": 1, "filling": -1 })?;
    let settings = found.indexes.iter().find(|index| has_name(index, "compound"));
    ensure!(
        settings.is_some_and(|index| index.get_bool("sparse").unwrap_or(false)),
        "the index is not sparse"
    );
    ensure!(
        found.indexes.len() == 2,
        "there are {} indexes, not 2",
        found.indexes.len()
    );
    let other = rawdoc! { "v": 2, "key": { "other": 1 }, "name": "compound" };
    let answer = sink.create_index(&name, &other).await.map_err(|error| error.kind());
    ensure!(
        answer == Err(ErrorKind::TargetRefused),
        "building another index of the same name returned {answer:?}"
    );
    let missing = namespace("indexed_never");
    let answer = sink
        .create_index(&missing, &specification)
        .await
        .map_err(|error| error.kind());
    ensure!(
        answer == Err(ErrorKind::TargetRefused),
        "building an index of a missing collection returned {answer:?}"
    );
    ensure!(!is_listed(sink, &missing).await?, "an index created {missing}");
    Ok(())
}

async fn unique(sink: &dyn Sink) -> Outcome {
    let name = namespace("unique");
    make(sink, &name, rawdoc! {}).await?;
    sink.insert(&name, &batch_of(&[filled(1, 10), filled(2, 10)])).await?;
    let specification = rawdoc! { "v": 2, "key": { "n": 1 }, "name": "n_1", "unique": true };
    let answer = sink
        .create_index(&name, &specification)
        .await
        .map_err(|error| error.kind());
    ensure!(
        answer == Err(ErrorKind::TargetRefused),
        "two documents have the same key, and the result is {answer:?}"
    );
    let listed = sink.collections().await?;
    ensure!(
        !has_index(find(&listed, &name)?, "n_1"),
        "the index was refused and is listed"
    );
    Ok(())
}

fn has_name(index: &RawDocumentBuf, name: &str) -> bool {
    index.get_str("name").is_ok_and(|known| known == name)
}

fn has_index(collection: &Collection, name: &str) -> bool {
    collection.indexes.iter().any(|index| has_name(index, name))
}
