//! The console in a real browser, on real servers where that matters.
//!
//! The tests are ignored, because they need `chromium` and `chromedriver`:
//! `cargo test -p mongoferry-browser -- --ignored`.

mod accessibility;
mod driver;
mod host;
mod keyboard;
mod many;
mod page;
mod restart;
mod sides;
mod stale;
mod trouble;
mod walk;
