//! Whether two specifications of an option or of an index are the same, what is sent to a target of them, and what it cannot keep.
//!
//! Servers store a specification in their own form: they fill in defaults, round, rename nothing but drop what has no meaning, and keep a
//! number as an int, a long or a double by their version. Both sides are therefore brought into one normal form first, and this is the only
//! place that knows it: the listing of both sides at the cutover, the target's catalogue before a copy, certificates and preflight go by it.
//!
//! Measured on 4.2.6, 4.4.2, 5.0.4, 5.0.32, 6.0.5 and 6.0.27 unless the row says otherwise. Numbers are equal by value everywhere, whatever
//! their types and however deep they stand; the order of fields counts in keys of indexes, filters, validators and pipelines alone.
//!
//! # Options of collections
//! | option | the same as |
//! |---|---|
//! | `uuid`, `temp`, `idIndex`, `ns`, `create` | nothing: the server's own notes |
//! | `capped: false` | nothing, and then `size` and `max` say nothing either |
//! | `size` of capped collections | the next multiple of 256 (servers up to 6.0 round); 0 is 4096 |
//! | `max` | whole; nothing where it is 0, negative or 2147483647 |
//! | `autoIndexId: true`, `flags`, `usePowerOf2Sizes`, `noPadding`, `$nExtents` | nothing |
//! | `autoIndexId: false` | *not kept*: every target makes the index on `_id` |
//! | `validator: {}`, `validationLevel: "strict"`, `validationAction: "error"` | nothing |
//! | `validator`, `clusteredIndex` of buckets | nothing: the server makes them, 6.0.27 others than 6.0.5 |
//! | `collation` | with all defaults filled in, without `version`; `locale: "simple"` is nothing |
//! | `viewOn`, `pipeline: []` | a view without a pipeline |
//! | `timeseries` | `granularity` and `bucketMaxSpanSeconds` filled in; `bucketRoundingSeconds` (6.3) of a granularity left out |
//! | `clusteredIndex` | `v: 2`, `name: "_id_"`, `unique: true` filled in |
//! | `recordPreImages: false`, `changeStreamPreAndPostImages: {enabled: false}` | nothing |
//! | `recordPreImages: true` | *not kept* before 4.4, and after 6.0 (read from the server's source, not tested) |
//! | `recordIdsReplicated` | nothing: 9.0 fills it in; *not kept* before 9.0 (read from the server's source, not tested) |
//! | `storageEngine`, `indexOptionDefaults` | without what is empty; settings of other engines than WiredTiger are *not kept* |
//! | `configString` | its settings in any order, without `timeseriesBucketsMayHaveMixedSchemaData` and `timeseriesBucketingParametersHaveChanged` |
//! | any other | as it stands |
//!
//! # Indexes
//! | field | the same as |
//! |---|---|
//! | `name` | what indexes are found by |
//! | `ns`, `background`, `safe`, `dropDups` | nothing: how it is built, or where |
//! | `v` | 2 where it is left out |
//! | `unique`, `sparse`, `hidden`, `prepareUnique`, `clustered` | any value that is true, or nothing |
//! | `expireAfterSeconds` | whole seconds up to 2147483647, which NaN means too |
//! | the same of a clustered index | nothing: it is that of the collection, which 6.0.27 shows here too |
//! | the same of an index of several fields, or of one of a capped collection | *not kept*: no effect, and refused (the latter by 6.0) |
//! | `wildcardProjection` | which paths are taken; 5.0.4 keeps it in a form of its own |
//! | `collation`, `storageEngine` | as for collections |
//! | `weights`, `textIndexVersion`, `default_language`, `language_override` of text indexes | whole weights in any order, the languages filled in |
//! | `2dsphereIndexVersion`, `finestIndexedLevel`, `coarsestIndexedLevel` of 2dsphere indexes | version 1 where none is stated: it is from before 2.6 |
//! | `bits`, `min`, `max` of 2d indexes | 26, -180 and 180 filled in |
//! | `bucketSize` of geoHaystack indexes | by value |
//! | these four groups in an index of another kind | *not kept*: no effect, refused or dropped since 5.0 |
//! | `hashVersion`, `seed` | *not kept*: of 2.4 to 3.2, refused since 3.4 |
//! | all but `v`, `key` and `collation` of the index on `_id` | *not kept* |
//! | `v: 1` of the index on `_id` | kept; *not kept* where the collection stood on the target with another, or is made later: entries do not say it |
//! | `partialFilterExpression` and any other | as it stands |

pub(crate) mod compare;
pub(crate) mod expiry;
mod index_spec;
pub(crate) mod kind;
mod normal;
mod not_kept;
pub(crate) mod not_migrated;
mod options;
mod storage_engine;
#[cfg(test)]
mod tests;

pub(crate) use self::compare::{
    are_same_keys, compare_indexes, compare_options, index_difference, is_same_index, is_same_kind, option_differences,
};
pub(crate) use self::index_spec::{expiry_of, index_for, is_id_index, name_of, seconds, whole_seconds};
pub use self::not_kept::NotKept;
pub(crate) use self::not_kept::{Part, not_kept};
pub(crate) use self::options::{modification_for, options_for, to_create};

/// The series of a deployment's servers, such as `[6, 0]`.
pub(crate) type Series = [u32; 2];

/// The series of a deployment.
pub(crate) fn series(deployment: &crate::model::Deployment) -> Series {
    [deployment.version[0], deployment.version[1]]
}
