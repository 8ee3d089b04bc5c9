//! The `find` that reads one range of `_id`, for source and target.

mod cut_off;
mod open_end;
mod successor;

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf, cstr};
use bson::rawdoc;
use futures::stream::BoxStream;

use self::cut_off::cut_off;
pub(crate) use self::successor::Numbers;
use self::successor::successor;
use crate::error::{Error, Result};
use crate::model::raw::writer::RawWriter;
use crate::model::{Batch, CollectionKind, Namespace, Range};
use crate::mongo::client::code;
use crate::order::{Key, element_type};

/// Returns how many documents a reply of about `batch_bytes` holds. `document_bytes` is the approximate size of a document, or 0 if it is
/// not known.
pub(crate) fn batch_size(batch_bytes: usize, document_bytes: usize) -> u32 {
    let document_bytes = if document_bytes == 0 { 4096 } else { document_bytes };
    u32::try_from((batch_bytes / document_bytes).clamp(1, 100_000)).unwrap_or(1)
}

/// Maximum size of both bounds together, in bytes. The whole command then stays below the server's limit, 16 MB plus 16 KB.
const MOST_BOUND_BYTES: usize = 16 * 1024 * 1024;

/// A `find` command, and where its documents end.
pub(crate) struct RangeFind {
    pub command: RawDocumentBuf,
    /// Upper end of the range, if the command does not state it and returns documents beyond it.
    cut_off: Option<Key>,
}

impl RangeFind {
    /// Restricts the documents further to those that match `query`.
    ///
    /// # Errors
    /// The query is malformed.
    pub fn require(&mut self, query: &RawDocument) -> Result<()> {
        let mut command = RawDocumentBuf::new();
        let mut filter = query.to_owned();
        for element in &self.command {
            let (name, value) = element.map_err(|error| Error::malformed("read documents", error))?;
            match (name.as_str(), value) {
                ("filter", RawBsonRef::Document(range)) => {
                    filter = rawdoc! { "$and": [range.to_owned(), query.to_owned()] }
                }
                _ => command.append(name, value),
            }
        }
        command.append(cstr!("filter"), filter);
        self.command = command;
        Ok(())
    }

