use bson::raw::RawDocumentBuf;
use bson::{Uuid, rawdoc};

use super::*;
use crate::api::handle::MigrationHandle;
use crate::catalog::expiry::TTL_DISABLED_SECONDS;
use crate::catalog::name_of;
use crate::checkpoint::{Checkpoint, CheckpointStore, CollectionState, MemoryStore};
use crate::cutover::way_back::opposite;
use crate::engine::start::way_back::expires_otherwise;
use crate::engine::track::collection::CollectionProgress;
use crate::error::FindingCode;
use crate::model::{
    Account, AccountKind, AccountName, Collection, CollectionKind, Operation, Position, Selection, Write,
};
use crate::order::Key;
use crate::sink::{JournalEntry, MemorySink};
use crate::source::MemorySource;
use crate::users::{ExistingUsers, KnownName, UserSelection, Users, UsersAtHandOver, fingerprint};

const ORDERS: &str = "shop.orders";

/// State after a hand-over: the new replica set, the old one with equal data, and the way back.
struct Bench {
    new: MemorySource,
    old: MemorySink,
    store: MemoryStore,
    way_back: WayBack,
}

fn index(seconds: i32) -> RawDocumentBuf {
    rawdoc! { "v": 2, "key": { "at": 1 }, "name": "at", "expireAfterSeconds": seconds }
}

impl Bench {
    async fn new() -> Self {
        let (new, old) = (MemorySource::new(), MemorySink::new());
        new.create_collection(ORDERS, rawdoc! {}).unwrap();
        new.create_index(ORDERS, index(60)).unwrap();
        for id in 1..=5 {
            new.insert(ORDERS, rawdoc! { "_id": id, "n": 0 }).unwrap();
        }
        let make_equal = Migration::builder(new.clone(), old.clone()).checkpoint_store(MemoryStore::default());
        complete(make_equal.build().unwrap().start().await.unwrap()).await;
        let position = new.position().await.unwrap();
        let there = new.collections().await.unwrap();
        let (source, sink) = (new.describe().await.unwrap(), old.describe().await.unwrap());
        let selection = Selection::all().reversed();
        let mut first = Checkpoint::begin(source.identity, sink.identity, selection, position, position);
        first.collections = there
            .iter()
            .map(|there| opposite(&state(there), there, position))
            .collect();
        (first.created, first.copied, first.takes_back) = (true, true, Some(Uuid::new()));
        Self {
            new,
            old,
            store: MemoryStore::default(),
            way_back: WayBack { first: Box::new(first) },
        }
    }

    fn migration(&self) -> Migration {
        let back = self.way_back.reverse(self.new.clone(), self.old.clone()).unwrap();
        back.checkpoint_store(self.store.clone()).build().unwrap()
    }

    async fn start(&self) -> MigrationHandle {
        let run = self.migration().start().await.unwrap();
        run.ready_to_cut_over().await.unwrap();
        run
    }

    async fn save(&self, checkpoint: &Checkpoint) {
        self.store.save(&checkpoint.encode().unwrap()).await.unwrap();
    }

    /// Returns the number of seconds after which documents expire on the old set.
    async fn expiry(&self) -> i32 {
        let there = self.old.collections().await.unwrap();
        let index = there[0].indexes.iter().find(|index| name_of(index) == "at").unwrap();
        index.get_i32("expireAfterSeconds").unwrap()
    }

    fn assert_equal(&self) {
        assert_eq!(self.new.documents(ORDERS).unwrap(), self.old.documents(ORDERS).unwrap());
    }
}

fn state(there: &Collection) -> CollectionState {
    CollectionProgress::unread(there, there.namespace.clone(), Vec::new()).to_checkpoint()
}

async fn complete(run: MigrationHandle) -> Summary {
    let summary = run.cutover(async {}).await.unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    summary
}

#[tokio::test(start_paused = true)]
async fn it_follows_from_the_hand_over_and_copies_nothing() {
    let bench = Bench::new().await;
    let before = bench.old.journal().len();
    bench.new.update_v2(ORDERS, 2, rawdoc! { "u": { "n": 1 } }).unwrap();
    let run = bench.start().await;
    bench.new.insert(ORDERS, rawdoc! { "_id": 6, "n": 0 }).unwrap();
    let status = run.status();
    assert!(status.copy_complete && status.can_cut_over, "{status:?}");
    assert_eq!(bench.expiry().await, TTL_DISABLED_SECONDS);
    complete(run).await;
    assert_eq!(bench.expiry().await, 60);
    let journal = bench.old.journal();
    let written = journal[before..]
        .iter()
        .filter(|entry| matches!(entry, JournalEntry::Applied { .. } | JournalEntry::Inserted { .. }));
    assert_eq!(written.count(), 2, "{:?}", &journal[before..]);
    bench.assert_equal();
}

