//! Whether two replica sets hold the same, byte for byte.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use futures::TryStreamExt;
use mongodb::{
    Client, Collection,
    bson::{Document, RawBsonRef, RawDocument, RawDocumentBuf, doc, raw::CStr},
    error::Error,
};

use crate::TestbedError;

/// How many documents of one collection are named in the result; more are counted.
const NAMED: usize = 20;

/// What to compare.
#[derive(Clone, Debug, Default)]
pub struct CompareOptions {
    /// The source's collections and views by full name (`shop.orders`), or `None` for everything in all user databases,
    /// on both sides.
    pub namespaces: Option<Vec<String>>,
    /// Source name and target name of what has another name on the target: `shop.orders` and `store.orders`, or a whole
    /// database as `shop.*` and `store.*`. The first that fits counts.
    pub renames: Vec<(String, String)>,
    /// Whether the formats of indexes (`v`, `textIndexVersion`, `2dsphereIndexVersion`) are left out. A real server behind one that looks
    /// old has newer formats than it shows.
    pub without_index_formats: bool,
}

/// Something that is not the same on both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The full name on the source, or on the target of what only the target has.
    pub namespace: String,
    /// What differs.
    pub kind: DifferenceKind,
}

/// What differs in one collection or view.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum DifferenceKind {
    /// The target does not have it.
    MissingCollection,
    /// The target has it and the source does not.
    ExtraCollection,
    /// Type (collection, view, time series) or options, with both sides.
    Options {
        /// The source's.
        source: String,
        /// The target's.
        target: String,
    },
    /// An index by name, with both sides; `None` where it does not exist.
    Index {
        /// The index's name.
        name: String,
        /// The source's specification.
        source: Option<String>,
        /// The target's specification.
        target: Option<String>,
    },
    /// The target does not have the document with this `_id`.
    MissingDocument(String),
    /// The target has the document with this `_id` and the source does not.
    ExtraDocument(String),
    /// The documents with this `_id` differ.
    Document(String),
    /// The documents are the same, but come in another natural order from this `_id` on (capped collections).
    Order(String),
    /// So many more documents are missing, extra or different.
    MoreDocuments(u64),
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = &self.namespace;
        match &self.kind {
            DifferenceKind::MissingCollection => write!(formatter, "{namespace}: missing on the target"),
            DifferenceKind::ExtraCollection => write!(formatter, "{namespace}: on the target only"),
            DifferenceKind::Options { source, target } => {
                write!(
                    formatter,
                    "{namespace}: options {source} on the source, {target} on the target"
                )
            }
            DifferenceKind::Index { name, source, target } => {
                let none = "none".to_owned();
                let (source, target) = (source.as_ref().unwrap_or(&none), target.as_ref().unwrap_or(&none));
                write!(
                    formatter,
                    "{namespace}: index {name}: {source} on the source, {target} on the target"
                )
            }
            DifferenceKind::MissingDocument(id) => write!(formatter, "{namespace}: {id} missing on the target"),
            DifferenceKind::ExtraDocument(id) => write!(formatter, "{namespace}: {id} on the target only"),
            DifferenceKind::Document(id) => write!(formatter, "{namespace}: {id} differs"),
            DifferenceKind::Order(id) => write!(formatter, "{namespace}: other natural order from {id} on"),
            DifferenceKind::MoreDocuments(count) => write!(formatter, "{namespace}: {count} more documents"),
        }
    }
}

/// Fails unless [`differences`] finds none.
///
/// # Errors
///
/// [`TestbedError::Different`] with everything found, or what [`differences`] fails with.
pub async fn assert_identical(source: &Client, target: &Client, options: &CompareOptions) -> Result<(), TestbedError> {
    let differences = differences(source, target, options).await?;
    if differences.is_empty() {
        Ok(())
    } else {
        Err(TestbedError::Different(differences))
    }
}

/// Compares lists of collections and views, their options (without the collection's uuid and defaults of the validation), their indexes (without `ns`
/// and the order of the list), and every document's bytes, in natural order for capped collections.
///
/// Left out are `admin`, `config`, `local`, databases whose name starts with `__mdb_internal_mongoferry`, and of the
/// server's own collections all but `system.js` and time series buckets. Both sides should be at rest.
///
/// # Errors
///
/// [`TestbedError::Server`] when a side cannot be read.
pub async fn differences(
    source: &Client,
    target: &Client,
    options: &CompareOptions,
) -> Result<Vec<Difference>, TestbedError> {
    compare(source, target, options)
        .await
        .map_err(TestbedError::server("comparing"))
}

