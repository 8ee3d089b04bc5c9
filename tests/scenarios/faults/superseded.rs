//! A primary of the source that the others have superseded, and that does not know it yet.

use bson::{Document, doc};
use mongodb::Client;
use mongodb::options::WriteConcern;
use mongoferry_testbed::Peer;

use super::*;
use crate::scenarios::deadline::ready;

/// How long a member without a majority goes on as primary, longer than anything here takes.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(120);

/// A set of three members, each behind a proxy by which alone the others and clients of the whole set reach it.
struct Members {
    set: ReplicaSet,
    proxies: Vec<Proxy>,
    old: usize,
    others: [usize; 2],
}

impl Members {
    async fn start(version: Version) -> Self {
        let set = ReplicaSet::builder(version).members(3).start().await.unwrap();
        let addresses = (0..3).map(|index| Proxy::start(set.member_address(index)));
        let proxies = futures::future::try_join_all(addresses).await.unwrap();
        set.place_behind(&proxies, ELECTION_TIMEOUT).await.unwrap();
        let old = set.primary_index().await.unwrap();
        let others = [(old + 1) % 3, (old + 2) % 3];
        Self {
            set,
            proxies,
            old,
            others,
        }
    }

    /// Cuts the primary off from the others, of which one is elected; clients of the whole set reach these members alone.
    async fn supersede(&self, reachable: &[usize]) {
        self.let_clients_reach(reachable);
        let client = self.member(self.others[0]).await;
        let elected = wait_until(DEADLINE, "the other member to be elected", async || {
            admin(&client, doc! { "replSetStepUp": 1 }).await;
            let hello = admin(&client, doc! { "isMaster": 1 }).await.unwrap_or_default();
            hello.get_bool("ismaster").unwrap_or(false)
        });
        elected.await.unwrap();
        let hello = admin(&self.member(self.old).await, doc! { "isMaster": 1 })
            .await
            .unwrap();
        assert!(
            hello.get_bool("ismaster").unwrap(),
            "the old one is still there: {hello}"
        );
    }

    fn let_clients_reach(&self, reachable: &[usize]) {
        let [next, last] = self.others;
        for (index, other) in [(self.old, None), (next, Some(last)), (last, Some(next))] {
            let mut peers: Vec<Peer> = other.map(|other| Peer::member(&self.set, other)).into_iter().collect();
            if reachable.contains(&index) {
                peers.push(Peer::client());
            }
            self.proxies[index].open_only_to(peers);
        }
    }

    /// Brings all together again once the old primary was asked to have a majority confirm it.
    async fn heal(&self) {
        let old = self.member(self.old).await;
        let waits = wait_until(DEADLINE, "the old primary to be asked to confirm itself", async || {
            waits_for_majority(&old).await
        });
        waits.await.unwrap();
        self.proxies.iter().for_each(Proxy::restore);
    }

    async fn member(&self, index: usize) -> Client {
        self.set.member_client(index).await.unwrap()
    }

    /// Through the whole set, as applications would, of which each takes the proxies for the members.
    fn uri(&self) -> String {
        let hosts: Vec<String> = self.proxies.iter().map(Proxy::addr).collect();
        format!("mongodb://{}/?replicaSet={}", hosts.join(","), self.set.name())
    }
}

async fn admin(client: &Client, command: Document) -> Option<Document> {
    client.database("admin").run_command(command).await.ok()
}

async fn insert(client: &Client, id: i32) {
    let orders = client.database("shop").collection("orders");
    let insert = orders.insert_one(doc! { "_id": id });
    insert.write_concern(WriteConcern::majority()).await.unwrap();
}

/// Whether a member waits until a majority confirms that it is the primary.
async fn waits_for_majority(client: &Client) -> bool {
    let operations = admin(client, doc! { "currentOp": 1, "active": true }).await.unwrap();
    operations.get_array("inprog").unwrap().iter().any(|operation| {
        let command = operation.as_document().unwrap().get_document("command");
        let concern = command.and_then(|command| command.get_document("readConcern"));
        concern.is_ok_and(|concern| concern.get_str("level").is_ok_and(|level| level == "linearizable"))
    })
}

async fn migration(source: &Members, target: &ReplicaSet) -> Migration {
    let uris = [source.uri(), target.uri()];
    let (reader, sink) = futures::try_join!(MongoSource::connect(&uris[0]), MongoSink::connect(&uris[1])).unwrap();
    Migration::builder(reader, sink).build().unwrap()
}

async fn migrated(target: &ReplicaSet) -> u64 {
    let client = target.client().await.unwrap();
    let orders = client.database("shop").collection::<Document>("orders");
    orders.count_documents(doc! {}).await.unwrap()
}

/// The majority of the source writes before the writers stop, and the member that is read knows nothing of it.
async fn superseded_primary_is_not_handed_over(version: Version) {
    let (source, target) = futures::join!(
        Members::start(version),
        ReplicaSet::builder(Version::V6_0).name("rs1").start()
    );
    let target = target.unwrap();
    insert(&source.member(source.old).await, 1).await;
    let run = migration(&source, &target).await.start().await.unwrap();
    ready(&run).await;

    let stop = async {
        source.supersede(&[source.old]).await;
        insert(&source.member(source.others[0]).await, 2).await;
    };
    let mut cutover = std::pin::pin!(run.cutover(stop));
    tokio::select! {
        summary = &mut cutover => panic!("it handed over what the old primary had: {summary:#?}"),
        () = source.heal() => {}
    }
    // What the majority wrote goes over once it is reached again.
    let summary = timeout(DEADLINE, cutover).await.expect("it cuts over in time").unwrap();
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    assert_eq!(migrated(&target).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn superseded_primary_is_not_handed_over_4_2() {
    superseded_primary_is_not_handed_over(Version::V4_2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn superseded_primary_is_not_handed_over_4_4() {
    superseded_primary_is_not_handed_over(Version::V4_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn superseded_primary_is_not_handed_over_6_0() {
    superseded_primary_is_not_handed_over(Version::V6_0).await;
}

/// A process that goes on meets the old primary, which lacks what the last one has read of the new one.
#[tokio::test(flavor = "multi_thread")]
async fn superseded_primary_is_no_lost_position_6_0() {
    let source = Members::start(Version::V6_0).await;
    let target = ReplicaSet::builder(Version::V6_0).name("rs1").start().await.unwrap();
    insert(&source.member(source.old).await, 1).await;
    let run = migration(&source, &target).await.start().await.unwrap();
    ready(&run).await;
    source.supersede(&source.others).await;
    insert(&source.member(source.others[0]).await, 2).await;
    let followed = wait_until(DEADLINE, "the run to follow the new primary", async || {
        migrated(&target).await == 2
    });
    followed.await.unwrap();
    ready(&run).await;
    run.abandon().await;

    source.let_clients_reach(&[source.old]);
    let run = {
        let next = migration(&source, &target).await;
        let start = async move { next.start().await.unwrap() };
        futures::join!(start, source.heal()).0
    };
    ready(&run).await;
    let summary = timeout(DEADLINE, run.cutover(async {})).await.unwrap().unwrap();
    assert_eq!(
        (summary.outcome, summary.resyncs),
        (Outcome::Complete, 0),
        "{summary:#?}"
    );
    assert_eq!(migrated(&target).await, 2);
}
