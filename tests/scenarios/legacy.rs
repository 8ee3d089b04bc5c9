//! Sources before 4.2.

mod period;
