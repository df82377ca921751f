//! What needs more than one crate of ours, or a real broker: settings, the connection, the embedded broker, node records, and the contracts of log and blobs.
//!
//! One program, so that what all of them use is compiled once.
#![allow(clippy::unwrap_used)]

mod connect;
mod embedded;
mod nodes;
mod seams;
mod server;
mod settings;
