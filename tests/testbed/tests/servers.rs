//! The testbed on real servers.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use mongodb::{
    Client,
    bson::{Document, doc},
};
use mongoferry_testbed::{ReplicaSet, TestbedError, Version, wait_until};

type TestResult = Result<(), TestbedError>;

async fn starts(version: Version) -> TestResult {
    let begin = Instant::now();
    let set = ReplicaSet::builder(version).start().await?;
    eprintln!("{version} started in {:?}", begin.elapsed());
    let client = set.client().await?;
    let info = client
        .database("admin")
        .run_command(doc! { "buildInfo": 1 })
        .await
        .unwrap();
    let found = info.get_str("version").unwrap();
    assert!(found.starts_with(version.series()), "asked for {version}, got {found}");
    client
        .database("test")
        .collection("things")
        .insert_one(doc! { "_id": 1 })
        .await
        .unwrap();
    Ok(())
}

#[tokio::test]
async fn starts_4_2() -> TestResult {
    // Not with `starts`: the driver takes 4.2 up to its version 3.8 only.
    let begin = Instant::now();
    let set = ReplicaSet::builder(Version::V4_2).start().await?;
    eprintln!("4.2 started in {:?}", begin.elapsed());
    assert_eq!(set.primary_index().await?, 0);
    Ok(())
}

#[tokio::test]
async fn starts_4_4() -> TestResult {
    starts(Version::V4_4).await
}

#[tokio::test]
async fn starts_5_0() -> TestResult {
    starts(Version::V5_0).await
}

#[tokio::test]
async fn starts_5_0_32() -> TestResult {
    starts(Version::V5_0_32).await
}

#[tokio::test]
async fn starts_6_0() -> TestResult {
    starts(Version::V6_0).await
}

#[tokio::test]
async fn starts_6_0_27() -> TestResult {
    starts(Version::V6_0_27).await
}

#[tokio::test]
async fn authentication_is_demanded_and_the_uri_has_the_password() -> TestResult {
    let set = ReplicaSet::builder(Version::V6_0)
        .members(3)
        .key_file_auth()
        .start()
        .await?;
    let things = |client: Client| client.database("test").collection::<Document>("things");
    things(set.client().await?).insert_one(doc! { "_id": 1 }).await.unwrap();
    let (_, rest) = set
        .uri()
        .split_once('@')
        .map(|(head, rest)| (head.to_owned(), rest.to_owned()))
        .unwrap();
    let stranger = Client::with_uri_str(format!("mongodb://{rest}")).await.unwrap();
    let error = things(stranger).insert_one(doc! { "_id": 2 }).await.unwrap_err();
    assert!(error.to_string().contains("requires authentication"), "{error}");
    set.step_down().await?;
    things(set.client().await?).insert_one(doc! { "_id": 3 }).await.unwrap();

    let password = set.uri().split([':', '@']).nth(2).unwrap().to_owned();
    assert!(
        password.len() > 20 && !format!("{set:?}").contains(&password),
        "{set:?}"
    );
    Ok(())
}

#[tokio::test]
async fn tls_is_demanded_and_works_with_the_authority() -> TestResult {
    let set = ReplicaSet::builder(Version::V6_0).tls().key_file_auth().start().await?;
    set.client()
        .await?
        .database("test")
        .collection("things")
        .insert_one(doc! { "_id": 1 })
        .await
        .unwrap();
    assert!(set.ca_file().is_some_and(Path::is_file));
    let plain = format!(
        "mongodb://{}/?directConnection=true&serverSelectionTimeoutMS=300",
        set.member_address(0)
    );
    let plain = Client::with_uri_str(plain).await.unwrap();
    plain
        .database("test")
        .run_command(doc! { "ping": 1 })
        .await
        .unwrap_err();
    set.restart(0).await?;
    Ok(())
}

#[tokio::test]
async fn tls_works_between_members_and_on_the_oldest_version() -> TestResult {
    let set = ReplicaSet::builder(Version::V4_4).members(3).tls().start().await?;
    set.client()
        .await?
        .database("test")
        .collection("things")
        .insert_one(doc! { "_id": 1 })
        .await
        .unwrap();
    Ok(())
}

