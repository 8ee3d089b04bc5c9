//! What happens on the source around the cutover, in a database that the writers leave alone.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::{Client, ClientSession, Collection};
use tokio::task::JoinSet;
use tokio::time::sleep;

const DATABASE: &str = "aside";

/// What has not come to its end yet.
#[derive(Default)]
pub(super) struct Aside(JoinSet<()>);

impl Aside {
    pub fn push(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }

    pub async fn end(&mut self) {
        while let Some(ended) = self.0.join_next().await {
            ended.unwrap();
        }
    }
}

fn collection(client: &Client) -> Collection<Document> {
    client.database(DATABASE).collection("written")
}

/// A transaction cannot make a collection on every server.
pub(super) async fn make(source: &Client) {
    collection(source).insert_one(doc! { "_id": "first" }).await.unwrap();
}

/// A transaction that has written and does not end.
pub(super) struct Open(ClientSession);

impl Open {
    pub async fn begin(source: &Client) -> Self {
        let mut session = source.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        let written = collection(source);
        let insert = written.insert_one(doc! { "_id": "open" });
        insert.session(&mut session).await.unwrap();
        Self(session)
    }

    pub async fn abort_after(mut self, delay: Duration) {
        sleep(delay).await;
        self.0.abort_transaction().await.unwrap();
    }
}

pub(super) fn write_after(source: &Client, delay: Duration) -> impl Future<Output = ()> + Send + 'static {
    let written = collection(source);
    async move {
        sleep(delay).await;
        written.insert_one(doc! { "_id": "late" }).await.unwrap();
    }
}

/// What is written late may come before the hand-over or after it. What comes before is on both sides.
pub(super) async fn tidy_up(source: &Client, target: &Client) {
    for client in [source, target] {
        client.database(DATABASE).drop().await.unwrap();
    }
}