    /// Restricts the documents that the command returns to those of the range.
    pub fn within(self, batches: BoxStream<'static, Result<Batch>>) -> BoxStream<'static, Result<Batch>> {
        match self.cut_off {
            Some(upper) => cut_off(batches, upper),
            None => batches,
        }
    }
}

/// Opens a read of a range whose bounds may be these numbers. If the index on `_id` turns out to hold no Decimal128, because it is from before
/// 3.4 or was made as one of these, opens it [`WithoutDecimal`](Numbers::WithoutDecimal).
///
/// # Errors
/// An error of `open`, with the namespace.
pub(crate) async fn open_range<T, F>(namespace: &Namespace, numbers: Numbers, open: impl Fn(Numbers) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let opened = match open(numbers).await {
        Err(error) if numbers == Numbers::All && lacks_decimals(&error) => open(Numbers::WithoutDecimal).await,
        opened => opened,
    };
    opened.map_err(|error| error.with_context("namespace", namespace))
}

/// Whether a server refuses a range because the index on `_id` holds no Decimal128.
fn lacks_decimals(error: &Error) -> bool {
    /// UnsupportedFormat: "Index version does not support NumberDecimal".
    const UNSUPPORTED_FORMAT: i32 = 12;
    code(error) == Some(UNSUPPORTED_FORMAT)
}

/// Builds the `find` for the documents of `range`: in `_id` order if `kind` has ranges, otherwise all documents in natural order.
///
/// In a query, `$gt` and `$lte` match only values of the type of their argument. They cannot express a range over several types. The index
/// bounds `min` and `max` cover all types, but `min` is inclusive and `max` is exclusive, the opposite of a [`Range`]. Both bounds are
/// therefore moved up to the next value that can exist. Exactly the documents between `lower` (excluded) and `upper` (included) lie between
/// the moved bounds. A filter is needed only if there is no upper end. If both bounds do not fit into one command, only the lower one is
/// sent.
pub(crate) fn range_find(
    namespace: &Namespace,
    kind: CollectionKind,
    range: &Range,
    batch_size: u32,
    read_concern: Option<&RawDocument>,
    numbers: Numbers,
) -> RangeFind {
    let mut upper = None;
    let mut command = RawWriter::with_capacity(256);
    command.string("find", namespace.collection());
    match bounds(range, numbers) {
        _ if !kind.has_ranges() => natural(&mut command),
        None => {
            command.open_document("filter").open_document("_id");
            command.open_array("$in").close().close().close();
        }
        Some(bounds) if kind == CollectionKind::TimeSeriesBuckets => buckets(&mut command, range, &bounds),
        Some((min, mut max)) => {
            let bytes = |bound: &Option<Key>| bound.as_ref().map_or(0, |bound| bound.document_bytes().len());
            if bytes(&min) + bytes(&max) > MOST_BOUND_BYTES && min.is_some() && max.take().is_some() {
                upper.clone_from(&range.upper);
            }
            command.open_document("hint").int32("_id", 1).close();
            let min = match &range.lower {
                Some(lower) if max.is_none() && upper.is_none() && kind == CollectionKind::Plain => {
                    open_end::write(&mut command, lower);
                    None
                }
                _ => min,
            };
            for (name, bound) in [("min", min), ("max", max)] {
                if let Some(bound) = bound {
                    command.value_bytes(name, element_type::DOCUMENT, bound.document_bytes());
                }
            }
        }
    }
    command.int64("batchSize", i64::from(batch_size));
    if let Some(read_concern) = read_concern {
        command.document("readConcern", read_concern);
    }
    RangeFind {
        command: command.finish(),
        cut_off: upper,
    }
}

/// Returns the least value in the range and the least value above it, or `None` if nothing can be in the range.
fn bounds(range: &Range, numbers: Numbers) -> Option<(Option<Key>, Option<Key>)> {
    let min = match &range.lower {
        // Nothing is above MaxKey.
        Some(lower) => Some(successor(lower, numbers)?),
        None => None,
    };
    let max = range.upper.as_ref().and_then(|upper| successor(upper, numbers));
    match (&min, &max) {
        (Some(min), Some(max)) if min >= max => None,
        _ => Some((min, max)),
    }
}

fn natural(command: &mut RawWriter) {
    command.open_document("hint").int32("$natural", 1).close();
}

/// Buckets are stored by `_id` and have no index on it. Every `_id` is an ObjectId. 5.0 accepts neither `min` nor `max` for buckets, but
/// scans only the part of the collection that a filter on `_id` allows.
fn buckets(command: &mut RawWriter, range: &Range, (min, max): &(Option<Key>, Option<Key>)) {
    let is_object_id = |key: &Key| key.as_raw().element_type() == element_type::OBJECT_ID;
    let first = Key::from(RawBsonRef::ObjectId(bson::oid::ObjectId::from_bytes([0; 12])));
    let last = Key::from(RawBsonRef::ObjectId(bson::oid::ObjectId::from_bytes([0xff; 12])));
    // A bound of another type lies below all buckets or above all buckets.
    let above_all = min.as_ref().is_some_and(|min| *min > last) || max.as_ref().is_some_and(|max| *max <= first);
    command.open_document("filter").open_document("_id");
    if above_all {
        command.open_array("$in").close();
    } else {
        match range.lower.as_ref().filter(|key| is_object_id(key)) {
            Some(lower) => command.value("$gt", lower.as_raw()),
            None => command.value("$gte", first.as_raw()),
        };
        match range.upper.as_ref().filter(|key| is_object_id(key)) {
            Some(upper) => command.value("$lte", upper.as_raw()),
            None => command.value("$lte", last.as_raw()),
        };
    }
    command.close().close();
    natural(command);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: impl Into<bson::raw::RawBson>) -> Key {
        let value = value.into();
        Key::from(value.as_raw_bson_ref())
    }