#[tokio::test]
async fn a_member_keeps_its_port_and_data_through_restarts() -> TestResult {
    let set = ReplicaSet::builder(Version::V6_0).start().await?;
    let client = set.client().await?;
    let things = client.database("test").collection::<Document>("things");
    for (round, end) in ["kill", "stop"].into_iter().enumerate() {
        things.insert_one(doc! { "_id": round as i32 }).await.unwrap();
        let process_id = set.process_id(0).unwrap();
        if end == "kill" {
            set.kill(0).await?
        } else {
            set.stop(0).await?
        }
        assert!(!is_running(process_id), "{end} returned before the end");
        assert_eq!(set.process_id(0), None);
        assert!(
            matches!(set.kill(0).await, Err(TestbedError::Misuse(_))),
            "a second {end} of a dead member"
        );
        set.restart(0).await?;
        assert_eq!(
            things.count_documents(doc! {}).await.unwrap(),
            round as u64 + 1,
            "after {end}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_suspended_member_answers_once_resumed() -> TestResult {
    let set = ReplicaSet::builder(Version::V6_0).start().await?;
    let client = set.client().await?;
    let database = client.database("test");
    database.run_command(doc! { "ping": 1 }).await.unwrap();
    set.suspend(0).await?;
    let mut ping = Box::pin(database.run_command(doc! { "ping": 1 }).into_future());
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut ping)
            .await
            .is_err(),
        "a suspended server answered"
    );
    set.resume(0).await?;
    ping.await.unwrap();
    Ok(())
}

