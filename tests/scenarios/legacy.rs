//! Sources from 2.6 to 4.0, which the driver no longer talks to.

mod client;
mod replay;
