//! Checks of transforms and filters, on samples.

use std::thread;

use bson::RawBson;
use bson::raw::{RawDocument, RawDocumentBuf};
use bson::rawdoc;

use super::{ConformanceFailure, Found, Outcome, ensure};
use crate::model::Namespace;
use crate::model::raw::writer::RawWriter;
use crate::oplog::delta;
use crate::order::{Element, Elements, RawValue, element_type, id_of};
use crate::rules::{DeltaEffect, Predicate, Query, RuleError, TouchedFields, Transform, Transformed, delta_without};

/// The size and the depth that servers allow.
const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;
const MAX_DEPTH: usize = 200;

/// Runs every check of a transform on samples, which are documents of the source, and stops at the first that fails.
///
/// The checks also change each field of the samples by deltas in both formats, and compare what [`Transform::delta`] and
/// [`Transform::removes`] promise of them. Give
/// samples of all forms that documents of `namespace` have, with and without the fields that the transform reads. Messages have the index of
/// a sample, and not the sample.
///
/// ```
/// use mongoferry::bson::rawdoc;
/// use mongoferry::rules::FieldRules;
///
/// let rules = FieldRules::builder("masking", "1").drop("email").build()?;
/// let samples = [rawdoc! { "_id": 1, "email": "a@example.com", "n": 1 }, rawdoc! { "_id": 2 }];
/// mongoferry::conformance::check_transform(&rules, &"shop.customers".parse()?, &samples)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The first check that fails.
pub fn check_transform(
    transform: &dyn Transform,
    namespace: &Namespace,
    samples: &[RawDocumentBuf],
) -> Result<(), ConformanceFailure> {
    let identity = || Ok(transform.identity());
    check(
        "the identity of a rule stays the same",
        same(identity, "identity").map(drop),
    )?;
    let subject = Subject { transform, namespace };
    for (index, sample) in samples.iter().enumerate() {
        let on_sample = |name, outcome: Outcome| check(name, outcome.map_err(|found| of_sample(index, found)));
        on_sample(
            "the same document has the same result",
            subject.is_deterministic(sample),
        )?;
        on_sample("a result is a document with the same _id", subject.is_document(sample))?;
        on_sample("only the named fields change", subject.changes_named_fields(sample))?;
        on_sample("the inverse gives the document back", subject.is_inverted(sample))?;
        on_sample(
            "a delta has the effect that is promised",
            deltas(sample, samples)
                .iter()
                .try_for_each(|delta| subject.keeps_promise(sample, delta)),
        )?;
    }
    Ok(())
}

/// Runs every check of a filter on samples, which are documents of the source, and stops at the first that fails.
///
/// The checks change and remove the fields that the filter does not read, and compare its query with [`Query`] if that supports it.
/// Messages have the index of a sample, and not the sample.
///
/// # Errors
/// The first check that fails.
pub fn check_predicate(
    predicate: &dyn Predicate,
    namespace: &Namespace,
    samples: &[RawDocumentBuf],
) -> Result<(), ConformanceFailure> {
    let identity = || Ok(predicate.identity());
    check(
        "the identity of a rule stays the same",
        same(identity, "identity").map(drop),
    )?;
    let query = predicate
        .query()
        .and_then(|query| Query::new(query.try_into().ok()?).ok());
    for (index, sample) in samples.iter().enumerate() {
        let on_sample = |name, outcome: Outcome| check(name, outcome.map_err(|found| of_sample(index, found)));
        let decide = || predicate.fits(namespace, sample).map_err(found);
        on_sample(
            "the same document has the same decision",
            same(decide, "decision").map(drop),
        )?;
        on_sample(
            "a field that is not read decides nothing",
            unread(predicate, namespace, sample, samples),
        )?;
        if let Some(query) = &query {
            let outcome = || {
                let (by_rule, by_query) = (decide()?, query.fits(namespace, sample).map_err(found)?);
                ensure!(
                    by_rule == by_query,
                    "the filter decides {by_rule}, its query {by_query}"
                );
                Ok(())
            };
            on_sample("the query selects the same documents", outcome())?;
        }
    }
    Ok(())
}

struct Subject<'a> {
    transform: &'a dyn Transform,
    namespace: &'a Namespace,
}

