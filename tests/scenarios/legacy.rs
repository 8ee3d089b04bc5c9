//! Sources from 2.6 to 4.0, and the client that talks to them.

mod client;
mod period;
mod replay;
mod source;
