//! Sources from 2.6 to 4.0.

mod period;
mod replay;
