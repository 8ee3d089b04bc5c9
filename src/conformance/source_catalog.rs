//! Checks of a source's description, and of its collections.

use bson::{Uuid, rawdoc};

use super::data::{drain, ensure_index, filled, find, key, namespace};
use super::{ConformanceFailure, FixtureWrite, Outcome, SourceFixture, check, ensure};
use crate::model::{CollectionKind, Range, Selection};
use crate::source::{ReadMode, ReadRequest};

pub(super) async fn run(fixture: &dyn SourceFixture) -> Result<(), ConformanceFailure> {
    check("the identity of a source stays the same", identity(fixture)).await?;
    check("every collection and view is listed as it is", listing(fixture)).await?;
    check("a collection keeps its id when it is renamed", rename(fixture)).await
}

async fn identity(fixture: &dyn SourceFixture) -> Outcome {
    let first = fixture.source().describe().await?;
    let second = fixture.source().describe().await?;
    ensure!(!first.identity.is_empty(), "the identity is empty");
    ensure!(first == second, "{first:?} became {second:?}");
    Ok(())
}

async fn listing(fixture: &dyn SourceFixture) -> Outcome {
    let source = fixture.source();
    let plain = namespace("listed_plain");
    let capped = namespace("listed_capped");
    let collated = namespace("listed_collated");
    let view = namespace("listed_view");
    let validator = rawdoc! { "validator": { "n": { "$gte": 0 } } };
    fixture.create_collection(&plain, validator).await?;
    fixture
        .create_collection(&capped, rawdoc! { "capped": true, "size": 65536 })
        .await?;
    fixture
        .create_collection(&collated, rawdoc! { "collation": { "locale": "de" } })
        .await?;
    fixture
        .create_collection(
            &view,
            rawdoc! { "viewOn": "listed_plain", "pipeline": [{ "$match": { "n": 0 } }] },
        )
        .await?;
    let index = rawdoc! { "v": 2, "key": { "n": 1, "filling": -1 }, "name": "n_1_filling_-1" };
    fixture.create_index(&plain, index.clone()).await?;
    let documents: Vec<_> = (0..3).map(|id| filled(id, 10)).collect();
    let bytes: usize = documents.iter().map(|document| document.as_bytes().len()).sum();
    fixture
        .write(&plain, documents.into_iter().map(FixtureWrite::Insert).collect())
        .await?;

    let listed = source.collections().await?;
    for (name, kind) in [
        (&plain, CollectionKind::Plain),
        (&capped, CollectionKind::Capped),
        (&collated, CollectionKind::Unordered),
        (&view, CollectionKind::View),
    ] {
        let found = find(&listed, name)?;
        ensure!(found.kind == kind, "{name} is listed as {:?}, not {kind:?}", found.kind);
        let nil = Uuid::from_bytes([0; 16]);
        ensure!(
            (found.id == nil) == (kind == CollectionKind::View),
            "the id of {name} is {}",
            found.id
        );
        let same = listed
            .iter()
            .filter(|other| other.id == found.id && other.id != nil)
            .count();
        ensure!(same <= 1, "{name} shares its id with another collection");
    }
    let found = find(&listed, &plain)?;
    ensure_index(found, "_id_", &rawdoc! { "_id": 1 })?;
    ensure_index(found, "n_1_filling_-1", &rawdoc! { "n": 1, "filling": -1 })?;
    ensure!(
        (found.documents, found.bytes) == (3, bytes as u64),
        "3 documents of {bytes} bytes are counted as {} of {} bytes",
        found.documents,
        found.bytes
    );
    let validator = found.options.get_document("validator")?;
    ensure!(
        validator == &*rawdoc! { "n": { "$gte": 0 } },
        "the options of {plain} have the validator {validator:?}"
    );
    ensure!(
        find(&listed, &view)?.options.get_str("viewOn")? == "listed_plain",
        "the view is listed without `viewOn`"
    );
    ensure!(
        find(&listed, &capped)?.options.get_bool("capped")?,
        "the capped collection is listed without `capped`"
    );
    let internal = listed.iter().find(|collection| collection.namespace.is_internal());
    ensure!(internal.is_none(), "the server's own {internal:?} is listed");

    let mut selection = Selection::all();
    selection.include(plain.as_str())?;
    let selected = source.collections_selected(&selection).await?;
    ensure!(
        find(&selected, &plain)? == find(&listed, &plain)?,
        "{plain} is listed in another form for a selection"
    );
    ensure!(
        source.databases().await?.contains(plain.database()),
        "the database of {plain} is not listed"
    );

    let missing = namespace("listed_never");
    let named = source.collections_named(&[plain, view, missing].into()).await?;
    let mut same: Vec<_> = listed.iter().filter(|one| named.contains(one)).collect();
    same.dedup();
    ensure!(
        (named.len(), same.len()) == (2, 2),
        "asked for two of the collections by name and for one that does not exist, the source gives {named:?}"
    );
    Ok(())
}

async fn rename(fixture: &dyn SourceFixture) -> Outcome {
    let (from, to) = (namespace("name_before"), namespace("name_after"));
    fixture.create_collection(&from, rawdoc! {}).await?;
    let before = find(&fixture.source().collections().await?, &from)?.id;
    fixture.rename_collection(&from, &to).await?;
    let listed = fixture.source().collections().await?;
    let after = find(&listed, &to)?.id;
    ensure!(before == after, "{before} became {after}");
    ensure!(find(&listed, &from).is_err(), "the old name is still listed");
    Ok(())
}

pub(super) async fn split(fixture: &dyn SourceFixture) -> Outcome {
    const BYTES: u64 = 100_000;
    let source = fixture.source();
    let (name, capped) = (namespace("split"), namespace("split_capped"));
    fixture.create_collection(&name, rawdoc! {}).await?;
    fixture
        .create_collection(&capped, rawdoc! { "capped": true, "size": 4_194_304 })
        .await?;
    for collection in [&name, &capped] {
        let writes = (0..1000).map(|id| FixtureWrite::Insert(filled(id, 1000))).collect();
        fixture.write(collection, writes).await?;
    }
    let listed = source.collections().await?;
    let natural = source.split(find(&listed, &capped)?, BYTES).await?;
    ensure!(natural.is_empty(), "a collection without ranges is cut at {natural:?}");

    let keys = source.split(find(&listed, &name)?, BYTES).await?;
    ensure!(
        keys.is_sorted_by(|left, right| left < right),
        "the keys are not in ascending order: {keys:?}"
    );
    ensure!(!keys.contains(&key(999)), "the last range is empty");
    ensure!(
        (4..=40).contains(&keys.len()),
        "1 MB is cut into {} ranges of about 100 kB",
        keys.len() + 1
    );
    let at = source.position().await?;
    let mut lower: Option<&crate::order::Key> = None;
    let mut total = 0;
    for upper in keys.iter().map(Some).chain([None]) {
        let range = Range {
            lower: lower.cloned(),
            upper: upper.cloned(),
        };
        let shown = format!("{range:?}");
        let request = ReadRequest {
            namespace: name.clone(),
            kind: CollectionKind::Plain,
            range,
            at,
            mode: ReadMode::Interval,
            batch_bytes: 1 << 20,
            document_bytes: 1000,
        };
        let (documents, _) = drain(source.read(request).await).await?;
        ensure!(
            (1..=500).contains(&documents.len()),
            "the range {shown} has {} of 1000 documents",
            documents.len()
        );
        total += documents.len();
        lower = upper;
    }
    ensure!(total == 1000, "the ranges have {total} of 1000 documents");
    Ok(())
}
