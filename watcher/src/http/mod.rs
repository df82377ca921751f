//! What the watcher answers over HTTP besides health. One file for each route.

mod files;

pub use files::routes as files;
