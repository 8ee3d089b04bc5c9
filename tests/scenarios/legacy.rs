//! Servers that the driver no longer talks to.

mod client;
