//! Record of the users and roles that the migration has made on the target.

use bson::raw::RawDocumentBuf;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::model::raw::record;
use crate::model::{Account, AccountName};
use crate::sink::Records;
use crate::users::{KnownName, Made, fingerprint};

const OPERATION: &str = "record users and roles";

/// Name of the record on the sink.
const NAME: &str = "users";

/// Maximum number of fingerprints of one user or role. More than two are needed only after several calls without an answer.
const PRINTS: usize = 4;

/// What the migration has made, and whether a change is on its way. It is saved before each change, so that the next process knows what
/// this one was doing.
#[derive(Default)]
pub(crate) struct Record {
    fence: i64,
    /// Whether a change may not have been completed, so that temporary collections may have been left behind.
    pub is_busy: bool,
    pub made: Made,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    fence: i64,
    busy: bool,
    made: Vec<KnownName>,
}

impl Record {
    /// Reads the record.
    ///
    /// # Errors
    /// A server error.
    pub async fn load(records: &Records) -> Result<Self> {
        let Some(record) = records.load(NAME).await? else {
            return Ok(Self::default());
        };
        Self::decode(&record)
    }

    fn decode(kept: &RawDocumentBuf) -> Result<Self> {
        let stored: Stored = record::decode(kept.as_bytes()).map_err(|error| {
            let message = "the record of users on the target is damaged or of another version";
            Error::new(ErrorKind::CheckpointMismatch, OPERATION, message).with_source(error)
        })?;
        let made = stored.made.into_iter().map(|known| (known.name, known.prints));
        Ok(Self {
            fence: stored.fence,
            is_busy: stored.busy,
            made: made.collect(),
        })
    }

    fn encode(&self) -> Result<RawDocumentBuf> {
        let stored = Stored {
            fence: self.fence,
            busy: self.is_busy,
            made: KnownName::all(&self.made),
        };
        record::encode(&stored).map_err(|error| Error::malformed(OPERATION, error))
    }

    /// Saves the record. After an error it has to be loaded again.
    ///
    /// # Errors
    /// [`LeaseLost`](ErrorKind::LeaseLost) if another process has saved it, or a server error.
    pub async fn save(&mut self, records: &Records) -> Result<()> {
        let expected = self.fence;
        self.fence += 1;
        if records.save(NAME, &self.encode()?, expected).await? {
            return Ok(());
        }
        let message = "another process has recorded the users that it made there";
        Err(Error::new(ErrorKind::LeaseLost, OPERATION, message))
    }

    /// Deletes the record.
    ///
    /// # Errors
    /// A server error.
    pub async fn delete(records: &Records) -> Result<()> {
        records.delete(NAME).await
    }

    /// Notes what is about to be put. What exists may have the fingerprints noted before or the new ones.
    pub fn expect(&mut self, accounts: &[Account]) {
        for account in accounts {
            let prints = self.made.entry(account.name().clone()).or_default();
            let print = fingerprint(account);
            prints.retain(|other| *other != print);
            prints.push(print);
            let surplus = prints.len().saturating_sub(PRINTS);
            prints.drain(..surplus);
        }
        self.is_busy = true;
    }

    /// Notes that the target has these exactly, as far as the migration has made them, and no longer has others. Returns `true` if that is
    /// new.
    pub fn settle(&mut self, wanted: &[Account], forget: &[AccountName]) -> bool {
        let mut is_new = self.is_busy;
        self.is_busy = false;
        for name in forget {
            is_new |= self.made.remove(name).is_some();
        }
        for account in wanted {
            if let Some(made) = self.made.get_mut(account.name()) {
                let print = vec![fingerprint(account)];
                is_new |= *made != print;
                *made = print;
            }
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::model::AccountKind;

    fn user(salt: &str) -> Account {
        let credentials = rawdoc! { "SCRAM-SHA-1": { "salt": salt, "storedKey": "hidden" } };
        let document = rawdoc! { "user": "app", "db": "shop", "credentials": credentials };
        Account::new(AccountKind::User, document).unwrap()
    }

    #[test]
    fn the_record_knows_both_forms_until_one_is_settled() {
        let mut record = Record::default();
        record.expect(&[user("1")]);
        assert!(record.settle(&[user("1")], &[]), "it was busy");
        assert!(!record.settle(&[user("1")], &[]));
        record.expect(&[user("2")]);
        let name = AccountName::user("app", "shop");
        assert_eq!(record.made[&name], [fingerprint(&user("1")), fingerprint(&user("2"))]);
        let bytes = record.encode().unwrap();
        assert!(!String::from_utf8_lossy(bytes.as_bytes()).contains("hidden"));
        let mut read = Record::decode(&bytes).unwrap();
        assert!(read.is_busy && read.made == record.made);
        assert!(read.settle(&[user("2")], &[]));
        assert_eq!(read.made[&name], [fingerprint(&user("2"))]);
        for number in 0..10 {
            read.expect(&[user(&number.to_string())]);
        }
        assert_eq!(read.made[&name].len(), PRINTS);
        assert!(read.settle(&[], std::slice::from_ref(&name)) && read.made.is_empty());
    }

    #[test]
    fn what_others_made_is_not_noted() {
        let mut record = Record::default();
        assert!(!record.settle(&[user("1")], &[]));
        assert!(record.made.is_empty());
    }
}