impl Subject<'_> {
    fn apply(&self, document: &RawDocument) -> Result<Option<RawDocumentBuf>, Found> {
        match self.transform.apply(self.namespace, document).map_err(found)? {
            Transformed::Keep => Ok(Some(document.to_owned())),
            Transformed::Replace(after) => Ok(Some(after)),
            Transformed::Skip => Ok(None),
        }
    }

    fn is_deterministic(&self, document: &RawDocument) -> Outcome {
        let apply = || Ok(self.apply(document)?.map(RawDocumentBuf::into_bytes));
        same(apply, "result").map(drop)
    }

    fn is_document(&self, document: &RawDocument) -> Outcome {
        let Some(after) = self.apply(document)? else {
            return Ok(());
        };
        let id = |document| id_of(document).map(|id: RawValue<'_>| (id.element_type(), id.bytes().to_vec()));
        ensure!(id(document) == id(&after), "the result has another `_id`, or none");
        let bytes = after.as_bytes().len();
        ensure!(bytes <= MAX_DOCUMENT_BYTES, "the result has {bytes} bytes");
        ensure!(
            is_valid(after.as_bytes(), 1),
            "the result is malformed or nested too deep"
        );
        Ok(())
    }

    fn changes_named_fields(&self, document: &RawDocument) -> Outcome {
        let (Some(named), Some(after)) = (self.transform.changes(), self.apply(document)?) else {
            return Ok(());
        };
        let others = |document: &RawDocument| -> Vec<(Vec<u8>, u8, Vec<u8>)> {
            let other = |(name, _): &(&[u8], RawValue<'_>)| !named.iter().any(|field| field.as_bytes() == *name);
            let owned =
                |(name, value): (&[u8], RawValue<'_>)| (name.to_vec(), value.element_type(), value.bytes().to_vec());
            fields(document.as_bytes()).filter(other).map(owned).collect()
        };
        let is_same = others(document) == others(&after);
        ensure!(is_same, "a field changes that `changes` does not name");
        Ok(())
    }

    fn is_inverted(&self, document: &RawDocument) -> Outcome {
        let (Some(inverse), Some(after)) = (self.transform.inverse(), self.apply(document)?) else {
            return Ok(());
        };
        let inverse = Subject {
            transform: inverse.as_ref(),
            namespace: self.namespace,
        };
        let back = inverse.apply(&after)?;
        let is_same = back.is_some_and(|back| back.as_bytes() == document.as_bytes());
        ensure!(is_same, "the inverse of the result is another document");
        Ok(())
    }

    fn keeps_promise(&self, before: &RawDocument, delta: &RawDocument) -> Outcome {
        let (Some(mut touched), Ok(after)) = (TouchedFields::of(delta), delta::apply(before, delta)) else {
            return Ok(());
        };
        let names: Vec<&str> = touched.clone().iter().collect();
        let removed = touched.split_off(|field| self.transform.removes(self.namespace, field));
        let Some(rest) = delta_without(delta, &removed) else {
            return Ok(());
        };
        let promised = if touched.is_empty() && !removed.is_empty() {
            DeltaEffect::Nothing
        } else {
            self.transform.delta(self.namespace, &touched)
        };
        let expected = match promised {
            DeltaEffect::Image => return Ok(()),
            DeltaEffect::Nothing => self.apply(before)?,
            DeltaEffect::Forward => match self.apply(before)? {
                None => None,
                Some(was) => Some(
                    delta::apply(&was, &rest).map_err(|error| Found(format!("a forwarded delta fails: {error}")))?,
                ),
            },
        };
        let is_same = self.apply(&after)?.map(RawDocumentBuf::into_bytes) == expected.map(RawDocumentBuf::into_bytes);
        ensure!(
            is_same,
            "{promised:?} is wrong for a delta that touches {}",
            names.join(", ")
        );
        Ok(())
    }
}

fn unread(
    predicate: &dyn Predicate,
    namespace: &Namespace,
    document: &RawDocument,
    samples: &[RawDocumentBuf],
) -> Outcome {
    let expected = predicate.fits(namespace, document).map_err(found)?;
    for delta in deltas(document, samples) {
        let (Some(touched), Ok(after)) = (TouchedFields::of(&delta), delta::apply(document, &delta)) else {
            continue;
        };
        if touched.iter().any(|field| predicate.reads(field)) {
            continue;
        }
        let decision = predicate.fits(namespace, &after).map_err(found)?;
        let names: Vec<&str> = touched.iter().collect();
        ensure!(decision == expected, "the decision changes with {}", names.join(", "));
    }
    Ok(())
}

/// Deltas of both formats, each of which touches one field of the document, or a new one, or both.
fn deltas(document: &RawDocument, samples: &[RawDocumentBuf]) -> Vec<RawDocumentBuf> {
    const NEW: &str = "conformanceField";
    let some = [
        rawdoc! { "v": 0 },
        rawdoc! { "v": "conformance" },
        rawdoc! { "v": RawBson::Null },
        rawdoc! { "v": { "x": 1 } },
        rawdoc! { "v": [1, { "x": 2 }] },
    ];
    let mut names: Vec<&str> = fields(document.as_bytes())
        .filter_map(|(name, _)| std::str::from_utf8(name).ok())
        .filter(|name| *name != "_id")
        .collect();
    names.push(NEW);
    let mut deltas = Vec::new();
    for name in names {
        let elsewhere = samples.iter().flat_map(|sample| fields(sample.as_bytes()));
        let elsewhere = elsewhere
            .filter(|(other, _)| *other == name.as_bytes())
            .map(|(_, value)| value);
        let values = some
            .iter()
            .flat_map(|value| fields(value.as_bytes()))
            .map(|(_, value)| value);
        for value in values.chain(elsewhere) {
            deltas.push(v2(|diff| diff.open_document("u").value(name, value).close()));
            deltas.push(v2(|diff| diff.open_document("i").value(name, value).close()));
            deltas.push(v2(|diff| {
                diff.open_document("i")
                    .value(NEW, value)
                    .close()
                    .open_document(&format!("s{name}"))
                    .open_document("u")
                    .value("x", value)
                    .close()
                    .close()
            }));
            if !name.is_empty() && !name.contains('.') && !name.starts_with('$') {
                deltas.push(v1("$set", |paths| paths.value(name, value)));
                deltas.push(v1("$set", |paths| paths.value(&format!("{name}.x"), value)));
                deltas.push(v1("$set", |paths| {
                    paths.value(NEW, value).value(&format!("{name}.0.x"), value)
                }));
                deltas.push(v1("$unset", |paths| paths.boolean(name, true)));
            }
        }
        deltas.push(v2(|diff| diff.open_document("d").boolean(name, false).close()));
    }
    deltas
}

fn v1(section: &str, write: impl FnOnce(&mut RawWriter) -> &mut RawWriter) -> RawDocumentBuf {
    let mut writer = RawWriter::with_capacity(0);
    write(writer.int32("$v", 1).open_document(section));
    writer.finish()
}

fn v2(write: impl FnOnce(&mut RawWriter) -> &mut RawWriter) -> RawDocumentBuf {
    let mut writer = RawWriter::with_capacity(0);
    write(writer.int32("$v", 2).open_document("diff"));
    writer.finish()
}

/// Calls a function three times, once on another thread. Fails unless the results are equal.
fn same<T: PartialEq + Send>(call: impl Fn() -> Result<T, Found> + Sync, what: &str) -> Result<T, Found> {
    let first = call()?;
    let elsewhere = thread::scope(|scope| scope.spawn(&call).join());
    let elsewhere = elsewhere.map_err(|_| Found("it panics on another thread".to_owned()))??;
    ensure!(
        first == call()? && first == elsewhere,
        "the {what} differs from call to call"
    );
    Ok(first)
}

fn is_valid(document: &[u8], depth: usize) -> bool {
    depth <= MAX_DEPTH
        && Elements::of(document).all(|element| match element {
            Element::Malformed(_) => false,
            Element::Field { value, .. } => match value.element_type() {
                element_type::DOCUMENT | element_type::ARRAY => is_valid(value.bytes(), depth + 1),
                _ => true,
            },
        })
}

fn fields(document: &[u8]) -> impl Iterator<Item = (&[u8], RawValue<'_>)> {
    Elements::of(document).filter_map(|element| match element {
        Element::Field { name, value } => Some((name, value)),
        Element::Malformed(_) => None,
    })
}

fn check(check: &'static str, outcome: Outcome) -> Result<(), ConformanceFailure> {
    outcome.map_err(|Found(message)| ConformanceFailure { check, message })
}

fn of_sample(index: usize, Found(message): Found) -> Found {
    Found(format!("sample {index}: {message}"))
}

fn found(error: RuleError) -> Found {
    Found(format!("unexpected error: {error}"))
}