async fn compare(source: &Client, target: &Client, options: &CompareOptions) -> Result<Vec<Difference>, Error> {
    let mut source_entries = entries(source).await?;
    let mut target_entries = entries(target).await?;
    if let Some(namespaces) = &options.namespaces {
        source_entries.retain(|name, _| namespaces.contains(name));
        let wanted: BTreeSet<String> = namespaces.iter().map(|name| options.renamed(name)).collect();
        target_entries.retain(|name, _| wanted.contains(name));
    }

    let mut found = Vec::new();
    for (name, source_entry) in &source_entries {
        let target_name = options.renamed(name);
        let mut report = |kind| {
            found.push(Difference {
                namespace: name.clone(),
                kind,
            })
        };
        let Some(target_entry) = target_entries.remove(&target_name) else {
            report(DifferenceKind::MissingCollection);
            continue;
        };
        if source_entry.facts != target_entry.facts {
            report(DifferenceKind::Options {
                source: fields_text(&source_entry.facts),
                target: fields_text(&target_entry.facts),
            });
        }
        if !(source_entry.has_documents && target_entry.has_documents) {
            continue;
        }
        let source_collection = collection(source, name);
        let target_collection = collection(target, &target_name);
        let mut source_indexes = indexes(&source_collection).await?;
        let mut target_indexes = indexes(&target_collection).await?;
        if options.without_index_formats {
            for index in source_indexes.values_mut().chain(target_indexes.values_mut()) {
                index.retain(|name, _| !FORMATS.contains(&name.as_str()));
            }
        }
        compare_indexes(source_indexes, &target_indexes, source_entry.capped, &mut report);
        compare_documents(&source_collection, &target_collection, source_entry.capped, &mut report).await?;
    }
    let extra = target_entries.into_keys().map(|namespace| Difference {
        namespace,
        kind: DifferenceKind::ExtraCollection,
    });
    found.extend(extra);
    Ok(found)
}

impl CompareOptions {
    fn renamed(&self, source: &str) -> String {
        for (from, to) in &self.renames {
            if from == source {
                return to.clone();
            }
            let databases = (from.strip_suffix(".*"), to.strip_suffix(".*"));
            if let ((Some(from), Some(to)), Some((database, name))) = (databases, source.split_once('.'))
                && database == from
            {
                return format!("{to}.{name}");
            }
        }
        source.to_owned()
    }
}

/// The field of a TTL index.
const EXPIRY: &str = "expireAfterSeconds";

/// The option by which late releases of 6.0 show whether buckets of a time-series collection may hold values of different types. What it
/// says is about the past of the buckets, which a target does not know.
const ENGINE: &str = "storageEngine";
const MIXED_TYPES: &str = "timeseriesBucketsMayHaveMixedSchemaData=true";

const PROJECTION: &str = "wildcardProjection";

/// The fields of an index that name its format.
const FORMATS: [&str; 3] = ["v", "textIndexVersion", "2dsphereIndexVersion"];

/// The fields of a specification by name, each as a document of its own, so that they compare by their bytes and in any
/// order.
type Fields = BTreeMap<String, RawDocumentBuf>;

/// A collection or view, as listed.
struct Entry {
    /// Type and options.
    facts: Fields,
    capped: bool,
    /// Whether it can be read as a collection: views and time series cannot.
    has_documents: bool,
}

/// Everything of the users, by full name.
async fn entries(client: &Client) -> Result<BTreeMap<String, Entry>, Error> {
    let mut entries = BTreeMap::new();
    for database in client.list_database_names().await? {
        if ["admin", "config", "local"].contains(&database.as_str())
            || database.starts_with("__mdb_internal_mongoferry")
        {
            continue;
        }
        let cursor = client
            .database(&database)
            .run_cursor_command(doc! { "listCollections": 1 })
            .await?;
        let mut cursor = cursor.with_type::<RawDocumentBuf>();
        while let Some(listed) = cursor.try_next().await? {
            let name = listed.get_str("name")?;
            let is_data = name == "system.js" || name.starts_with("system.buckets.");
            if name.starts_with("system.") && !is_data {
                continue;
            }
            let options = listed.get_document("options")?;
            let mut facts = fields(options, "uuid")?;
            // A command that was refused half way can leave a temporary collection. No client can make one, and so no target has it.
            facts.remove("temp");
            // Once set they can be put back to the defaults, and not taken away; and 4.4 takes a default without keeping it.
            facts.retain(|name, fact| !is_default(name, fact));
            if facts
                .get(ENGINE)
                .is_some_and(|engine| text(engine).contains(MIXED_TYPES))
            {
                facts.remove(ENGINE);
            }
            facts.extend(fields(&listed, "name")?.remove_entry("type"));
            let entry = Entry {
                facts,
                capped: matches!(options.get_bool("capped"), Ok(true)),
                has_documents: listed.get_str("type")? == "collection",
            };
            entries.insert(format!("{database}.{name}"), entry);
        }
    }
    Ok(entries)
}

