//! Sources from 2.6 to 4.0, and the client that talks to them.

mod client;
mod faults;
mod old_source;
mod period;
mod preflight;
mod replay;
mod source;
