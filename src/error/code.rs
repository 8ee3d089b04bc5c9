//! Stable names of the preflight rules.

use std::fmt;

use serde::{Serialize, Serializer};

/// Defines each code once: as a variant, as its text, and as an entry of `ALL`.
macro_rules! codes {
    ($($variant:ident = $name:literal,)*) => {
        /// The rule behind a [`Finding`](crate::Finding), or the cause that a failed connection has.
        ///
        /// The [`preflight`](crate::preflight#rules) module says what each one means. The text of a code never changes; it is also what a
        /// code is serialized as, and it can be compared with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum FindingCode {
            $(
                #[doc = concat!("`", $name, "`")]
                $variant,
            )*
        }

        impl FindingCode {
            /// Every code.
            #[cfg(test)]
            pub(crate) const ALL: &[FindingCode] = &[$(FindingCode::$variant,)*];

            /// The text of the code, in snake case.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(FindingCode::$variant => $name,)*
                }
            }
        }
    };
}

codes! {
    ConnectionString = "connection_string",
    UnknownHost = "unknown_host",
    NotReached = "not_reached",
    NoAnswer = "no_answer",
    NoPrimary = "no_primary",
    PrimaryNotReached = "primary_not_reached",
    NotPrimary = "not_primary",
    OtherSet = "other_set",
    Standalone = "standalone",
    NotInitiated = "not_initiated",
    Mongos = "mongos",
    ServerTooOld = "server_too_old",
    TlsRequired = "tls_required",
    TlsNotOffered = "tls_not_offered",
    TlsTooOld = "tls_too_old",
    TlsFiles = "tls_files",
    Certificate = "certificate",
    ClientCertificate = "client_certificate",
    CredentialsRefused = "credentials_refused",
    SameDeployment = "same_deployment",
    MemberUnhealthy = "member_unhealthy",
    NoMajority = "no_majority",
    DelayedMajority = "delayed_majority",
    DefaultWriteConcern = "default_write_concern",
    UnusedMember = "unused_member",
    DirectConnection = "direct_connection",
    ReadPreference = "read_preference",
    Downgrade = "downgrade",
    SourceTooOld = "source_too_old",
    SourcePromise = "source_promise",
    PathNotOffered = "path_not_offered",
    UntestedPath = "untested_path",
    VersionJump = "version_jump",
    TestApplication = "test_application",
    FeatureCompatibilityChanging = "feature_compatibility_changing",
    FeatureCompatibilityLower = "feature_compatibility_lower",
    FeatureCompatibilityBehind = "feature_compatibility_behind",
    NotMongodb = "not_mongodb",
    OplogRefused = "oplog_refused",
    Unencrypted = "unencrypted",
    MissingPrivilege = "missing_privilege",
    Unchecked = "unchecked",
    SameTarget = "same_target",
    DatabaseCase = "database_case",
    NameTooLong = "name_too_long",
    CollectionOption = "collection_option",
    TimeSeries = "time_series",
    OptionNotKept = "option_not_kept",
    ViewWithoutCollection = "view_without_collection",
    QueryableEncryption = "queryable_encryption",
    ClientEncryption = "client_encryption",
    GeoHaystack = "geo_haystack",
    IndexKeyLimit = "index_key_limit",
    IndexOption = "index_option",
    IndexValue = "index_value",
    IndexOptionNotKept = "index_option_not_kept",
    IdIndexVersion = "id_index_version",
    IdIndexOption = "id_index_option",
    IdIndexMissing = "id_index_missing",
    FilterUnsupported = "filter_unsupported",
    RuledCollection = "ruled_collection",
    RuledView = "ruled_view",
    RuleFails = "rule_fails",
    RuleUnsteady = "rule_unsteady",
    RuledIndex = "ruled_index",
    RuledUniqueIndex = "ruled_unique_index",
    RuledValidator = "ruled_validator",
    NestedDocument = "nested_document",
    MisplacedId = "misplaced_id",
    UniqueViolation = "unique_violation",
    UnindexedDocuments = "unindexed_documents",
    ExistingData = "existing_data",
    LeaseHeld = "lease_held",
    OtherMigration = "other_migration",
    OverlappingMigration = "overlapping_migration",
    AlreadyComplete = "already_complete",
    OtherTool = "other_tool",
    WritesBlocked = "writes_blocked",
    WriteBlockUnavailable = "write_block_unavailable",
    DiskSpace = "disk_space",
    SmallCache = "small_cache",
    SmallOplog = "small_oplog",
    ClockSkew = "clock_skew",
    OplogWindow = "oplog_window",
    LongTransaction = "long_transaction",
    IndexBuild = "index_build",
    Profiler = "profiler",
    HeavyLoad = "heavy_load",
    LenientIndexKeys = "lenient_index_keys",
    UsersUnsupported = "users_unsupported",
    UsersExisting = "users_existing",
    UserCredentialsOld = "user_credentials_old",
    UserMechanismOff = "user_mechanism_off",
    UserExternal = "user_external",
    RoleMissing = "role_missing",
    RoleActionUnknown = "role_action_unknown",
    RoleRenamed = "role_renamed",
}

impl fmt::Display for FindingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for FindingCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl PartialEq<str> for FindingCode {
    fn eq(&self, text: &str) -> bool {
        self.as_str() == text
    }
}

impl PartialEq<&str> for FindingCode {
    fn eq(&self, text: &&str) -> bool {
        self.as_str() == *text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_documented_table_has_every_code_and_no_other() {
        let documented: Vec<&str> = include_str!("../preflight/mod.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `")?.split_once('`').map(|(code, _)| code))
            .collect();
        let unique: BTreeSet<&str> = documented.iter().copied().collect();
        assert_eq!(unique.len(), documented.len(), "a code is in the table twice");
        assert_eq!(unique, FindingCode::ALL.iter().map(|code| code.as_str()).collect());
    }
}
