//! The promises under faults: each test injects one, proves that it struck, and looks that the promise held.
//!
//! docs/RELIABILITY.md says which fault and which promise each belongs to. Tests whose names begin with `full_` take minutes;
//! `deploy/test.sh --full` runs them. They need strace, and root for what is mounted.
#![allow(clippy::unwrap_used)]

mod broker;
mod errors;
mod events;
mod links;
mod nodes;
mod power;
mod races;
mod reliability;
mod sweep;
