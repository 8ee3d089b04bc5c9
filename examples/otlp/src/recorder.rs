//! A recorder of the crate `metrics` that passes everything on to a meter of OpenTelemetry.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{CounterFn, GaugeFn, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

/// Bounds of the buckets of histograms, which count seconds or changes.
const BOUNDS: [f64; 10] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1000.0];

/// A recorder over a meter.
pub struct OtelRecorder {
    meter: Meter,
    descriptions: Mutex<HashMap<String, SharedString>>,
}

impl OtelRecorder {
    pub fn new(meter: Meter) -> Self {
        Self {
            meter,
            descriptions: Mutex::default(),
        }
    }

    fn describe(&self, name: &KeyName, description: SharedString) {
        let mut descriptions = self.descriptions.lock().unwrap_or_else(PoisonError::into_inner);
        descriptions.insert(name.as_str().to_owned(), description);
    }

    /// Metrics are described before they are registered.
    fn description(&self, key: &Key) -> String {
        let descriptions = self.descriptions.lock().unwrap_or_else(PoisonError::into_inner);
        descriptions
            .get(key.name())
            .map(ToString::to_string)
            .unwrap_or_default()
    }
}

fn attributes(key: &Key) -> Vec<KeyValue> {
    let labels = key.labels();
    labels
        .map(|label| KeyValue::new(label.key().to_owned(), label.value().to_owned()))
        .collect()
}

/// A metric with the labels of one key.
struct Labelled<T> {
    instrument: T,
    attributes: Vec<KeyValue>,
    /// The value of a counter, or the bits of a gauge's.
    value: AtomicU64,
}

impl<T> Labelled<T> {
    fn new(instrument: T, key: &Key) -> Arc<Self> {
        Arc::new(Self {
            instrument,
            attributes: attributes(key),
            value: AtomicU64::new(0),
        })
    }
}

impl CounterFn for Labelled<Counter<u64>> {
    fn increment(&self, value: u64) {
        self.value.fetch_add(value, Ordering::Relaxed);
        self.instrument.add(value, &self.attributes);
    }

    fn absolute(&self, value: u64) {
        let before = self.value.fetch_max(value, Ordering::Relaxed);
        self.instrument.add(value.saturating_sub(before), &self.attributes);
    }
}

impl Labelled<Gauge<f64>> {
    fn change(&self, change: impl Fn(f64) -> f64) {
        let bits = |bits| Some(change(f64::from_bits(bits)).to_bits());
        if let Ok(before) = self.value.fetch_update(Ordering::Relaxed, Ordering::Relaxed, bits) {
            self.instrument.record(change(f64::from_bits(before)), &self.attributes);
        }
    }
}

impl GaugeFn for Labelled<Gauge<f64>> {
    fn increment(&self, value: f64) {
        self.change(|before| before + value);
    }

    fn decrement(&self, value: f64) {
        self.change(|before| before - value);
    }

    fn set(&self, value: f64) {
        self.change(|_| value);
    }
}

impl HistogramFn for Labelled<Histogram<f64>> {
    fn record(&self, value: f64) {
        self.instrument.record(value, &self.attributes);
    }
}

impl Recorder for OtelRecorder {
    // The names have their unit already.
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&name, description);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&name, description);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&name, description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> metrics::Counter {
        let counter = self
            .meter
            .u64_counter(key.name().to_owned())
            .with_description(self.description(key));
        metrics::Counter::from_arc(Labelled::new(counter.build(), key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> metrics::Gauge {
        let gauge = self
            .meter
            .f64_gauge(key.name().to_owned())
            .with_description(self.description(key));
        metrics::Gauge::from_arc(Labelled::new(gauge.build(), key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        let histogram = self
            .meter
            .f64_histogram(key.name().to_owned())
            .with_description(self.description(key));
        metrics::Histogram::from_arc(Labelled::new(histogram.with_boundaries(BOUNDS.to_vec()).build(), key))
    }
}
