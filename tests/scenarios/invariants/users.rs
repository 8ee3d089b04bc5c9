//! Users and roles are those of the source at the cutover, whatever happened before.

use bson::RawArrayBuf;
use mongoferry::sink::SinkCall;
use mongoferry::source::SourceCall;
use mongoferry::{Account, AccountKind, AccountName, Error, ErrorKind, Event, ExistingUsers, UserSelection, Users};

use super::*;

/// A user with a password, as far as the salt tells.
fn user(name: &str, salt: &str) -> Account {
    let credentials = rawdoc! { "SCRAM-SHA-1": { "iterationCount": 10_000, "salt": salt, "storedKey": salt } };
    let document = rawdoc! { "user": name, "db": "shop", "credentials": credentials, "roles": RawArrayBuf::new() };
    Account::new(AccountKind::User, document).unwrap()
}

fn role(name: &str) -> Account {
    let document =
        rawdoc! { "role": name, "db": "admin", "privileges": RawArrayBuf::new(), "roles": RawArrayBuf::new() };
    Account::new(AccountKind::Role, document).unwrap()
}

fn name(user: &str) -> AccountName {
    AccountName::user(user, "shop")
}

impl Bench {
    fn carrying(&self, selection: UserSelection) -> MigrationBuilder {
        self.migration().users(Users::Carry(selection))
    }

    async fn start_carrying(&self, selection: UserSelection) -> MigrationHandle {
        self.carrying(selection).build().unwrap().start().await.unwrap()
    }

    /// The user as the target has it.
    fn on_target(&self, user: &str) -> Option<Account> {
        self.sink
            .all_accounts()
            .into_iter()
            .find(|account| *account.name() == name(user))
    }

    async fn until_user(&self, wanted: Account) {
        let user = wanted.name().name.clone();
        until("the user is on the target", || {
            self.on_target(&user).as_ref() == Some(&wanted)
        })
        .await;
    }
}

