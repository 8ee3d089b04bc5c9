//! Rules for filters and transforms: what they cannot be applied to, and what their results collide with.

use std::collections::{BTreeMap, BTreeSet};

use bson::RawBsonRef;
use bson::raw::{RawDocument, RawDocumentBuf};
use futures::StreamExt;
use futures::stream::BoxStream;

use super::Context;
use super::ruled_expiry::expired;
use crate::config::{IndexPolicy, OnRuleError, Settings};
use crate::error::{ErrorKind, Finding, FindingCode, Result};
use crate::model::{Batch, Collection, CollectionKind, Namespace, Position, Range, shown};
use crate::order::Key;
use crate::rules::{DocumentRule, Predicate, Query, RuleError, RuleSet, Shaped};
use crate::source::{ReadMode, ReadRequest, Source};

/// Number of documents of a collection that the rules are tried on, and their approximate size in bytes.
const SAMPLE_DOCUMENTS: usize = 500;
const SAMPLE_BYTES: usize = 1 << 20;

/// Checks what the collections are that filters and transforms apply to.
pub(super) fn check(context: &Context<'_>, findings: &mut Vec<Finding>) {
    let settings = context.settings;
    unsupported(settings, findings);
    for collection in context.selected {
        let name = shown(&collection.namespace);
        match collection.kind {
            CollectionKind::View => view(&settings.rules, collection, findings),
            _ if settings.rules.of(&name).is_none() => {}
            CollectionKind::TimeSeries | CollectionKind::TimeSeriesBuckets => findings.push(refused(
                &name,
                "is a time-series collection, which stores documents in another form than that which rules apply to",
            )),
            CollectionKind::Capped => findings.push(refused(
                &name,
                "is capped, and on the target it would have room for other documents than on the source",
            )),
            _ => {}
        }
    }
}

/// Reports filters that cannot be evaluated.
pub(super) fn unsupported(settings: &Settings, findings: &mut Vec<Finding>) {
    for filter in &settings.unsupported_filters {
        findings.push(
            Finding::blocker(
                FindingCode::FilterUnsupported,
                format!("the filter of `{}` cannot be used: {}", filter.pattern, filter.reason),
                "use supported operators, or a `Predicate` with `filter_with`",
            )
            .about(&filter.pattern),
        );
    }
}

fn refused(name: &Namespace, why: &str) -> Finding {
    Finding::blocker(
        FindingCode::RuledCollection,
        format!("filters and transforms cannot be applied to `{name}`: it {why}"),
        format!("change the patterns of the rules, or leave it out with `.exclude(\"{name}\")`"),
    )
    .about(name.as_str())
}

fn view(rules: &RuleSet, view: &Collection, findings: &mut Vec<Finding>) {
    let mut read = BTreeSet::new();
    if let Ok(on) = view.options.get_str("viewOn") {
        read.insert(on.to_owned());
    }
    if let Ok(pipeline) = view.options.get_array("pipeline") {
        for stage in pipeline.into_iter().flatten() {
            joined(stage, 0, &mut read);
        }
    }
    let database = view.namespace.database();
    let ruled = read.into_iter().map(|name| Namespace::new(database, &name));
    for name in ruled.filter(|name| rules.of(name).is_some()) {
        findings.push(
            Finding::warning(
                FindingCode::RuledView,
                format!(
                    "the view `{}` reads `{name}`, whose documents are filtered or transformed; it will show these",
                    view.namespace
                ),
                "see whether the view's pipeline still finds its fields, or exclude the view",
            )
            .about(view.namespace.as_str()),
        );
    }
}