    #[test]
    fn a_query_is_required_besides_the_range() {
        let query = rawdoc! { "state": "open" };
        let find = |lower: i32, upper: Option<i32>| {
            let range = Range {
                lower: Some(key(lower)),
                upper: upper.map(key),
            };
            let mut find = plain(&range);
            let before = find.command.clone();
            find.require(&query).unwrap();
            (before, find.command)
        };
        let (before, command) = find(1, Some(5));
        assert_eq!(command.get_document("filter").unwrap().to_owned(), query);
        assert_eq!(command.get("max").unwrap(), before.get("max").unwrap());
        // A range without an upper end has a filter of its own.
        let (before, command) = find(1, None);
        let both = rawdoc! { "$and": [before.get_document("filter").unwrap().to_owned(), query.clone()] };
        assert_eq!(command.get_document("filter").unwrap().to_owned(), both);
        assert_eq!(command.iter().next().unwrap().unwrap().0.as_str(), "find");
    }

    fn plain(range: &Range) -> RangeFind {
        find_of(CollectionKind::Plain, range)
    }

    fn find_of(kind: CollectionKind, range: &Range) -> RangeFind {
        range_find(&Namespace::new("d", "c"), kind, range, 10, None, Numbers::All)
    }

    fn find(kind: CollectionKind, lower: Option<Key>, upper: Option<Key>) -> RawDocumentBuf {
        find_of(kind, &Range { lower, upper }).command
    }

    #[test]
    fn bounds_are_moved_up_to_the_next_value() {
        assert_eq!(
            find(CollectionKind::Plain, Some(key("a")), Some(key(true))),
            rawdoc! {
                "find": "c", "hint": { "_id": 1 }, "min": { "_id": "a\0" },
                "max": { "_id": bson::DateTime::MIN }, "batchSize": 10_i64,
            }
        );
        assert_eq!(
            find(CollectionKind::Clustered, None, None),
            rawdoc! { "find": "c", "hint": { "_id": 1 }, "batchSize": 10_i64 }
        );
        assert_eq!(
            find(CollectionKind::Capped, None, None),
            rawdoc! { "find": "c", "hint": { "$natural": 1 }, "batchSize": 10_i64 }
        );
    }

    #[test]
    fn of_two_bounds_that_do_not_fit_the_lower_one_is_sent() {
        let large = |letter: &str| key(letter.repeat(MOST_BOUND_BYTES / 2));
        for (lower, upper, is_cut) in [
            (Some(large("a")), Some(large("b")), true),
            (Some(key("a")), Some(large("b")), false),
            (None, Some(key("b".repeat(MOST_BOUND_BYTES))), false),
        ] {
            let range = Range { lower, upper };
            let find = plain(&range);
            assert_eq!(find.cut_off.is_some(), is_cut);
            assert_eq!(find.command.get("max").unwrap().is_none(), is_cut);
            assert_eq!(find.command.get("min").unwrap().is_some(), range.lower.is_some());
            assert_eq!(find.command.get("filter").unwrap(), None);
            assert!(find.command.as_bytes().len() < MOST_BOUND_BYTES + 4096);
        }
    }

    #[test]
    fn a_range_with_nothing_in_it_asks_for_nothing() {
        let nothing = rawdoc! { "find": "c", "filter": { "_id": { "$in": [] } }, "batchSize": 10_i64 };
        for (lower, upper) in [
            (Some(key(1)), Some(key(1_i64))),
            (Some(key(2)), Some(key(1))),
            (Some(Key::MAX), None),
        ] {
            assert_eq!(find(CollectionKind::Plain, lower, upper), nothing);
        }
    }
}
