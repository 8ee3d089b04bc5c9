//! Streams of events.

use axum::body::BodyDataStream;
use futures::StreamExt;
use mongoferry::source::SourceCall;

use super::*;

/// An event of a stream.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub id: Option<u64>,
    pub event: String,
    pub data: Value,
}

/// A reader of a stream.
pub(super) struct Reader {
    body: BodyDataStream,
    text: String,
}

impl Client {
    /// Opens the stream of a migration, from the event after this one.
    pub(super) async fn open(&self, id: &str, after: Option<u64>) -> Result<Reader, StatusCode> {
        let mut request = request("GET", &format!("migrations/{id}/events"));
        if let Some(after) = after {
            request = request.header("last-event-id", after.to_string());
        }
        let response = self
            .0
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        if !response.status().is_success() {
            return Err(response.status());
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Ok(Reader {
            body: response.into_body().into_data_stream(),
            text: String::new(),
        })
    }
}

impl Reader {
    /// The next event; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                // Everything else is a comment.
                if let Some(sent) = parse(&block) {
                    return Some(sent);
                }
                continue;
            }
            let chunk = timeout(DEADLINE, self.body.next())
                .await
                .expect("something comes")?
                .unwrap();
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    pub(super) async fn until(&mut self, is_wanted: impl Fn(&Sent) -> bool) -> Vec<Sent> {
        let mut all = Vec::new();
        loop {
            let sent = self.next().await.expect("it does not end before");
            all.push(sent.clone());
            if is_wanted(&sent) {
                return all;
            }
        }
    }
}

fn parse(block: &str) -> Option<Sent> {
    let field = |name: &str| {
        let mut lines = block.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    Some(Sent {
        id: field("id").map(|id| id.parse().unwrap()),
        event: field("event")?,
        data: serde_json::from_str(&field("data")?).unwrap(),
    })
}

#[tokio::test(start_paused = true)]
async fn events_come_with_numbers_and_the_detail_every_second() {
    let bench = Bench::with_orders(5);
    let client = Client::of(&bench.console());
    let mut reader = client.open("tenant", None).await.unwrap();
    let first = reader.next().await.unwrap();
    assert_eq!(
        (first.event.as_str(), first.id, &first.data["state"]),
        ("detail", None, &json!("created"))
    );
    assert!(first.data.get("plan").is_none(), "{:#}", first.data);
    client.act("tenant", "start", json!({})).await;
    let until_ready = reader
        .until(|sent| sent.event == "phase_changed" && sent.data["phase"] == "ready")
        .await;
    let mut numbers = Vec::new();
    for sent in &until_ready {
        if sent.event == "detail" {
            continue;
        }
        assert_eq!(sent.data["type"], json!(sent.event), "{sent:?}");
        assert!(sent.data["at"].is_string(), "{sent:?}");
        assert_eq!(sent.id.is_none(), sent.event == "checkpoint_saved", "{sent:?}");
        numbers.extend(sent.id);
    }
    let begun = tokio::time::Instant::now();
    for _ in 0..4 {
        let detail = reader.until(|sent| sent.event == "detail").await;
        assert_eq!(detail.last().unwrap().data["state"], "running");
    }
    let took = begun.elapsed();
    assert!(
        (Duration::from_secs(3)..=Duration::from_secs(5)).contains(&took),
        "{took:?}"
    );
    let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, expected);

    // One that comes back gets what it has not seen.
    let last = *numbers.last().unwrap();
    let mut again = client.open("tenant", Some(last - 2)).await.unwrap();
    let sent = again.until(|sent| sent.id == Some(last)).await;
    assert_eq!(
        sent.iter().filter_map(|sent| sent.id).collect::<Vec<_>>(),
        [last - 1, last]
    );

    let token = client.until_ready("tenant").await["cutover"]["token"].clone();
    client.act("tenant", "cutover", json!({ "token": token })).await;
    let cutover = reader
        .until(|sent| sent.data["phase"] == "complete" && sent.id.is_some())
        .await;
    let steps: Vec<_> = cutover.iter().filter(|sent| sent.event == "cutover_step").collect();
    let steps: Vec<_> = steps.iter().map(|sent| sent.data["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["stop_writes", "drain", "compare", "finish"]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_slow_holds_no_memory_and_is_told_what_it_missed() {
    let bench = Bench::with_orders(5);
    let console = bench.console();
    let client = Client::of(&console);
    client.act("tenant", "start", json!({})).await;
    client.until_ready("tenant").await;
    let mut slow = client.open("tenant", None).await.unwrap();
    slow.next().await.unwrap();
    // Each pause and each resume is several events.
    for _ in 0..400 {
        client.act("tenant", "pause", json!({})).await;
        client.act("tenant", "resume", json!({})).await;
        client.until_ready("tenant").await;
    }
    let sent = slow.until(|sent| sent.event == "missed").await;
    let missed = sent.last().unwrap().data["events"].as_u64().unwrap();
    assert!(missed > 100, "{missed}");
    // What was ready when it stopped reading, and no more.
    assert!(sent.len() < 100, "{}", sent.len());
    let next = slow.until(|sent| sent.id.is_some()).await;
    let last = sent.iter().filter_map(|sent| sent.id).max().unwrap_or_default();
    assert_eq!(next.last().unwrap().id, Some(last + missed + 1));
}

#[tokio::test(start_paused = true)]
async fn streams_are_limited_and_a_closed_one_makes_room() {
    let console = Bench::with_orders(1).console();
    let client = Client::of(&console);
    let mut readers = Vec::new();
    for _ in 0..64 {
        readers.push(client.open("tenant", None).await.unwrap());
    }
    for _ in 0..36 {
        assert_eq!(
            client.open("tenant", None).await.err(),
            Some(StatusCode::SERVICE_UNAVAILABLE)
        );
    }
    client.get("migrations/tenant/events").await.problem(503);
    readers.pop();
    assert!(client.open("tenant", None).await.is_ok());
}

/// An open stream keeps neither the migration nor the console in existence.
#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_the_migration_and_with_the_console() {
    for forgets in [true, false] {
        let bench = Bench::with_orders(5);
        let console = bench.console();
        let client = Client::of(&console);
        client.act("tenant", "start", json!({})).await;
        client.until_ready("tenant").await;
        let mut reader = client.open("tenant", None).await.unwrap();
        reader.next().await.unwrap();
        match forgets {
            true => assert!(console.remove("tenant")),
            false => drop((console, client)),
        }
        let ends = async { while reader.next().await.is_some() {} };
        timeout(DEADLINE, ends).await.expect("the stream ends");
        sleep(Duration::from_secs(10)).await;
        let known = mongoferry::migrations(&bench.sink).await.unwrap();
        assert!(known[0].owner.is_none(), "{known:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_is_an_event() {
    let bench = Bench::with_orders(5);
    let client = Client::of(&bench.console());
    let refused = mongoferry::Error::new(mongoferry::ErrorKind::Server, "describe the source", "it is tired");
    bench.source.fail_next(SourceCall::Describe, refused);
    client.act("tenant", "start", json!({})).await;
    let mut reader = client.open("tenant", None).await.unwrap();
    let sent = reader.until(|sent| sent.event == "failed").await;
    assert_eq!(sent.last().unwrap().data["error"]["kind"], "server");
}
