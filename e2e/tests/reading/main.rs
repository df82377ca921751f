//! Files over HTTP: by their hash and by their path, from the disk, from the store, and while they arrive.
//!
//! Tests whose names begin with `full_` take gigabytes or other programs; `deploy/test.sh --full` runs them.
#![allow(clippy::unwrap_used)]

mod disk;
mod full;
mod nginx;
mod rules;
mod store;
mod through;
