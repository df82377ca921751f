//! From an event in the log to a file in the tree: consume, plan, fetch, verify, place, record.
//!
//! [`apply`] is the data path of one event, [`plan`] its decisions, [`fetch`] makes verified files, [`service`] ties them
//! together, and [`tracker`] says how far the node has come.

#![allow(missing_docs)] // A program's own modules; each file says what it promises.

mod apply;
mod asking;
pub mod check;
pub mod cli;
mod commands;
mod compare;
mod config;
mod doctor;
mod export;
mod facts;
mod fetch;
mod gc;
mod history;
pub mod hold;
pub mod hooks;
mod http;
mod log_command;
mod migrate;
mod node;
mod nodes;
mod parked;
mod parts;
pub mod plan;
mod provision;
mod recovery;
pub mod repair;
mod replay;
mod restock;
mod restore;
mod scrub;
mod service;
mod space;
pub mod tracker;
mod upkeep;
pub mod verify;
mod wait;
mod work;