/// Collects the names of collections that `$lookup`, `$graphLookup` and `$unionWith` read.
fn joined(value: RawBsonRef<'_>, depth: usize, read: &mut BTreeSet<String>) {
    const DEPTH: usize = 100;
    let fields = match value {
        _ if depth > DEPTH => return,
        RawBsonRef::Document(document) => document.to_owned(),
        RawBsonRef::Array(array) => {
            array
                .into_iter()
                .flatten()
                .for_each(|value| joined(value, depth + 1, read));
            return;
        }
        _ => return,
    };
    for (name, value) in fields.iter().flatten() {
        match (name.as_str(), value) {
            ("from" | "coll" | "$unionWith", RawBsonRef::String(name)) => {
                read.insert(name.to_owned());
            }
            (_, value) => joined(value, depth + 1, read),
        }
    }
}

/// Tries the rules on some documents of each collection.
///
/// # Errors
/// The connection broke.
pub(super) async fn try_on_samples(
    source: &dyn Source,
    settings: &Settings,
    selected: &[&Collection],
    findings: &mut Vec<Finding>,
) -> Result<()> {
    if settings.rules.is_empty() {
        return Ok(());
    }
    for collection in selected {
        let can_have = matches!(
            collection.kind,
            CollectionKind::Plain | CollectionKind::Clustered | CollectionKind::Unordered
        );
        let Some(rule) = settings.rules.of(&collection.namespace).filter(|_| can_have) else {
            continue;
        };
        match sample(source, collection).await {
            Ok(documents) => tried(&rule, settings, collection, &documents, findings),
            Err(error) if error.kind() == ErrorKind::Connection => return Err(error),
            Err(error) => findings.push(
                Finding::note(
                    FindingCode::Unchecked,
                    format!("the rules of `{}` could not be tried: {error:#}", collection.namespace),
                    "see the reason",
                )
                .about(collection.namespace.as_str())
                .because("rules"),
            ),
        }
    }
    Ok(())
}

async fn sample(source: &dyn Source, collection: &Collection) -> Result<Vec<RawDocumentBuf>> {
    let request = ReadRequest {
        namespace: collection.namespace.clone(),
        kind: collection.kind,
        range: Range::FULL,
        at: Position::ZERO,
        mode: ReadMode::Interval,
        batch_bytes: SAMPLE_BYTES,
        document_bytes: usize::try_from(collection.bytes / collection.documents.max(1)).unwrap_or_default(),
    };
    first_of(source.read(request).await?).await
}

/// The first documents of a read, as many as a sample has.
async fn first_of(mut batches: BoxStream<'_, Result<Batch>>) -> Result<Vec<RawDocumentBuf>> {
    let (mut documents, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        for document in batch.iter() {
            bytes += document.as_bytes().len();
            documents.push(document.to_owned());
            if bytes >= SAMPLE_BYTES || documents.len() >= SAMPLE_DOCUMENTS {
                return Ok(documents);
            }
        }
    }
    Ok(documents)
}

/// Reports what the rules make of a sample.
fn tried(
    rule: &DocumentRule,
    settings: &Settings,
    collection: &Collection,
    documents: &[RawDocumentBuf],
    findings: &mut Vec<Finding>,
) {
    let name = &collection.namespace;
    let (mut failed, mut unsteady, mut changed) = (BTreeMap::new(), false, Vec::new());
    for document in documents {
        let shaped = rule.apply(name, document);
        unsteady |= shaped != rule.apply(name, document);
        match shaped {
            Ok(Shaped::Same) => changed.push(document.clone()),
            Ok(Shaped::Changed(document)) => changed.push(document),
            Ok(Shaped::Absent) => {}
            Err(error) => {
                *failed
                    .entry((error.to_string(), error.error == RuleError::Panicked))
                    .or_insert(0) += 1
            }
        }
    }
    for ((error, is_panic), count) in failed {
        let message = format!("in `{name}`, for {count} of {} documents, {error}", documents.len());
        let finding = match settings.on_rule_error == OnRuleError::Fail || is_panic {
            true => Finding::blocker(
                FindingCode::RuleFails,
                message,
                "correct the rule or the documents, or choose another `on_rule_error`",
            ),
            false => Finding::warning(
                FindingCode::RuleFails,
                message,
                "nothing, if these documents are to be left out",
            ),
        };
        findings.push(finding.about(name.as_str()));
    }
    if unsteady {
        findings.push(
            Finding::blocker(
                FindingCode::RuleUnsteady,
                format!(
                    "a rule of `{name}` returned two results for one document; verification would find differences"
                ),
                "make the result depend on nothing but the namespace and the document",
            )
            .about(name.as_str()),
        );
    }
    if settings.collections.of(name).indexes != IndexPolicy::Never {
        indexes(rule, collection, (documents, &changed), findings);
    }
    validator(rule, collection, &changed, findings);
}

