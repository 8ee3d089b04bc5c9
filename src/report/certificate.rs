//! Certificate: a record of a hand-over that can be kept and checked later.

use std::time::SystemTime;

use bson::raw::RawDocumentBuf;
use serde::{Deserialize, Serialize};

use crate::catalog::{self, NotKept, Series, compare_indexes, option_differences};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::model::raw::record;
use crate::model::{ByName, Collection, CollectionKind, Deployment, Namespace, Position, by_name};
use crate::report::{AppliedRules, CarriedUser, CollectionSummary, LateWrites, UsersSummary};
use crate::sink::Sink;
use crate::source::Source;
use crate::users::hash;

/// Format version that this crate writes. It reads this one and all earlier ones.
const FORMAT: i32 = 1;

/// Record of a hand-over: what was handed over, from where to where, and the result of the verification.
///
/// [`encode`](Self::encode) returns the bytes to keep. [`serde`] can convert the certificate to other formats. Formats other than BSON,
/// such as JSON, do not preserve every number type in options and indexes. A certificate contains names, options and index specifications,
/// but never documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Certificate {
    /// Format version.
    pub format: i32,
    /// The version of this crate.
    pub mongoferry: String,
    /// The host's name for the run; see [`run_id`](crate::MigrationBuilder::run_id).
    pub run_id: Option<String>,
    /// Time of creation, by the host's clock.
    pub made: bson::DateTime,
    /// The source.
    pub source: CertifiedDeployment,
    /// The target.
    pub target: CertifiedDeployment,
    /// Position in the source's oplog up to which everything is on the target.
    pub position: Position,
    /// All migrated collections, ordered by their names on the source.
    pub collections: Vec<CertifiedCollection>,
    /// What was deliberately left out.
    pub not_migrated: Vec<String>,
    /// Parts of options and indexes that the target cannot keep, as far as known. Earlier versions of this crate did not record any.
    #[serde(default)]
    pub not_kept: Vec<NotKept>,
    /// Users and roles that were compared and are the same on both sides, without credentials. Earlier versions of this crate did not carry
    /// any.
    #[serde(default)]
    pub users: Vec<CarriedUser>,
    /// Number of accepted writes that came after the stop.
    pub late_writes: u64,
    /// What the source's version does not promise of writes that a majority has acknowledged. `None` for 4.0 and newer, which never lose
    /// such writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_promise: Option<String>,
}

/// One side of the migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CertifiedDeployment {
    /// The deployment's identity, which survives restarts and elections.
    pub identity: String,
    /// The deployment's name, such as the replica set name.
    pub name: String,
    /// The server version, such as `[6, 0, 5]`.
    pub version: [u32; 3],
    /// The feature compatibility version, such as `[6, 0]`.
    pub feature_compatibility: [u32; 2],
}

/// A collection that was handed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CertifiedCollection {
    /// The collection's name on the source.
    pub namespace: Namespace,
    /// The collection's name on the target.
    pub target: Namespace,
    /// Number of documents, according to the target's metadata. An estimate after an unclean shutdown of its primary.
    pub documents: u64,
    /// Number of bytes of uncompressed BSON, according to the target's metadata.
    pub bytes: u64,
    /// Whether the documents were compared.
    pub compared: bool,
    /// Digest of the documents, which is the same on both sides. On MongoDB it is the `dbHash` of the collection. `None` if the documents
    /// were compared one by one or during the run.
    pub digest: Option<String>,
    /// The collection's options on the source.
    pub options: RawDocumentBuf,
    /// The index specifications on the source.
    pub indexes: Vec<RawDocumentBuf>,
    /// The filters and transforms of the collection. If there are any, `compared` says that the documents are identical after them. `None` if
    /// there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<AppliedRules>,
}

impl Certificate {
    /// Encodes the certificate. Equal certificates have equal bytes.
    ///
    /// # Errors
    /// The certificate is larger than a document can be, which takes tens of thousands of collections. Use `serde` to write it in this
    /// case.
    pub fn encode(&self) -> Result<RawDocumentBuf> {
        record::encode(self).map_err(|error| {
            Error::new(
                ErrorKind::Protocol,
                "encode the certificate",
                "it does not fit into a document",
            )
            .with_source(error)
        })
    }