#[tokio::test]
async fn another_member_takes_over_after_a_step_down_or_a_kill() -> TestResult {
    let begin = Instant::now();
    let set = ReplicaSet::builder(Version::V6_0).members(3).start().await?;
    eprintln!("three members started in {:?}", begin.elapsed());
    let client = set.client().await?;
    let things = client.database("test").collection::<Document>("things");
    things.insert_one(doc! { "_id": 1 }).await.unwrap();

    let first = set.primary_index().await?;
    let begin = Instant::now();
    set.step_down().await?;
    eprintln!("stepped down in {:?}", begin.elapsed());
    let second = set.primary_index().await?;
    assert_ne!(first, second);

    let begin = Instant::now();
    set.kill(second).await?;
    let third = set.primary_index().await?;
    eprintln!("took over in {:?}", begin.elapsed());
    assert_ne!(second, third);
    things.insert_one(doc! { "_id": 2 }).await.unwrap();

    let begin = Instant::now();
    set.restart(second).await?;
    eprintln!("came back in {:?}", begin.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_single_member_elects_itself_again_after_a_step_down() -> TestResult {
    let set = ReplicaSet::builder(Version::V6_0).start().await?;
    let term = async || {
        let client = set.client().await.unwrap();
        let status = client
            .database("admin")
            .run_command(doc! { "replSetGetStatus": 1 })
            .await
            .unwrap();
        status.get_i64("term").unwrap()
    };
    let before = term().await;
    set.step_down().await?;
    assert!(term().await > before, "no election");
    Ok(())
}

#[tokio::test]
async fn dropping_a_set_ends_its_servers_and_removes_its_folder() -> TestResult {
    let set = ReplicaSet::builder(Version::V6_0).start().await?;
    let (process_id, folder) = (set.process_id(0).unwrap(), set.folder().to_owned());
    assert!(is_running(process_id) && folder.is_dir());
    drop(set);
    assert!(!is_running(process_id) && !folder.exists());
    Ok(())
}

/// The child of the test below: starts a set, says where, and waits to be killed.
#[tokio::test]
async fn child_that_is_killed() -> TestResult {
    let Some(report) = std::env::var_os("TESTBED_CHILD_REPORT") else {
        return Ok(());
    };
    let set = ReplicaSet::builder(Version::V6_0).start().await?;
    let partial = Path::new(&report).with_extension("partial");
    std::fs::write(
        &partial,
        format!("{}\n{}", set.process_id(0).unwrap(), set.folder().display()),
    )
    .unwrap();
    std::fs::rename(partial, report).unwrap();
    std::future::pending().await
}

#[tokio::test]
async fn a_killed_process_leaves_neither_servers_nor_folders() -> TestResult {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_is_killed"])
        .env("TESTBED_CHILD_REPORT", &report)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let started = wait_until(Duration::from_secs(60), "the child's server", async || report.exists()).await;
    // With the child: it has no chance to drop anything.
    child.kill().unwrap();
    child.wait().unwrap();
    started?;
    let text = std::fs::read_to_string(&report).unwrap();
    let (process_id, data) = text.split_once('\n').unwrap();
    let process_id = process_id.parse().unwrap();
    wait_until(Duration::from_secs(10), "the orphan's end", async || {
        !is_running(process_id)
    })
    .await?;
    wait_until(Duration::from_secs(10), "the folder's end", async || {
        !Path::new(data).exists()
    })
    .await
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let error = ReplicaSet::builder(Version::V6_0)
        .set_parameter("noSuchParameter", 1)
        .start()
        .await
        .unwrap_err();
    assert!(matches!(error, TestbedError::Ended { .. }), "{error}");
    assert!(error.to_string().contains("noSuchParameter"), "{error}");
}

/// The child of the test below: tries to start a server and writes down why that failed.
#[tokio::test]
async fn child_with_another_environment() {
    let Some(report) = std::env::var_os("TESTBED_ERROR_REPORT") else {
        return;
    };
    // Written here, where nothing else runs: a process that is forked meanwhile would hold the script open for writing,
    // and the system refuses to run it then.
    let mongod = Path::new(&report).with_file_name("mongod");
    std::fs::write(&mongod, std::env::var("TESTBED_SCRIPT").unwrap()).unwrap();
    std::fs::set_permissions(&mongod, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = ReplicaSet::builder(Version::V6_0).start().await.unwrap_err();
    std::fs::write(report, error.to_string()).unwrap();
}

/// The text of the error when `variable` names a `mongod` that is a shell script.
fn error_with(variable: &str, script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (report, mongod) = (folder.path().join("report"), folder.path().join("mongod"));
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_with_another_environment"])
        .env_remove("MONGOD_6_0_5")
        .env_remove("MONGOD_6_0")
        .env(variable, &mongod)
        .env("TESTBED_SCRIPT", format!("#!/bin/sh\n{script}\n"))
        .env("TESTBED_ERROR_REPORT", &report)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read_to_string(report).unwrap()
}

#[test]
fn a_named_binary_of_the_wrong_version_is_an_error_that_says_so() {
    let error = error_with("MONGOD_6_0", "echo 'db version v4.0.1'");
    assert!(
        error.contains("MONGOD_6_0: ") && error.contains("is 4.0.1, wanted 6.0"),
        "{error}"
    );
    assert!(
        error.contains("MONGOD_6_0_5: not set") && error.contains("set MONGOD_6_0 to a mongod 6.0"),
        "{error}"
    );
}

#[test]
fn a_missing_library_is_named_with_its_package() {
    let error = error_with(
        "MONGOD_6_0_5",
        "case $1 in --version) echo 'db version v6.0.5';; \
         *) echo 'mongod: error while loading shared libraries: libcurl.so.4: cannot open' >&2; exit 127;; esac",
    );
    assert!(
        error.contains("apt-get install libcurl4") && error.contains("cannot open"),
        "{error}"
    );
}

fn is_running(process_id: u32) -> bool {
    Path::new(&format!("/proc/{process_id}")).exists()
}

#[tokio::test]
async fn waiting_names_what_did_not_happen() {
    let error = wait_until(Duration::from_millis(20), "the moon", async || false)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("the moon"), "{error}");
}

#[tokio::test]
async fn an_added_member_copies_the_data_and_can_be_removed() -> TestResult {
    let mut set = ReplicaSet::builder(Version::V6_0).start().await?;
    let client = set.client().await?;
    let things = client.database("test").collection("things");
    things.insert_one(doc! { "_id": 1 }).await.unwrap();

    let index = set.start_member().await?;
    let member = set.member_client(index).await?;
    set.add_member(index).await?;
    let admin = member.database("admin");
    wait_until(Duration::from_secs(60), "a secondary", async || {
        let answer = admin.run_command(doc! { "hello": 1 }).await.unwrap();
        answer.get_bool("secondary").unwrap_or(false)
    })
    .await?;
    let copied = member.database("test").collection::<Document>("things");
    assert_eq!(copied.estimated_document_count().await.unwrap(), 1);

    set.remove_member().await?;
    assert_eq!(set.members(), 1);
    things.insert_one(doc! { "_id": 2 }).await.unwrap();
    Ok(())
}
