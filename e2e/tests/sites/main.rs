//! Mirrors over more than one broker.
//!
//! Tests whose names begin with `full_` take minutes; `deploy/test.sh --full` runs them.
#![allow(clippy::unwrap_used)]

mod cluster;
mod security;