async fn hand_over(run: &MigrationHandle) -> mongoferry::Result<mongoferry::Summary> {
    timeout(Duration::from_secs(600), run.cutover(async {})).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn users_follow_the_source_until_the_cutover() {
    let bench = Bench::with_orders(3);
    bench.source.put_account(role("auditor"));
    bench.source.put_account(user("app", "1"));
    let run = bench.start_carrying(UserSelection::all()).await;
    bench.until_user(user("app", "1")).await;
    bench.source.put_account(user("app", "2"));
    bench.source.put_account(user("newcomer", "1"));
    bench.until_user(user("app", "2")).await;
    bench.until_user(user("newcomer", "1")).await;
    bench.source.drop_account(&name("newcomer"));
    until("the user is dropped", || bench.on_target("newcomer").is_none()).await;
    run.ready_to_cut_over().await.unwrap();
    let status = run.status().users.unwrap();
    assert_eq!((status.carried, status.problem), (2, None));
    // A change in the last moment.
    bench.source.put_account(user("app", "3"));
    let summary = hand_over(&run).await.unwrap();
    assert_eq!(summary.outcome, Outcome::Complete);
    assert_eq!(bench.on_target("app"), Some(user("app", "3")));
    let certificate = summary.certificate.unwrap();
    let carried: Vec<&str> = certificate.users.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(carried, ["auditor", "app"]);
    let read = mongoferry::Certificate::decode(&certificate.encode().unwrap()).unwrap();
    assert_eq!(read.users, certificate.users);
    assert_eq!(read.check(&bench.source, &bench.sink).await.unwrap(), [""; 0]);
    let changed = rawdoc! { "user": "app", "db": "shop", "customData": { "changed": true } };
    bench
        .sink
        .put_account(Account::new(AccountKind::User, changed).unwrap());
    bench.source.drop_account(&AccountName::role("auditor", "admin"));
    let found = read.check(&bench.source, &bench.sink).await.unwrap();
    let expected = [
        "the role auditor@admin no longer exists on the source",
        "the user app@shop has changed on the target",
    ];
    assert_eq!(found, expected);
}

#[tokio::test(start_paused = true)]
async fn no_users_are_touched_unless_they_are_wanted() {
    let bench = Bench::with_orders(3);
    bench.source.put_account(user("app", "1"));
    let summary = hand_over(&bench.start().await).await.unwrap();
    assert_eq!((summary.users, bench.sink.all_accounts().len()), (None, 0));
    assert!(
        summary
            .not_migrated
            .iter()
            .any(|line| line.starts_with("users and roles"))
    );
    assert_eq!(bench.source.calls(SourceCall::Accounts), 0);
}

/// Nobody has seen the entry of the oplog: each run begins by comparing both sides.
#[tokio::test(start_paused = true)]
async fn a_change_behind_a_lost_position_is_carried() {
    let bench = Bench::with_orders(3);
    bench.source.put_account(user("app", "1"));
    let run = bench.start_carrying(UserSelection::all()).await;
    bench.until_user(user("app", "1")).await;
    run.ready_to_cut_over().await.unwrap();
    run.pause().await.unwrap();
    bench.source.put_account(user("app", "2"));
    // The position is lost, and with it the entry.
    for id in 100..150 {
        bench.source.insert("shop.orders", rawdoc! { "_id": id }).unwrap();
    }
    bench.source.set_history_window(5);
    run.resume().unwrap();
    let summary = hand_over(&run).await.unwrap();
    assert_eq!((summary.outcome, summary.resyncs), (Outcome::Complete, 1));
    assert_eq!(bench.on_target("app"), Some(user("app", "2")));
}

/// Users change on the source while the cutover compares them.
#[tokio::test(start_paused = true)]
async fn a_change_during_the_cutover_is_carried() {
    let bench = Bench::with_orders(3);
    bench.source.put_account(user("app", "1"));
    let run = bench.start_carrying(UserSelection::all()).await;
    bench.until_user(user("app", "1")).await;
    run.ready_to_cut_over().await.unwrap();
    let seen = bench.sink.calls(SinkCall::Accounts);
    let gate = bench.sink.hold_answer(SinkCall::Accounts);
    let cutover = hand_over(&run);
    let change = async {
        until("the cutover compares users", || {
            bench.sink.calls(SinkCall::Accounts) > seen
        })
        .await;
        bench.source.put_account(user("app", "2"));
        gate.release();
    };
    let (summary, ()) = tokio::join!(cutover, change);
    assert_eq!(summary.unwrap().outcome, Outcome::Complete);
    assert_eq!(bench.on_target("app"), Some(user("app", "2")));
}

/// The process is killed in the middle of a change, before or after the target has made it.
#[tokio::test(start_paused = true)]
async fn a_killed_process_loses_no_user_and_forgets_none() {
    for is_made in [false, true] {
        let bench = Bench::with_orders(3);
        bench.source.put_account(user("app", "1"));
        let run = bench.start_carrying(UserSelection::all()).await;
        bench.until_user(user("app", "1")).await;
        let calls = bench.sink.calls(SinkCall::ChangeAccounts);
        let gate = match is_made {
            true => bench.sink.hold_answer(SinkCall::ChangeAccounts),
            false => bench.sink.hold(SinkCall::ChangeAccounts),
        };
        bench.source.put_account(user("app", "2"));
        bench.source.put_account(user("leaver", "1"));
        until("the change is on its way", || {
            bench.sink.calls(SinkCall::ChangeAccounts) > calls
        })
        .await;
        drop(run);
        gate.release();
        bench.source.put_account(user("app", "3"));
        bench.source.drop_account(&name("leaver"));
        let changes = bench.sink.calls(SinkCall::ChangeAccounts);
        let run = bench.start_carrying(UserSelection::all()).await;
        let summary = hand_over(&run).await.unwrap();
        assert_eq!(summary.outcome, Outcome::Complete);
        assert_eq!(bench.on_target("app"), Some(user("app", "3")), "made before: {is_made}");
        assert_eq!(bench.on_target("leaver"), None);
        assert!(bench.sink.calls(SinkCall::ChangeAccounts) > changes);
    }
}

/// What a killed process may have left in temporary collections is removed even if nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn what_a_killed_process_left_is_removed_once() {
    let bench = Bench::with_orders(3);
    bench.source.put_account(user("app", "1"));
    let gate = bench.sink.hold_answer(SinkCall::ChangeAccounts);
    let run = bench.start_carrying(UserSelection::all()).await;
    until("the change is on its way", || bench.on_target("app").is_some()).await;
    drop(run);
    gate.release();
    for expected in [1, 0] {
        let before = bench.sink.calls(SinkCall::ChangeAccounts);
        let run = bench.start_carrying(UserSelection::all()).await;
        until("users are compared", || run.status().users.is_some()).await;
        assert_eq!(bench.sink.calls(SinkCall::ChangeAccounts) - before, expected);
        run.abandon().await;
    }
}

/// A change removes what an earlier one has left, so that no further call is needed for that.
#[tokio::test(start_paused = true)]
async fn a_change_of_users_takes_one_call() {
    let bench = Bench::with_orders(3);
    bench.source.put_account(user("app", "1"));
    let run = bench.start_carrying(UserSelection::all()).await;
    until("users are compared", || run.status().users.is_some()).await;
    assert_eq!(bench.on_target("app"), Some(user("app", "1")));
    assert_eq!(bench.sink.calls(SinkCall::ChangeAccounts), 1);
}

