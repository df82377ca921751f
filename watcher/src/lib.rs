//! From a file that is closed to an event in the log: detect, settle, hash, upload, publish.
//!
//! [`watches`] and [`scan`] notice, [`settle`] waits until a path is ripe, [`publish`] is the data path of one path,
//! [`look`] its decisions, and [`service`] the loop that ties them together. What programs ask for over [`http`] goes its own, shorter way: [`direct`].

#![allow(missing_docs)] // A program's own modules; each file says what it promises.

pub mod cli;
mod commands;
mod coverage;
mod direct;
mod dry_run;
mod facts;
mod http;
pub mod look;
mod node;
mod publish;
mod removals;
mod scan;
mod service;
mod settle;
mod turns;
mod upload;
mod wanted;
mod watches;
