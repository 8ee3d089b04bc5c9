//! A shop's data and the writes of its application.
//!
//! [`load`] fills the database [`DATABASE`] with collections of many shapes, [`Writer`] goes on changing them as an
//! application would, through elections and restarts.

mod operation;
mod shop;
mod writer;

pub use shop::{DATABASE, load, load_readings};
pub use writer::{Writer, WriterBuilder, WriterStats};
