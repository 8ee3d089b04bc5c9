//! Connections to both sides fail.

use super::*;

/// Parts of requests whose replies are lost: the server has done what was asked.
const LOST_BY_SOURCE: [&str; 5] = [
    "find\0",
    "getMore\0",
    "isMaster\0",
    "listCollections\0",
    "appendOplogNote\0",
];
const LOST_BY_TARGET: [&str; 8] = [
    "insert\0",
    "update\0",
    "delete\0",
    "createIndexes\0",
    "create\0",
    "drop\0",
    "renameCollection\0",
    "records\0",
];

async fn connections_fail(version: Version, faults: u32) {
    let (faults, mut random) = plan(faults);
    let (source, target) = futures::try_join!(
        ReplicaSet::builder(version).start(),
        ReplicaSet::builder(version).name("rs1").start()
    )
    .unwrap();
    let (to_source, to_target) = futures::try_join!(
        Proxy::start(source.member_address(0)),
        Proxy::start(target.member_address(0))
    )
    .unwrap();
    let uris = [to_source.uri(&source), to_target.uri(&target)];
    let run = Run::start(source, target, uris).await;
    let mut seen = BTreeMap::new();
    for number in 0..faults {
        let (name, proxy, lost) = match random.random_bool(0.4) {
            true => ("source", &to_source, &LOST_BY_SOURCE[..]),
            false => ("target", &to_target, &LOST_BY_TARGET[..]),
        };
        let pause = Duration::from_millis(random.random_range(0..2500));
        let fault = match random.random_range(0..10) {
            0 => {
                proxy.cut();
                "cut"
            }
            1 => {
                proxy.stall();
                "stalled"
            }
            2 => {
                proxy.delay(pause / 10);
                "delayed"
            }
            3 => {
                proxy.swallow_replies(true);
                "without replies"
            }
            _ => {
                for _ in 0..random.random_range(1..4) {
                    proxy.lose_next_reply_matching(*lost.choose(&mut random).unwrap());
                }
                "losing a reply"
            }
        };
        eprintln!("{number}: connections to the {name} are {fault} for {pause:?}");
        *seen.entry(fault).or_insert(0) += 1;
        sleep(pause).await;
        proxy.restore();
        // A lost answer on a connection that stays open is given up after a minute, in which other faults would find nothing under way.
        if random.random_bool(0.5) || fault == "without replies" {
            run.moves_on().await;
        }
    }
    let lost = to_source.lost_replies() + to_target.lost_replies();
    eprintln!("{seen:?}, {lost} replies lost");
    run.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_fail_6_0() {
    connections_fail(Version::V6_0, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes to hours"]
async fn connections_fail_for_long_6_0() {
    connections_fail(Version::V6_0, 300).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes to hours"]
async fn connections_fail_for_long_4_2() {
    connections_fail(Version::V4_2, 300).await;
}
