//! Members of both sets fail.

use super::*;

async fn members_fail(version: Version, faults: u32) {
    let (faults, mut random) = plan(faults);
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(version).members(3).start(),
        ReplicaSet::builder(version).name("rs1").members(3).start()
    )
    .unwrap();
    let uris = [source.uri(), target.uri()];
    let run = Run::start(source, target, uris).await;
    for number in 0..faults {
        let (name, set) = match random.random_bool(0.5) {
            true => ("source", &run.source),
            false => ("target", &run.target),
        };
        let primary = set.primary_index().await.unwrap();
        let member = random.random_range(0..set.members());
        let pause = Duration::from_millis(random.random_range(0..3000));
        match random.random_range(0..5) {
            0 => {
                eprintln!("{number}: the {name}'s primary steps down");
                set.step_down().await.unwrap();
            }
            1 => {
                eprintln!("{number}: the {name}'s primary, member {primary}, is killed, and back after {pause:?}");
                set.kill(primary).await.unwrap();
                sleep(pause).await;
                set.restart(primary).await.unwrap();
            }
            2 => {
                eprintln!("{number}: member {member} of the {name} is killed, and back after {pause:?}");
                set.kill(member).await.unwrap();
                sleep(pause).await;
                set.restart(member).await.unwrap();
            }
            3 => {
                eprintln!("{number}: the {name}'s primary, member {primary}, stands still for {pause:?}");
                set.suspend(primary).await.unwrap();
                sleep(pause).await;
                set.resume(primary).await.unwrap();
            }
            _ => {
                eprintln!("{number}: every member of the {name} is restarted");
                for member in 0..set.members() {
                    set.restart(member).await.unwrap();
                }
            }
        }
        // The next fault comes in the middle of the recovery as often as after it.
        if random.random_bool(0.5) {
            run.moves_on().await;
        }
    }
    run.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_fail_6_0() {
    members_fail(Version::V6_0, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes to hours"]
async fn members_fail_for_long_6_0() {
    members_fail(Version::V6_0, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes to hours"]
async fn members_fail_for_long_4_2() {
    members_fail(Version::V4_2, 100).await;
}

/// What a set answers while it elects is told, with the cause and how long the run waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_without_a_primary_is_told() {
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(Version::V6_0).start(),
        ReplicaSet::builder(Version::V6_0).name("rs1").start()
    )
    .unwrap();
    let uris = [source.uri(), target.uri()];
    let run = Run::start(source, target, uris).await;
    run.moves_on().await;
    for set in [&run.source, &run.target] {
        let before = run.retried.load(Ordering::Relaxed);
        set.kill(0).await.unwrap();
        let told = wait_until(DEADLINE, "the wait to be told", async || {
            run.retried.load(Ordering::Relaxed) > before
        });
        told.await.unwrap();
        set.restart(0).await.unwrap();
        run.moves_on().await;
    }
    run.end().await;
}
