//! The promises under faults: each test injects one, proves that it struck, and looks that the promise held; and what operators do about damage.
//!
//! docs/RELIABILITY.md says which fault and which promise each belongs to. Tests whose names begin with `full_` take minutes;
//! `deploy/test.sh --full` runs them. They need strace, and root for what is mounted.
#![allow(clippy::unwrap_used)]

mod away;
mod broker;
mod coverage;
mod damage;
mod errors;
mod events;
mod held;
mod links;
mod nodes;
mod parked;
mod power;
mod races;
mod recovery;
mod reliability;
mod restore;
mod scrub;
mod space;
mod sweep;
mod verify;
