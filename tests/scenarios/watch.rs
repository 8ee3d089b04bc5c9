//! What goes on around a migration: other writers on the target, members that come and go, versions that change.

use bson::{Document, doc};
use futures::StreamExt;
use mongodb::Client;
use mongodb::options::{CollectionOptions, WriteConcern};
use mongoferry::sink::MongoSink;
use mongoferry::source::MongoSource;
use mongoferry::{
    ErrorKind, Event, Migration, MigrationBuilder, MigrationHandle, Outcome, Position, Side, Sink, Source,
};
use mongoferry_testbed::workload::{self, Writer};
use mongoferry_testbed::{ReplicaSet, Version, wait_until};
use tokio::time::timeout;

use super::deadline::{DEADLINE, cut_over, event, ready};

struct Pair {
    /// Kept so that the servers stay.
    _source: ReplicaSet,
    target: ReplicaSet,
    ours: Client,
    theirs: Client,
}

impl Pair {
    async fn start(version: Version, target_members: usize) -> Self {
        let source = ReplicaSet::builder(version).start();
        let target = ReplicaSet::builder(version).name("rs1").members(target_members).start();
        let (source, target) = futures::try_join!(source, target).unwrap();
        let (ours, theirs) = (source.client().await.unwrap(), target.client().await.unwrap());
        workload::load(&ours, 1_000, 3).await.unwrap();
        Self {
            _source: source,
            target,
            ours,
            theirs,
        }
    }

    /// With clients of the host's own, whose writes can be retried where it is for the driver to say.
    async fn migration(&self) -> MigrationBuilder {
        let source = MongoSource::connect(self.ours.clone()).await.unwrap();
        let sink = MongoSink::connect(self.theirs.clone()).await.unwrap();
        Migration::builder(source, sink)
    }

    async fn run(&self) -> MigrationHandle {
        self.migration().await.build().unwrap().start().await.unwrap()
    }
}

async fn admin(client: &Client, command: Document) -> Document {
    client.database("admin").run_command(command).await.unwrap()
}

async fn foreign_writes_are_told(version: Version) {
    let pair = Pair::start(version, 1).await;
    let run = pair
        .migration()
        .await
        .exclude("shop.mine")
        .rename("shop.orders", "store.bought")
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    let mut events = run.events();
    let writer = Writer::start(&pair.ours, 2).await.unwrap();
    ready(&run).await;
    let stats = writer.stop().await;
    assert_eq!(stats.errors, 0, "{stats:?}");
    // What is not migrated is nobody's business; `shop.orders` is another name on the target.
    for name in ["mine", "orders"] {
        let others = pair.theirs.database("shop").collection(name);
        others.insert_one(doc! { "_id": "foreign" }).await.unwrap();
    }
    let bought = pair.theirs.database("store").collection::<Document>("bought");
    bought.insert_one(doc! { "_id": "foreign" }).await.unwrap();
    let told = |event| match event {
        Event::ForeignWrite { namespace, writes } => Some((namespace.to_string(), writes)),
        _ => None,
    };
    assert_eq!(event(&mut events, told).await, ("store.bought".to_owned(), 1));
    // A second one is told later, together with whatever has come by then.
    let mut session = pair.theirs.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    for number in 0..3 {
        let document = doc! { "_id": format!("foreign {number}") };
        bought.insert_one(document).session(&mut session).await.unwrap();
    }
    session.commit_transaction().await.unwrap();
    assert_eq!(event(&mut events, told).await, ("store.bought".to_owned(), 4));
    bought
        .delete_many(doc! { "_id": { "$regex": "foreign" } })
        .await
        .unwrap();
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
    let seen: Vec<_> = summary
        .foreign_writes
        .iter()
        .map(|foreign| (foreign.namespace.to_string(), foreign.writes))
        .collect();
    assert_eq!(seen, [("store.bought".to_owned(), 4)], "and no write of our own");
}

