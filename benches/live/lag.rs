//! How long it takes until what was written to the source can be read from the target.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bson::{Document, doc};
use mongodb::options::ReadPreference;
use mongodb::{Client, Collection};
use mongoferry_testbed::ReplicaSet;
use tokio::time::{interval, sleep, timeout};

use crate::Result;
use crate::copy::PATIENCE;
use crate::data::DATABASE;
use crate::traffic::Traffic;

/// The collection that is written to and looked at.
pub(crate) const PROBE: &str = "probe";

/// How often something is written to it, and how often it is looked for.
const WRITE: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_millis(5);

/// What was measured.
pub(crate) struct Lag {
    /// Writes a second that were wanted, and that there were.
    pub wanted: f64,
    pub reached: f64,
    /// How long each probe took in seconds, the shortest first.
    probes: Vec<f64>,
}

impl Lag {
    /// The lag that so many of a hundred probes do not exceed.
    pub fn percentile(&self, hundredths: usize) -> f64 {
        let at = (self.probes.len() * hundredths).div_ceil(100).saturating_sub(1);
        self.probes.get(at).copied().unwrap_or_default()
    }
}

/// Writes to the source at a rate, and watches when probes arrive on the target.
///
/// # Errors
/// A server error, or probes that never arrive.
pub(crate) async fn measure(
    source: &ReplicaSet,
    target: &Client,
    traffic: &mut Traffic,
    wanted: f64,
    length: Duration,
) -> Result<Lag> {
    let collection = |client: &Client| client.database(DATABASE).collection::<Document>(PROBE);
    let (to, from) = (collection(&source.client().await?), collection(target));
    let probes = Probes::default();
    let writing = async {
        let started = Instant::now();
        let writes = traffic
            .write((wanted * length.as_secs_f64()) as u64, Some(wanted))
            .await?;
        Ok::<f64, crate::AnyError>(writes as f64 / started.elapsed().as_secs_f64())
    };
    let mut watching = std::pin::pin!(probes.watch(&from));
    let reached = tokio::select! {
        reached = writing => reached?,
        failed = probes.write(&to) => match failed? {},
        failed = &mut watching => match failed? {},
    };
    tokio::select! {
        arrived = timeout(PATIENCE, probes.arrived()) => arrived?,
        failed = &mut watching => match failed? {},
    }
    let mut probes = lock(&probes.took).clone();
    probes.sort_by(f64::total_cmp);
    Ok(Lag {
        wanted,
        reached,
        probes,
    })
}

/// Small documents that are written one after the other.
#[derive(Default)]
struct Probes {
    /// Those that have not arrived, with the moment when each was acknowledged.
    under_way: Mutex<VecDeque<(i64, Instant)>>,
    took: Mutex<Vec<f64>>,
}

impl Probes {
    async fn write(&self, to: &Collection<Document>) -> Result<Infallible> {
        let mut number = to.estimated_document_count().await? as i64;
        let mut ticks = interval(WRITE);
        loop {
            ticks.tick().await;
            number += 1;
            to.insert_one(doc! { "_id": number }).await?;
            lock(&self.under_way).push_back((number, Instant::now()));
        }
    }

    async fn watch(&self, from: &Collection<Document>) -> Result<Infallible> {
        loop {
            let find = from.find_one(doc! {}).sort(doc! { "_id": -1 });
            let find = find.selection_criteria(ReadPreference::Nearest { options: None }.into());
            let newest = find.await?.map_or(0, |probe| probe.get_i64("_id").unwrap_or_default());
            self.have_arrived(newest);
            sleep(LOOK).await;
        }
    }

    /// Takes note that every probe up to this one can be read.
    fn have_arrived(&self, newest: i64) {
        let now = Instant::now();
        let mut under_way = lock(&self.under_way);
        while let Some((number, written)) = under_way.front().copied() {
            if number > newest {
                break;
            }
            under_way.pop_front();
            lock(&self.took).push(now.saturating_duration_since(written).as_secs_f64());
        }
    }

    async fn arrived(&self) {
        while !lock(&self.under_way).is_empty() {
            sleep(LOOK).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