/// The top-level fields that the transforms change. `None` if it may be any.
fn changed_fields(rule: &DocumentRule) -> Option<BTreeSet<String>> {
    let mut fields = BTreeSet::new();
    for transform in rule.transforms() {
        fields.extend(transform.changes()?);
    }
    Some(fields)
}

fn indexes(
    rule: &DocumentRule,
    collection: &Collection,
    (documents, changed): (&[RawDocumentBuf], &[RawDocumentBuf]),
    findings: &mut Vec<Finding>,
) {
    let fields = changed_fields(rule);
    if fields.as_ref().is_some_and(BTreeSet::is_empty) {
        return;
    }
    for index in &collection.indexes {
        let Ok(keys) = index.get_document("key") else { continue };
        let paths: Vec<&str> = keys.iter().flatten().map(|(path, _)| path.as_str()).collect();
        if paths == ["_id"] {
            continue;
        }
        let is_concerned = |path: &&str| {
            let top = path.split('.').next().unwrap_or_default();
            // Wildcards and text indexes of all fields.
            top.starts_with('$') || fields.as_ref().is_none_or(|fields| fields.contains(top))
        };
        let is_partial_on_changed = index
            .get_document("partialFilterExpression")
            .is_ok_and(|filter| mentions(filter, fields.as_ref(), 0));
        if !paths.iter().any(is_concerned) && !is_partial_on_changed {
            continue;
        }
        let name = index.get_str("name").unwrap_or("?");
        let special = keys.iter().flatten().find_map(|(_, value)| value.as_str());
        let is_unique = index.get_bool("unique").unwrap_or_default();
        let of = &collection.namespace;
        // A sample that is read while it changes can have one key in two documents of the source. It says nothing about the rules.
        let makes_duplicates = || has_duplicates(index, &paths, changed) && !has_duplicates(index, &paths, documents);
        let gone = match paths.as_slice() {
            [path] => expired(index, path, changed, bson::DateTime::now()),
            _ => 0,
        };
        let finding = if gone > 0 {
            Finding::blocker(
                FindingCode::RuledIndex,
                format!(
                    "the TTL index `{name}` of `{of}` is on a field that a transform changes, and {gone} of {} results would expire on the \
                     target during the run, because their dates are before 1973",
                    changed.len()
                ),
                "leave the field as it is, drop the index on the source, or leave the collection's indexes out",
            )
        } else if is_unique && makes_duplicates() {
            Finding::blocker(
                FindingCode::RuledUniqueIndex,
                format!(
                    "the unique index `{name}` of `{of}` is on fields that a transform changes, and some of its results are equal"
                ),
                "use a transform that keeps different values different, such as `hash`, or drop the index on the source",
            )
        } else {
            let message = match special {
                Some(kind) => format!(
                    "the {kind} index `{name}` of `{of}` is on fields that a transform changes; documents without values that fit it are \
                     refused, or not found by it"
                ),
                None => format!("the index `{name}` of `{of}` is on fields that a transform changes"),
            };
            let fix = match is_unique {
                true => "make sure that different values stay different; documents with equal ones would be refused",
                false => {
                    "nothing, if the index is to have the changed values; otherwise leave the collection's indexes out"
                }
            };
            Finding::warning(FindingCode::RuledIndex, message, fix)
        };
        findings.push(finding.about(of.as_str()));
    }
}

