//! The mirror end to end: real watchers and replicators, a real nats-server, real files.
//!
//! One test binary, so that it is linked once. Each test has a broker and nodes of its own; they run side by side.
//! Tests whose names begin with `full_` take minutes or gigabytes; `deploy/test.sh --full` runs them.
#![allow(clippy::unwrap_used)]

mod adopting;
mod doctor;
mod embedded;
mod erasure;
mod faults;
mod full;
mod healing;
mod hooks;
mod independent;
mod inspect;
mod limits;
mod live;
mod moves;
mod names;
mod readme;
mod refusals;
mod rules;
mod safety;
mod settings;
mod start;
mod upgrades;
mod uploads;
mod users;
