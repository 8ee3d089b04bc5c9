//! Behaviour on real servers, one binary for all scenarios.

// Clippy exempts test functions from these, but not the helpers that they call.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

/// Parts of the example `live_migration` that read and write nothing, with their tests.
#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../examples/live_migration"]
mod live_migration {
    mod collections;
    mod guide;
    mod keyboard;
    mod panel;
    mod rate;
    mod text;
    mod tone;
    mod waits;
}

mod scenarios {
    mod cancellation;
    mod cases;
    mod collation;
    mod console;
    mod conformance;
    mod deadline;
    mod delta;
    mod example;
    mod example_terminal;
    mod existing;
    mod faults;
    mod fencing;
    mod interrupted;
    mod invariants;
    mod large_ids;
    mod layout;
    mod legacy;
    mod lost_position;
    mod migration;
    mod mongo_sink;
    mod mongo_source;
    mod newer_servers;
    mod old_id_index;
    mod oplog;
    mod oplog_start;
    mod order;
    mod pairs;
    mod preflight;
    mod random_memory;
    mod random_servers;
    mod recovery;
    mod redact;
    mod reverse;
    mod rules;
    mod rules_oracle;
    mod service;
    mod side_by_side;
    mod small_examples;
    mod source_clients;
    mod specifications;
    mod target_trouble;
    mod users;
    mod verify;
    mod watch;
}
