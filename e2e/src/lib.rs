//! What the end-to-end tests stand on: real processes, a real nats-server, real files, and waits that have a
//! deadline and a name.
//!
//! Everything here panics when the machine does not do what a test needs, with a message that says what was
//! awaited; every process started here is killed when its handle is dropped, and its log is shown when the test
//! failed.

mod broker;
mod cluster;
mod disk;
mod download;
mod http;
mod inotify;
mod mirror;
mod nats;
mod node;
mod process;
mod proxy;
mod reader;
mod s3;
mod secured;
mod seed;
mod strace;
mod tmpfs;
mod tree;
mod wait;
mod writer;

pub use broker::{Broker, Traffic, free_port};
pub use cluster::Cluster;
pub use disk::{Cut, Disk};
pub use download::{Download, Downloaded};
pub use http::{Answer, Http, Live, LiveEvent, Samples, Sending, fetch};
pub use inotify::{INSTANCES, WATCHES, lift, limited, may_limit};
pub use mirror::Mirror;
pub use nats::{LogLine, Nats, Spoil, Tap, Transfers};
pub use node::{Node, Role};
pub use process::{Finished, Process, as_user, not_run, run, running_with};
pub use proxy::{Link, Proxy};
pub use reader::Reader;
pub use s3::{S3, always_busy, blobs_in, environment};
pub use secured::{Intruder, Secured, look_at};
pub use seed::seed;
pub use strace::{Fault, Injection, Trace, kill_traced};
pub use tmpfs::SmallDisk;
pub use tree::{Tree, content, copy_folder, put_back, sha256_of, write};
pub use wait::{LONG, SOON, paced, wait_for, wait_until};
pub use writer::Writer;