/// Whether a document mentions one of the fields as the beginning of a path.
fn mentions(document: &RawDocument, fields: Option<&BTreeSet<String>>, depth: usize) -> bool {
    const DEPTH: usize = 100;
    let Some(fields) = fields else { return true };
    depth > DEPTH
        || document.iter().flatten().any(|(name, value)| {
            fields.contains(name.as_str().split('.').next().unwrap_or_default())
                || match value {
                    RawBsonRef::Document(inner) => mentions(inner, Some(fields), depth + 1),
                    RawBsonRef::Array(array) => array.into_iter().flatten().any(|value| match value {
                        RawBsonRef::Document(inner) => mentions(inner, Some(fields), depth + 1),
                        RawBsonRef::String(text) => fields.contains(text.trim_start_matches('$')),
                        _ => false,
                    }),
                    RawBsonRef::String(text) => fields.contains(text.trim_start_matches('$')),
                    _ => false,
                }
        })
}

/// Whether two documents have the same values of the index. Only values of fields at the top, that are no arrays, are compared.
fn has_duplicates(index: &RawDocument, paths: &[&str], documents: &[RawDocumentBuf]) -> bool {
    if index
        .get("partialFilterExpression")
        .is_ok_and(|filter| filter.is_some())
    {
        return false;
    }
    let is_sparse = index.get_bool("sparse").unwrap_or_default();
    let mut seen = BTreeSet::new();
    documents.iter().any(|document| {
        let mut key = Vec::with_capacity(paths.len());
        for path in paths {
            match document.get(path) {
                Ok(Some(RawBsonRef::Array(_))) | Err(_) => return false,
                Ok(Some(value)) => key.push(Key::from(value)),
                Ok(None) if is_sparse || path.contains('.') => return false,
                Ok(None) => key.push(Key::from(RawBsonRef::Null)),
            }
        }
        !seen.insert(key)
    })
}

fn validator(rule: &DocumentRule, collection: &Collection, changed: &[RawDocumentBuf], findings: &mut Vec<Finding>) {
    let Ok(validator) = collection.options.get_document("validator") else {
        return;
    };
    let name = &collection.namespace;
    let fields = changed_fields(rule);
    if fields.as_ref().is_some_and(BTreeSet::is_empty) {
        return;
    }
    let query = bson::Document::try_from(validator)
        .ok()
        .and_then(|validator| Query::new(validator).ok());
    let (message, because) = match query {
        Some(query) => {
            let fails = |document: &&RawDocumentBuf| !query.fits(name, document).unwrap_or(true);
            let count = changed.iter().filter(fails).count();
            if count == 0 {
                return;
            }
            let message = format!(
                "the validator of `{name}` refuses {count} of {} transformed documents; they arrive, but applications could not update them",
                changed.len()
            );
            (message, "refuses")
        }
        None if mentions(validator, fields.as_ref(), 0) => (
            format!("the validator of `{name}` uses fields that a transform changes, and cannot be tried here"),
            "unknown",
        ),
        None => return,
    };
    findings.push(
        Finding::warning(
            FindingCode::RuledValidator,
            message,
            "give the collection on the target another validator after the cutover",
        )
        .about(name.as_str())
        .because(because),
    );
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn samples_are_bounded_in_documents_and_in_bytes() {
        for (text, expected) in [(10, SAMPLE_DOCUMENTS), (100_000, 11), (2 << 20, 1)] {
            let document = rawdoc! { "_id": 1, "text": "x".repeat(text) };
            // Each batch of two documents of 100 kB is smaller than a sample.
            let batches = (0..400).map(|_| {
                let mut batch = Batch::new();
                batch.push(&document);
                batch.push(&document);
                Ok(batch)
            });
            let sample = first_of(stream::iter(batches).boxed()).await.unwrap();
            assert_eq!(sample.len(), expected, "documents with {text} bytes");
        }
    }
}