    /// The certificate that a checkpoint has, if its migration is complete.
    ///
    /// # Errors
    /// Same as [`decode`](Self::decode).
    pub(crate) fn of(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        checkpoint.certificate.as_ref().map(Self::decode).transpose()
    }

    /// Decodes a certificate from bytes returned by [`encode`](Self::encode).
    ///
    /// # Errors
    /// [`InvalidConfiguration`](ErrorKind::InvalidConfiguration) if the bytes are not a certificate, or if a newer version of the crate
    /// wrote it.
    pub fn decode(bytes: &RawDocumentBuf) -> Result<Self> {
        let refused = |message: String| Error::new(ErrorKind::InvalidConfiguration, "read the certificate", message);
        let format = bytes
            .get_i32("format")
            .map_err(|error| refused("this is not a certificate of this crate".to_owned()).with_source(error))?;
        if format > FORMAT {
            return Err(refused(format!(
                "it has format {format}, this version reads up to {FORMAT}: use the newer version that wrote it"
            )));
        }
        record::decode(bytes.as_bytes()).map_err(|error| refused("it is damaged".to_owned()).with_source(error))
    }

    /// Compares both sides with the certificate, and with each other by digests. Returns the deviations as text.
    ///
    /// The documents of a collection with filters or transforms are only counted on the target, because a certificate has no rules.
    ///
    /// The result is empty if nobody has written to either side since the hand-over. The check takes about as long as reading everything
    /// once.
    ///
    /// # Errors
    /// A server error.
    ///
    /// # Cancellation
    /// The future can be dropped at any time, because the check changes nothing.
    pub async fn check(&self, source: &dyn Source, sink: &dyn Sink) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let (ours, theirs) = futures::try_join!(source.describe(), sink.describe())?;
        let servers = [catalog::series(&ours), catalog::series(&theirs)];
        for (what, certified, now) in [("source", &self.source, ours), ("target", &self.target, theirs)] {
            if certified.identity != now.identity {
                found.push(format!("the {what} is `{}`, it was `{}`", now.name, certified.name));
            }
        }
        let (listed, standing) = futures::try_join!(source.collections(), sink.collections())?;
        let (listed, standing) = (by_name(&listed), by_name(&standing));
        for collection in &self.collections {
            let sides = [
                (
                    "source",
                    &collection.namespace,
                    listed.get(&collection.namespace).copied(),
                ),
                ("target", &collection.target, standing.get(&collection.target).copied()),
            ];
            for (side, name, standing) in &sides {
                match standing {
                    // The certificate has the amount of documents on the target.
                    Some(_) if *side == "source" && collection.rules.is_some() => {}
                    Some(standing) => found.extend(
                        collection
                            .differences_from(standing, if *side == "source" { &servers[..1] } else { &servers })
                            .into_iter()
                            .map(|what| format!("`{name}` on the {side}: {what}")),
                    ),
                    None => found.push(format!("`{name}` no longer exists on the {side}")),
                }
            }
            if collection.rules.is_some() {
                // Without the rules, it cannot be said what the target should have.
                continue;
            }
            let (ours, theirs) =
                futures::try_join!(source.digest(&collection.namespace), sink.digest(&collection.target))?;
            if ours != theirs {
                found.push(format!(
                    "the documents of `{}` differ on both sides",
                    collection.namespace
                ));
            }
            for (side, digest) in [("source", ours), ("target", theirs)] {
                if collection.digest.is_some() && digest != collection.digest {
                    found.push(format!(
                        "the documents of `{}` have changed on the {side}",
                        collection.namespace
                    ));
                }
            }
        }
        found.extend(self.check_users(source, sink).await?);
        Ok(found)
    }

    /// Compares the users of both sides with the certificate, without their credentials.
    async fn check_users(&self, source: &dyn Source, sink: &dyn Sink) -> Result<Vec<String>> {
        let mut found = Vec::new();
        if self.users.is_empty() {
            return Ok(found);
        }
        let names = self.users.iter().map(CarriedUser::account).collect();
        for (side, accounts) in [
            ("source", source.accounts().await),
            ("target", sink.accounts(&names).await),
        ] {
            let accounts = match accounts {
                Ok(accounts) => accounts.accounts,
                Err(error) if matches!(error.kind(), ErrorKind::Unauthorized | ErrorKind::Refused) => {
                    found.push(format!("the users on the {side} could not be compared: {error}"));
                    continue;
                }
                Err(error) => return Err(error),
            };
            for user in &self.users {
                let name = user.account();
                match accounts.iter().find(|account| *account.name() == name) {
                    None => found.push(format!("the {name} no longer exists on the {side}")),
                    // A role may name renamed collections on the target, so that it has another hash on the source.
                    Some(account) if side == "target" && hash(account) != user.hash => {
                        found.push(format!("the {name} has changed on the {side}"));
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(found)
    }

    /// Creates the certificate at the end of a cutover that found both sides identical.
    pub(crate) fn issue(
        run_id: Option<String>,
        (source, target): (&Deployment, &Deployment),
        position: Position,
        summaries: &[CollectionSummary],
        (listed, standing): (&ByName<'_>, &ByName<'_>),
        (not_migrated, not_kept, late_writes): (&[String], &[NotKept], &LateWrites),
        users: Option<&UsersSummary>,
    ) -> Self {
        let certify = |summary: &CollectionSummary| {
            let ours = listed.get(&summary.namespace)?;
            let theirs = standing.get(&summary.target)?;
            Some(CertifiedCollection {
                namespace: summary.namespace.clone(),
                target: summary.target.clone(),
                documents: theirs.documents,
                bytes: theirs.bytes,
                compared: summary.verified,
                digest: summary.digest.clone(),
                options: ours.options.clone(),
                indexes: ours.indexes.clone(),
                rules: summary.rules.clone(),
            })
        };
        let mut collections: Vec<_> = summaries.iter().filter_map(certify).collect();
        collections.sort_by(|left, right| left.namespace.cmp(&right.namespace));
        Self {
            format: FORMAT,
            mongoferry: env!("CARGO_PKG_VERSION").to_owned(),
            run_id,
            made: bson::DateTime::from_system_time(SystemTime::now()),
            source: CertifiedDeployment::of(source),
            target: CertifiedDeployment::of(target),
            position,
            collections,
            not_migrated: not_migrated.to_vec(),
            not_kept: not_kept.to_vec(),
            users: users.map(|users| users.carried.clone()).unwrap_or_default(),
            late_writes: late_writes.count,
            source_promise: source.weakness(),
        }
    }
}

impl CertifiedDeployment {
    fn of(deployment: &Deployment) -> Self {
        Self {
            identity: deployment.identity.clone(),
            name: deployment.name.clone(),
            version: deployment.version,
            feature_compatibility: deployment.feature_compatibility,
        }
    }
}

impl CertifiedCollection {
    /// Returns how `standing` deviates from the certificate.
    fn differences_from(&self, standing: &Collection, servers: &[Series]) -> Vec<String> {
        let mut found = Vec::new();
        if (standing.documents, standing.bytes) != (self.documents, self.bytes) {
            found.push(format!(
                "it has {} documents of {} bytes, and had {} of {}",
                standing.documents, standing.bytes, self.documents, self.bytes
            ));
        }
        for (field, what) in option_differences(standing.kind, &self.options, &standing.options, servers) {
            found.push(format!("the option `{field}` {what}", what = as_certified(what)));
        }
        for index in compare_indexes(&self.as_collection(standing.kind), Some(standing), servers) {
            if let Some(reason) = index.reason {
                found.push(format!("the index `{}` {}", index.name, as_certified(&reason)));
            }
        }
        found
    }

    /// The collection as it was on the source.
    fn as_collection(&self, kind: CollectionKind) -> Collection {
        Collection {
            id: bson::Uuid::from_bytes([0; 16]),
            namespace: self.namespace.clone(),
            kind,
            options: self.options.clone(),
            indexes: self.indexes.clone(),
            documents: self.documents,
            bytes: self.bytes,
        }
    }
}

/// Rewords a difference between source and target, because here the certificate takes the place of the source.
fn as_certified(what: &str) -> &str {
    match what {
        "is on the source only" | "it is missing on the target" => "is missing",
        "is on the target only" | "it is on the target only" => "is new",
        _ => "has changed",
    }
}
