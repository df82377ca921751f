//! What an operator sees: health, numbers, alerts. Each tells what is so, and agrees with the others.
//!
//! Tests whose names begin with `full_` take minutes; `deploy/test.sh --full` runs them. Those of rules and alerts need Debian's `prometheus`.
#![allow(clippy::unwrap_used)]

mod alerts;
mod api;
mod cluster;
mod health;
mod numbers;
mod observed;
mod page;
mod prometheus;
mod rules;
mod several;
mod stories;
