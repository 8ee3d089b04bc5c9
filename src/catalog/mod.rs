//! Compares specifications of collections and indexes, and prepares them for a target.
//!
//! This module compares the two sides, decides what to send to a target, and finds what the target cannot keep. Servers store a
//! specification in their own form. They fill in defaults, round numbers, drop fields without meaning, and store a number as an int, a long
//! or a double, depending on their version. Both sides are therefore converted to one normal form first. All knowledge about that form is
//! in this module. The listing of both sides at the cutover, the target's catalog before a copy, certificates and preflight all use it.
//!
//! The rows were measured on 4.2.6, 4.4.2, 5.0.4, 5.0.32, 6.0.5 and 6.0.27 unless they say otherwise. "Nothing" means that the option
//! counts as absent. *Not kept* means that the target cannot store it. Numbers are equal by value everywhere, whatever their types and
//! however deeply nested. The order of fields matters only in index keys, filters, validators and pipelines.
//!
//! # Options of collections
//! | option | equal to |
//! |---|---|
//! | `uuid`, `temp`, `idIndex`, `ns`, `create` | nothing: internal to the server |
//! | `capped: false` | nothing, and `size` and `max` then have no meaning either |
//! | `size` of capped collections | the next multiple of 256 (servers up to 6.0 round up); 0 is 4096 |
//! | `max` | the whole number; nothing if 0, negative or 2147483647 |
//! | `autoIndexId: true`, `flags`, `usePowerOf2Sizes`, `noPadding`, `$nExtents` | nothing |
//! | `autoIndexId: false` | *not kept*: every target creates the index on `_id` |
//! | `validator: {}`, `validationLevel: "strict"`, `validationAction: "error"` | nothing |
//! | `validator`, `clusteredIndex` of buckets | nothing: the server sets them, and 6.0.27 sets others than 6.0.5 |
//! | `collation` | with all defaults filled in, without `version`; `locale: "simple"` is nothing |
//! | `viewOn`, `pipeline: []` | a view without a pipeline |
//! | `timeseries` | `granularity` and `bucketMaxSpanSeconds` filled in; `bucketRoundingSeconds` (6.3) of a granularity left out |
//! | `clusteredIndex` | `v: 2`, `name: "_id_"`, `unique: true` filled in |
//! | `recordPreImages: false`, `changeStreamPreAndPostImages: {enabled: false}` | nothing |
//! | `recordPreImages: true` | *not kept* before 4.4, and after 6.0 (read from the server's source, not tested) |
//! | `recordIdsReplicated` | nothing: 9.0 fills it in; *not kept* before 9.0 (read from the server's source, not tested) |
//! | `storageEngine`, `indexOptionDefaults` | without empty parts; settings of engines other than WiredTiger are *not kept* |
//! | `configString` | its settings in any order, without `timeseriesBucketsMayHaveMixedSchemaData` and `timeseriesBucketingParametersHaveChanged` |
//! | any other | the value itself |
//!
//! # Indexes
//! | field | equal to |
//! |---|---|
//! | `name` | identifies the index |
//! | `ns`, `background`, `safe`, `dropDups` | nothing: where the index is, or how to build it |
//! | `key` | a value that is no number other than 0, and no name of an index kind, is 1: *not kept* (servers before 3.4 accepted any) |
//! | `v` | 2 if absent; 0 is 1: *not kept*, refused since 3.4 |
//! | `unique`, `sparse`, `hidden`, `prepareUnique`, `clustered` | true for any true value, else nothing |
//! | `expireAfterSeconds` | whole seconds up to 2147483647; NaN is 2147483647 |
//! | `expireAfterSeconds` of a clustered index | nothing: it belongs to the collection, and 6.0.27 shows it here too |
//! | `expireAfterSeconds` of a compound index, or in a capped collection | *not kept*: no effect, and refused (if capped: by 6.0) |
//! | `wildcardProjection` | the paths that it includes; 5.0.4 stores them in a form of its own |
//! | `collation`, `storageEngine` | as for collections |
//! | `weights`, `textIndexVersion`, `default_language`, `language_override` of text indexes | whole weights in any order, languages filled in |
//! | `2dsphereIndexVersion`, `finestIndexedLevel`, `coarsestIndexedLevel` of 2dsphere indexes | version 1 if absent: from before 2.6 |
//! | `bits`, `min`, `max` of 2d indexes | 26, -180 and 180 filled in |
//! | `bucketSize` of geoHaystack indexes | by value |
//! | the fields of the four rows above in an index of another kind | *not kept*: no effect, refused or dropped since 5.0 |
//! | `hashVersion`, `seed` | *not kept*: written by 2.4 to 3.2, refused since 3.4 |
//! | all but `v`, `key` and `collation` of the index on `_id` | *not kept* |
//! | `v: 1` of the index on `_id` | kept; *not kept* if the target's collection has another one, or if made later: entries lack it |
//! | any other field of an index of format 1, from before 3.4 | *not kept*: no effect, refused since 3.4 |
//! | `partialFilterExpression` and any other | the value itself |

pub(crate) mod compare;
pub(crate) mod expiry;
mod index_spec;
pub(crate) mod kind;
#[cfg(feature = "legacy")]
pub(crate) mod legacy;
mod normal;
mod not_kept;
pub(crate) mod not_migrated;
mod options;
mod storage_engine;
#[cfg(test)]
mod tests;

use crate::model::Deployment;

pub(crate) use self::compare::{
    are_same_keys, compare_indexes, compare_options, index_difference, is_same_index, is_same_kind, option_differences,
};
pub(crate) use self::index_spec::{expiry_of, index_for, is_accepted, is_id_index, name_of, seconds, whole_seconds};
pub use self::not_kept::NotKept;
pub(crate) use self::not_kept::{Part, not_kept};
pub(crate) use self::options::{modification_for, options_for, to_create};

/// A release series of servers, such as `[6, 0]`.
pub(crate) type Series = [u32; 2];

/// The release series of a deployment's servers.
pub(crate) fn series(deployment: &Deployment) -> Series {
    [deployment.version[0], deployment.version[1]]
}
