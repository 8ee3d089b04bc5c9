//! The router: routes, and what requests and answers have in common.

mod extract;
pub(in crate::console) mod guard;
mod handlers;
mod mongosync;
pub(in crate::console) mod openapi;
mod page;
pub(in crate::console) mod problem;
mod routes;
mod stream;
mod table;

pub use self::routes::router;