/// Whether an option is what a server goes by where the option is missing.
fn is_default(name: &str, fact: &RawDocument) -> bool {
    match name {
        "validator" => fact.get_document(name).is_ok_and(RawDocument::is_empty),
        "validationLevel" => fact.get_str(name).is_ok_and(|level| level == "strict"),
        "validationAction" => fact.get_str(name).is_ok_and(|action| action == "error"),
        "autoIndexId" => fact.get_bool(name).unwrap_or(false),
        _ => false,
    }
}

fn fields(specification: &RawDocument, without: &str) -> Result<Fields, Error> {
    let mut fields = Fields::new();
    for field in specification {
        let (name, value) = field?;
        if name.as_str() != without {
            fields.insert(name.as_str().to_owned(), single(name.as_str(), value)?);
        }
    }
    Ok(fields)
}

/// A document of one field.
fn single(name: &str, value: RawBsonRef<'_>) -> Result<RawDocumentBuf, Error> {
    let name: &CStr = name.try_into()?;
    let mut document = RawDocumentBuf::new();
    document.append(name, value);
    Ok(document)
}

/// With the types, as `1` and `1.0` differ.
fn text(document: &RawDocument) -> String {
    match Document::try_from(document) {
        Ok(document) => format!("{document:?}"),
        Err(error) => format!("({error})"),
    }
}

fn fields_text(fields: &Fields) -> String {
    fields.values().map(|field| text(field)).collect::<Vec<_>>().join(" ")
}

fn collection(client: &Client, namespace: &str) -> Collection<RawDocumentBuf> {
    let (database, name) = namespace.split_once('.').unwrap_or((namespace, ""));
    client.database(database).collection(name)
}

fn compare_indexes(
    mut source: BTreeMap<String, Fields>,
    target: &BTreeMap<String, Fields>,
    capped: bool,
    report: &mut impl FnMut(DifferenceKind),
) {
    if capped {
        // Servers from 6.0 on refuse an expiry that never takes effect.
        for (name, specification) in &mut source {
            if target.get(name).is_some_and(|target| !target.contains_key(EXPIRY)) {
                specification.remove(EXPIRY);
            }
        }
    }
    let names: BTreeSet<&String> = source.keys().chain(target.keys()).collect();
    for name in names {
        let sides = [source.get(name), target.get(name)];
        if sides[0] != sides[1] {
            let [source, target] = sides.map(|side| side.map(fields_text));
            report(DifferenceKind::Index {
                name: name.clone(),
                source,
                target,
            });
        }
    }
}

/// The number, where it is a whole one that a double holds exactly.
fn whole(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(number) => Some(number.into()),
        RawBsonRef::Int64(number) => Some(number),
        RawBsonRef::Double(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(number as i64),
        _ => None,
    }
}

/// The specifications by name.
async fn indexes(collection: &Collection<RawDocumentBuf>) -> Result<BTreeMap<String, Fields>, Error> {
    let database = collection.client().database(&collection.namespace().db);
    let cursor = database
        .run_cursor_command(doc! { "listIndexes": collection.name() })
        .await?;
    let mut cursor = cursor.with_type::<RawDocumentBuf>();
    let mut indexes = BTreeMap::new();
    while let Some(listed) = cursor.try_next().await? {
        let mut specification = fields(&listed, "ns")?;
        // `collMod` of 4.2 and 4.4 keeps the seconds as a long where `createIndexes` keeps what it was given: the same number.
        if let Some(seconds) = listed.get(EXPIRY)?
            && let Some(seconds) = whole(seconds)
        {
            specification.insert(EXPIRY.to_owned(), single(EXPIRY, RawBsonRef::Int64(seconds))?);
        }
        // Older servers keep these as they were given, newer ones as they read them; how it was built is not kept by all.
        for name in ["sparse", "unique", "background"] {
            if let Some(value) = listed.get(name)? {
                let is_set = value.as_bool().unwrap_or_else(|| whole(value) != Some(0));
                specification.remove(name);
                if is_set && name != "background" {
                    specification.insert(name.to_owned(), single(name, RawBsonRef::Boolean(true))?);
                }
            }
        }
        // Servers up to 4.4 keep this as it was given, newer ones as they read it.
        if let Some(RawBsonRef::Document(projection)) = listed.get(PROJECTION)? {
            let mut paths = BTreeMap::from([("_id".to_owned(), false)]);
            projection_paths("", projection, &mut paths)?;
            let text = format!("{paths:?}");
            specification.insert(PROJECTION.to_owned(), single(PROJECTION, RawBsonRef::String(&text))?);
        }
        indexes.insert(listed.get_str("name")?.to_owned(), specification);
    }
    Ok(indexes)
}

