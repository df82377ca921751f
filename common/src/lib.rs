//! What both processes of mediamirror share: paths, events, the log, blobs, the index, the root.

pub mod arrivals;
pub mod bar;
pub mod blobs;
pub mod broker;
pub mod bulk;
pub mod content;
pub mod event;
pub mod exit;
pub mod hash;
pub mod http;
pub mod index;
pub mod known;
pub mod limits;
pub mod local_lock;
pub mod log;
pub mod logging;
pub mod names;
pub mod nodes;
pub mod path;
pub mod place;
pub mod resolve;
pub mod root;
pub mod rounds;
pub mod settings;
pub mod sightings;
pub mod space;
pub mod startup;
pub mod status;
pub mod subject;
pub mod time;
pub mod troubles;
pub mod trust;
pub mod vitals;
pub mod wait;

pub use exit::error_chain;