/// The old set expires documents until the way back is taken, by a rule that the new set no longer has.
#[tokio::test(start_paused = true)]
async fn what_expired_by_the_rule_of_before_comes_back() {
    let bench = Bench::new().await;
    let longer = rawdoc! { "index": { "name": "at", "expireAfterSeconds": 3600 } };
    bench.new.modify(ORDERS, longer).unwrap();
    let expired = Write {
        key: Key::from(bson::RawBsonRef::Int32(3)),
        operation: Operation::Delete,
    };
    let orders = ORDERS.parse().unwrap();
    bench
        .old
        .apply(&orders, CollectionKind::Plain, &[expired])
        .await
        .unwrap();
    complete(bench.start().await).await;
    bench.assert_equal();
    assert_eq!(bench.expiry().await, 3600);
}

#[tokio::test(start_paused = true)]
async fn it_takes_the_place_of_a_finished_migration_and_of_no_other() {
    let bench = Bench::new().await;
    let mut other = (*bench.way_back.first).clone();
    other.takes_back = Some(Uuid::new());
    bench.save(&other).await;
    let error = bench.migration().start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CheckpointMismatch, "{error}");
    other.complete = true;
    bench.save(&other).await;
    let run = bench.start().await;
    drop(run);
    // A reverse migration that has begun resumes; one that is complete does not start again.
    let kept = Checkpoint::decode(&bench.store.load().await.unwrap().unwrap()).unwrap();
    assert_eq!(kept.takes_back, bench.way_back.first.takes_back);
    complete(bench.start().await).await;
    let error = bench.migration().start().await.unwrap_err();
    assert!(error.to_string().contains("complete"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn it_is_checked_before_it_begins() {
    let bench = Bench::new().await;
    let plan = bench.migration().preflight().await.unwrap();
    assert_eq!(plan.blockers().count(), 0, "{plan}");
    assert_eq!(
        (plan.total.documents, plan.estimate),
        (0, None),
        "there is nothing to copy"
    );
    let elsewhere = MemorySource::with_seed(9);
    let back = bench.way_back.reverse(elsewhere, bench.old.clone()).unwrap();
    let migration = back.checkpoint_store(bench.store.clone()).build().unwrap();
    let plan = migration.preflight().await.unwrap();
    let codes: Vec<_> = plan.blockers().map(|finding| finding.code).collect();
    assert_eq!(codes, ["other_migration"], "{plan}");
    let error = migration.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(bench.store.load().await.unwrap().is_none());
    // The selection cannot be changed.
    let back = bench.way_back.reverse(bench.new.clone(), bench.old.clone()).unwrap();
    let error = back.include("shop.*").build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfiguration, "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_a_history_there_is_no_way_back() {
    let (source, sink) = (MemorySource::new(), MemorySink::new());
    source.insert(ORDERS, rawdoc! { "_id": 1 }).unwrap();
    let migration = || Migration::builder(source.clone(), sink.clone()).build().unwrap();
    let back = async |migration: Migration| {
        migration
            .reverse(MemorySource::new(), MemorySink::new())
            .await
            .unwrap_err()
    };
    let run = migration().start().await.unwrap();
    assert_eq!(back(migration()).await.kind(), ErrorKind::WrongPhase);
    let summary = complete(run).await;
    for error in [
        back(migration()).await,
        summary.reverse(MemorySource::new(), MemorySink::new()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }
    let differing = Summary {
        outcome: Outcome::Differences,
        ..summary
    };
    let error = differing.reverse(MemorySource::new(), MemorySink::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongPhase);
}

#[test]
fn a_collection_that_cannot_have_its_old_name_is_refused() {
    let mut selection = Selection::all();
    selection.rename("shop.orders", "shop.bought").unwrap();
    let at = Position::ZERO;
    let mut first = Checkpoint::begin("new", "old", selection.reversed(), at, at);
    // The collection already had this name before, and `shop.orders` did not exist.
    let bought = collection("shop.bought", rawdoc! {}, index(60));
    first.collections = vec![opposite(&state(&bought), &bought, at)];
    let way_back = WayBack { first: Box::new(first) };
    let error = way_back.reverse(MemorySource::new(), MemorySink::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(
        error.to_string().contains("leads it back") || error.to_string().contains("lead it back"),
        "{error}"
    );
}

fn collection(name: &str, options: RawDocumentBuf, index: RawDocumentBuf) -> Collection {
    Collection {
        id: Uuid::from_bytes([1; 16]),
        namespace: name.parse().unwrap(),
        kind: CollectionKind::Plain,
        options,
        indexes: vec![rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }, index],
        documents: 3,
        bytes: 300,
    }
}

#[test]
fn a_changed_rule_of_expiry_is_found() {
    let sessions = |options, index| collection("shop.sessions", options, index);
    let kept = rawdoc! { "v": 2, "key": { "at": 1 }, "name": "at" };
    let before = |there: &Collection| opposite(&state(there), there, Position::ZERO);
    let by_index = sessions(rawdoc! {}, index(60));
    let double = rawdoc! { "v": 2, "key": { "at": 1 }, "name": "at", "expireAfterSeconds": 60.0 };
    for (now, expected) in [
        (by_index.clone(), false),
        (sessions(rawdoc! {}, double), false),
        (sessions(rawdoc! {}, index(3600)), true),
        (sessions(rawdoc! {}, kept.clone()), true),
    ] {
        assert_eq!(expires_otherwise(&before(&by_index), &[now]), expected);
    }
    assert!(!expires_otherwise(&before(&by_index), &[]), "it was dropped");
    let by_option = sessions(rawdoc! { "expireAfterSeconds": 60_i64 }, kept.clone());
    assert!(!expires_otherwise(
        &before(&by_option),
        std::slice::from_ref(&by_option)
    ));
    let no_longer = sessions(rawdoc! {}, kept);
    assert!(expires_otherwise(&before(&by_option), std::slice::from_ref(&no_longer)));
    // Documents that did not expire before did not expire on the old source, either.
    assert!(!expires_otherwise(&before(&no_longer), &[by_option]));
}

/// A user with a password, as far as the salt tells.
fn user(name: &str, salt: &str) -> Account {
    let credentials = rawdoc! { "SCRAM-SHA-1": { "iterationCount": 10_000, "salt": salt, "storedKey": salt } };
    let document = rawdoc! { "user": name, "db": "shop", "credentials": credentials };
    Account::new(AccountKind::User, document).unwrap()
}

impl Bench {
    /// The state after a hand-over with these users.
    async fn with_users(users: &[&str], own: &[&str], selection: UserSelection) -> Self {
        let mut bench = Self::new().await;
        let mut known = Vec::new();
        for account in users.iter().map(|name| user(name, "1")) {
            bench.new.put_account(account.clone());
            bench.old.put_account(account.clone());
            let (name, prints) = (account.name().clone(), vec![fingerprint(&account)]);
            known.push(KnownName { name, prints });
        }
        let own = own.iter().map(|name| AccountName::user(*name, "shop")).collect();
        bench.way_back.first.users = Some(UsersAtHandOver { selection, known, own });
        bench
    }

    /// The old set's users with their salts, in order.
    fn users(&self) -> Vec<(String, String)> {
        let salt = |account: &Account| {
            let credentials = account.document().get_document("credentials").unwrap();
            let scram = credentials.get_document("SCRAM-SHA-1").unwrap();
            (account.name().name.clone(), scram.get_str("salt").unwrap().to_owned())
        };
        let mut users: Vec<_> = self.old.all_accounts().iter().map(salt).collect();
        users.sort();
        users
    }
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter()
        .map(|(name, salt)| (name.to_string(), salt.to_string()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn users_that_change_after_the_hand_over_change_on_the_old_set() {
    let bench = Bench::with_users(&["app", "kept", "leaver"], &["reader", "writer"], UserSelection::all()).await;
    // Those of the first direction, each on one side.
    bench.new.put_account(user("writer", "new"));
    bench.new.put_account(user("reader", "new"));
    bench.old.put_account(user("reader", "old"));
    bench.new.put_account(user("app", "2"));
    bench.new.drop_account(&AccountName::user("leaver", "shop"));
    let plan = bench.migration().preflight().await.unwrap();
    assert_eq!(
        (plan.blockers().count(), plan.users.map(|users| users.left_out.len())),
        (0, Some(2))
    );
    let run = bench.start().await;
    bench.new.put_account(user("newcomer", "1"));
    // The next start knows the same.
    drop(run);
    bench.new.put_account(user("app", "3"));
    let kept = Checkpoint::decode(&bench.store.load().await.unwrap().unwrap()).unwrap();
    assert_eq!(kept.users, None);
    let summary = complete(bench.start().await).await;
    let expected = [("app", "3"), ("kept", "1"), ("newcomer", "1"), ("reader", "old")];
    assert_eq!(bench.users(), pairs(&expected));
    assert_eq!(summary.users.unwrap().left_out.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_old_sets_other_users_and_the_host_decide() {
    let bench = Bench::with_users(&["app"], &[], UserSelection::all()).await;
    bench.new.put_account(user("app", "2"));
    bench.new.put_account(user("foreign", "new"));
    bench.old.put_account(user("foreign", "old"));
    let plan = bench.migration().preflight().await.unwrap();
    let blockers: Vec<_> = plan
        .blockers()
        .map(|finding| (finding.code, &*finding.affected))
        .collect();
    assert_eq!(
        blockers,
        [(FindingCode::UsersExisting, &["user foreign@shop".to_owned()][..])]
    );
    let back = |users| {
        let back = bench.way_back.reverse(bench.new.clone(), bench.old.clone()).unwrap();
        back.users(users).checkpoint_store(bench.store.clone()).build().unwrap()
    };
    // Without users at first, and what is known of them is kept.
    let run = back(Users::None).start().await.unwrap();
    run.ready_to_cut_over().await.unwrap();
    assert_eq!(bench.users(), pairs(&[("app", "1"), ("foreign", "old")]));
    drop(run);
    let keep = Users::Carry(UserSelection::all().existing(ExistingUsers::Keep));
    complete(back(keep).start().await.unwrap()).await;
    assert_eq!(bench.users(), pairs(&[("app", "2"), ("foreign", "old")]));
}