/// The paths of a wildcard index's projection, and whether each is taken.
fn projection_paths(prefix: &str, projection: &RawDocument, paths: &mut BTreeMap<String, bool>) -> Result<(), Error> {
    for field in projection {
        let (name, value) = field?;
        let path = format!("{prefix}{}", name.as_str());
        match value {
            RawBsonRef::Document(nested) => projection_paths(&format!("{path}."), nested, paths)?,
            RawBsonRef::Boolean(taken) => _ = paths.insert(path, taken),
            RawBsonRef::Int32(number) => _ = paths.insert(path, number != 0),
            RawBsonRef::Int64(number) => _ = paths.insert(path, number != 0),
            RawBsonRef::Double(number) => _ = paths.insert(path, number != 0.0),
            other => _ = paths.insert(format!("{path} {other:?}"), true),
        }
    }
    Ok(())
}

/// Reads both sides side by side. A document that does not stand at the same place on the other side waits for it to
/// come.
async fn compare_documents(
    source: &Collection<RawDocumentBuf>,
    target: &Collection<RawDocumentBuf>,
    capped: bool,
    report: &mut impl FnMut(DifferenceKind),
) -> Result<(), Error> {
    let sort = if capped {
        doc! { "$natural": 1 }
    } else {
        doc! { "_id": 1 }
    };
    let (mut source, mut target) = tokio::try_join!(
        source.find(doc! {}).sort(sort.clone()).into_future(),
        target.find(doc! {}).sort(sort).into_future(),
    )?;
    let mut unequal = Unequal::default();
    let (mut in_source, mut in_target) = (true, true);
    while in_source || in_target {
        (in_source, in_target) = tokio::try_join!(
            async { if in_source { source.advance().await } else { Ok(false) } },
            async { if in_target { target.advance().await } else { Ok(false) } },
        )?;
        if in_source && in_target && source.current().as_bytes() == target.current().as_bytes() {
            continue;
        }
        if in_source {
            unequal.meet(Side::Source, source.current())?;
        }
        if in_target {
            unequal.meet(Side::Target, target.current())?;
        }
    }
    unequal.report(capped, report);
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Source,
    Target,
}

/// What did not stand at the same place with the same bytes on both sides.
#[derive(Default)]
struct Unequal {
    /// Documents met on one side so far, by `_id`, with a hash of their bytes.
    waiting: BTreeMap<Vec<u8>, (Side, u64)>,
    differing: Vec<RawDocumentBuf>,
    first: Option<RawDocumentBuf>,
}

impl Unequal {
    fn meet(&mut self, side: Side, document: &RawDocument) -> Result<(), Error> {
        let id = match document.get("_id")? {
            Some(id) => single("_id", id)?,
            None => RawDocumentBuf::new(),
        };
        self.first.get_or_insert_with(|| id.clone());
        let mut hasher = DefaultHasher::new();
        document.as_bytes().hash(&mut hasher);
        let hash = hasher.finish();
        match self.waiting.get(id.as_bytes()) {
            Some((other, other_hash)) if *other != side => {
                let same = *other_hash == hash;
                self.waiting.remove(id.as_bytes());
                if !same {
                    self.differing.push(id);
                }
            }
            _ => {
                self.waiting.insert(id.into_bytes(), (side, hash));
            }
        }
        Ok(())
    }

    fn report(self, capped: bool, report: &mut impl FnMut(DifferenceKind)) {
        let differing = self.differing.iter().map(|id| DifferenceKind::Document(text(id)));
        let missing = self.waiting.iter().map(|(id, (side, _))| {
            let id = RawDocument::from_bytes(id).map_or_else(|error| format!("({error})"), text);
            match side {
                Side::Source => DifferenceKind::MissingDocument(id),
                Side::Target => DifferenceKind::ExtraDocument(id),
            }
        });
        let count = self.differing.len() + self.waiting.len();
        differing.chain(missing).take(NAMED).for_each(&mut *report);
        if count > NAMED {
            report(DifferenceKind::MoreDocuments((count - NAMED) as u64));
        }
        if let (0, true, Some(first)) = (count, capped, self.first) {
            report(DifferenceKind::Order(text(&first)));
        }
    }
}