/// The watch goes on at any position that it has told, through an election, and says so when it cannot.
async fn the_watch_goes_on_where_it_ended(version: Version) {
    let target = ReplicaSet::builder(version).members(3).start().await.unwrap();
    let client = target.client().await.unwrap();
    // What a watch begins after is what a majority has.
    let majority = CollectionOptions::builder()
        .write_concern(WriteConcern::majority())
        .build();
    let others = client
        .database("shop")
        .collection_with_options::<Document>("orders", majority);
    let sink = MongoSink::connect(client.clone()).await.unwrap();
    let history = MongoSource::connect(client.clone()).await.unwrap();
    let write = async |id: &str| others.insert_one(doc! { "_id": id }).await.unwrap();
    // What has no session is not seen, and moves the position on all the same.
    let unseen = async || {
        let command = doc! { "update": "orders", "updates": [{ "q": {}, "u": { "$inc": { "n": 1 } }, "multi": true }] };
        client.database("shop").run_command(command).await.unwrap();
    };
    let seen_after = async |after: Option<Position>, expected: usize| {
        let mut watch = sink.foreign_writes(after).await.unwrap().unwrap();
        let begun = watch.next().await.unwrap().unwrap();
        assert_eq!(
            (begun.collections.len(), after.unwrap_or(begun.until)),
            (0, begun.until)
        );
        write(&format!("within {}", begun.until)).await;
        unseen().await;
        let newest = history.sentinel().await.unwrap();
        let seen = async {
            let (mut until, mut seen) = (begun.until, 0);
            while until < newest {
                let next = watch.next().await.unwrap().unwrap();
                assert!(next.until >= until, "{next:?} {until}");
                assert!(next.collections.iter().all(|name| name.as_str() == "shop.orders"));
                (until, seen) = (next.until, seen + next.collections.len());
            }
            (until, seen)
        };
        let (until, seen) = timeout(DEADLINE, seen).await.expect("the position moves on");
        assert_eq!(seen, expected);
        until
    };
    write("before").await;
    let first = seen_after(None, 1).await;
    for number in 0..3 {
        write(&format!("unwatched {number}")).await;
    }
    unseen().await;
    let second = seen_after(Some(first), 4).await;
    write("before the election").await;
    target.step_down().await.unwrap();
    write("after the election").await;
    seen_after(Some(second), 3).await;
    let never = Position {
        term: second.term + 7,
        ..second
    };
    let error = sink.foreign_writes(Some(never)).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PositionLost, "{error}");
}

/// Side by side, since each waits for what is looked at every ten seconds.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_around_a_migration_is_told() {
    tokio::join!(
        foreign_writes_are_told(Version::V4_2),
        foreign_writes_are_told(Version::V6_0),
        the_watch_goes_on_where_it_ended(Version::V4_2),
        the_watch_goes_on_where_it_ended(Version::V6_0),
        a_change_of_the_version_ends_the_run_and_members_are_told()
    );
}

async fn a_change_of_the_version_ends_the_run_and_members_are_told() {
    let pair = Pair::start(Version::V6_0, 3).await;
    let run = pair.run().await;
    ready(&run).await;
    let mut events = run.events();
    // Each look asks for this once; with the second, one that began after the start is over.
    let looks = async || {
        let status = admin(&pair.theirs, doc! { "serverStatus": 1 }).await;
        let mut path = ["metrics", "commands", "getParameter"].into_iter();
        let asked = path.try_fold(&status, |status, name| status.get_document(name));
        asked.unwrap().get_i64("total").unwrap()
    };
    let before = looks().await;
    wait_until(DEADLINE, "both sides are looked at", async || {
        looks().await >= before + 2
    })
    .await
    .unwrap();
    let config = admin(&pair.theirs, doc! { "replSetGetConfig": 1 }).await;
    let mut config = config.get_document("config").unwrap().clone();
    let primary = pair.target.primary_index().await.unwrap();
    let leaving = pair.target.member_address((primary + 1) % 3);
    let version = config.get_i32("version").unwrap() + 1;
    config.insert("version", version);
    let members = config.get_array_mut("members").unwrap();
    members.retain(|member| member.as_document().unwrap().get_str("host").unwrap() != leaving);
    admin(&pair.theirs, doc! { "replSetReconfig": config }).await;
    let (side, added, removed) = event(&mut events, |event| match event {
        Event::MembersChanged { side, added, removed } => Some((side, added, removed)),
        _ => None,
    })
    .await;
    assert_eq!((side, added, removed), (Side::Target, vec![], vec![leaving]));

    admin(&pair.theirs, doc! { "setFeatureCompatibilityVersion": "5.0" }).await;
    let change = event(&mut events, |event| match event {
        Event::FeatureCompatibilityChanged { side, from, to } => Some((side, from, to)),
        _ => None,
    })
    .await;
    assert_eq!(change, (Side::Target, [6, 0], [5, 0]));
    let error = timeout(DEADLINE, run.wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VersionChanged);
    let text = error.to_string();
    assert!(text.contains("of the target was changed from 6.0 to 5.0"), "{text}");
    admin(&pair.theirs, doc! { "setFeatureCompatibilityVersion": "6.0" }).await;
    let run = pair.run().await;
    let summary = cut_over(&run).await;
    assert_eq!(summary.outcome, Outcome::Complete, "{summary:#?}");
}