#[tokio::test(start_paused = true)]
async fn existing_users_block_the_cutover_until_somebody_decides() {
    let bench = Bench::with_orders(3);
    bench.source.put_account(user("app", "1"));
    let run = bench.start_carrying(UserSelection::all()).await;
    bench.until_user(user("app", "1")).await;
    let mut events = run.events();
    // Somebody changes it on the target, and then it changes on the source.
    bench.sink.put_account(user("app", "foreign"));
    bench.source.put_account(user("app", "2"));
    bench.source.put_account(user("other", "1"));
    let reason = timeout(DEADLINE, async {
        loop {
            if let Some(Event::UsersNotCarried { reason }) = futures::StreamExt::next(&mut events).await {
                return reason;
            }
        }
    });
    let reason = reason.await.unwrap();
    assert!(reason.contains("user app@shop"), "{reason}");
    bench.until_user(user("other", "1")).await;
    assert_eq!(run.status().users.unwrap().problem, Some(reason));
    let error = hand_over(&run).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TargetRefused, "{error}");
    assert_eq!(bench.on_target("app"), Some(user("app", "foreign")));
    assert!(!bench.checkpoint().unwrap().complete);
    run.abandon().await;
    for (existing, expected) in [(ExistingUsers::Keep, "foreign"), (ExistingUsers::Replace, "2")] {
        let run = bench.start_carrying(UserSelection::all().existing(existing)).await;
        until("users are compared", || {
            run.status().users.is_some_and(|users| users.problem.is_none())
        })
        .await;
        assert_eq!(bench.on_target("app"), Some(user("app", expected)));
        run.abandon().await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_unchanged_users_of_the_migration_are_dropped() {
    let bench = Bench::with_orders(3);
    for one in ["made", "changed", "equal"] {
        bench.source.put_account(user(one, "1"));
    }
    // It was there before, as it is on the source.
    bench.sink.put_account(user("equal", "1"));
    let run = bench.start_carrying(UserSelection::all()).await;
    bench.until_user(user("made", "1")).await;
    bench.until_user(user("changed", "1")).await;
    bench.sink.put_account(user("changed", "2"));
    for one in ["made", "changed", "equal"] {
        bench.source.drop_account(&name(one));
    }
    until("the user is dropped", || bench.on_target("made").is_none()).await;
    let summary = hand_over(&run).await.unwrap();
    assert!(bench.on_target("changed").is_some() && bench.on_target("equal").is_some());
    assert!(summary.users.unwrap().carried.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_migrations_own_users_stay_as_they_are() {
    let bench = Bench::with_orders(3);
    for one in ["reader", "writer", "app"] {
        bench.source.put_account(user(one, "1"));
    }
    bench.sink.put_account(user("writer", "2"));
    bench.source.connect_as(name("reader"));
    bench.sink.connect_as(name("writer"));
    let selection = UserSelection::all().existing(ExistingUsers::Replace);
    let summary = hand_over(&bench.start_carrying(selection).await).await.unwrap();
    assert_eq!(bench.on_target("writer"), Some(user("writer", "2")));
    assert_eq!(bench.on_target("reader"), None);
    let users = summary.users.unwrap();
    assert_eq!((users.carried.len(), users.left_out.len()), (1, 2));
}

/// A failure does not end the run, and the cutover does not complete with it.
#[tokio::test(start_paused = true)]
async fn a_failure_keeps_the_cutover_from_completing() {
    let bench = Bench::with_orders(3);
    bench.source.put_account(user("app", "1"));
    let run = bench.start_carrying(UserSelection::all()).await;
    bench.until_user(user("app", "1")).await;
    run.ready_to_cut_over().await.unwrap();
    let error = Error::new(ErrorKind::Unauthorized, "read users and roles", "not allowed");
    bench.source.fail_next(SourceCall::Accounts, error);
    let error = hand_over(&run).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    assert!(!bench.checkpoint().unwrap().complete);
    assert_eq!(hand_over(&run).await.unwrap().outcome, Outcome::Complete);
}

#[tokio::test(start_paused = true)]
async fn forgetting_keeps_users_and_a_cleared_rehearsal_does_not() {
    let bench = Bench::with_orders(3);
    bench.source.put_account(user("app", "1"));
    let rehearsal = bench
        .carrying(UserSelection::all())
        .build()
        .unwrap()
        .rehearse()
        .clear_target(true);
    let seen = async { bench.on_target("app").is_some() };
    let rehearsed = timeout(DEADLINE, rehearsal.run(seen)).await.unwrap().unwrap();
    assert!(rehearsed.answer && bench.on_target("app").is_none());
    assert_eq!(bench.sink.load_record("default/users").await.unwrap(), None);
    let run = bench.start_carrying(UserSelection::all()).await;
    bench.until_user(user("app", "1")).await;
    run.ready_to_cut_over().await.unwrap();
    run.abandon().await;
    bench
        .carrying(UserSelection::all())
        .build()
        .unwrap()
        .forget()
        .await
        .unwrap();
    assert_eq!(bench.sink.load_record("default/users").await.unwrap(), None);
    assert!(bench.on_target("app").is_some());
}
