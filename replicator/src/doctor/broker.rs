//! What the broker says: asked over a connection of its own, with requests that leave nothing behind. All facts; the verdicts are beside this file.

use super::{
    clock::{self, Difference},
    folders::Trouble,
    store,
};
use common::{
    broker::{Broker, BrokerError, ConnectError, EmbeddedLook, EmbeddedOptions, ServerVersion, wire::Wire},
    exit::{Failure, Fault},
    names::MirrorName,
    settings::{Server, Settings},
    startup::connect_command,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;

/// What was found where a broker should be.
pub enum Reached {
    /// It answered.
    There(Box<Facts>),
    /// The embedded one, which nobody has started; its program, and the version of that.
    Idle(PathBuf, ServerVersion),
    /// It cannot be used.
    Away(Trouble),
}

/// What it said.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Host and port.
    pub server: String,
    /// The version as it says it.
    pub version: String,
    /// One that processes of this machine start and configure.
    pub embedded: bool,
    pub max_payload: usize,
    /// This account's share of JetStream.
    pub account: Result<Account, BrokerError>,
    /// Log, blobs where they are the broker's, node records.
    pub streams: Vec<Stream>,
    /// Where the blobs are otherwise.
    pub store: Option<store::Facts>,
    /// This node's consumer of the log is there.
    pub consumer: bool,
    /// This machine's clock against the broker's; `None`: it tells no time.
    pub clock: Option<Difference>,
}

/// Which of the mirror's streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    Log,
    Blobs,
    Nodes,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Stream {
    pub which: Which,
    pub name: String,
    /// `None`: it is not there.
    pub there: Result<Option<StreamFacts>, BrokerError>,
}

/// The answer to `$JS.API.INFO`, as far as it matters.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Account {
    #[serde(default)]
    pub storage: u64,
    #[serde(default)]
    pub streams: u64,
    #[serde(default)]
    pub consumers: u64,
    #[serde(default)]
    pub limits: AccountLimits,
    /// Where an account has limits for each number of replicas.
    #[serde(default)]
    pub tiers: std::collections::BTreeMap<String, Tier>,
}

/// The share of one tier.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Tier {
    pub storage: u64,
    pub streams: u64,
    pub consumers: u64,
    pub limits: AccountLimits,
}

/// Not above 0: no limit, but for storage, of which 0 is none at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct AccountLimits {
    pub max_storage: i64,
    pub max_streams: i64,
    pub max_consumers: i64,
    pub storage_max_stream_bytes: i64,
    /// Streams must say how large they become; ours do not.
    pub max_bytes_required: bool,
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self {
            max_storage: -1,
            max_streams: -1,
            max_consumers: -1,
            storage_max_stream_bytes: -1,
            max_bytes_required: false,
        }
    }
}

/// A stream's configuration and contents, as far as they matter.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct StreamFacts {
    pub config: Config,
    pub state: Contents,
    #[serde(default)]
    pub cluster: Option<Cluster>,
}

/// Not above 0: no limit.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    pub storage: String,
    pub retention: String,
    pub discard: String,
    pub max_bytes: i64,
    pub max_msgs: i64,
    /// Nanoseconds.
    pub max_age: i64,
    pub max_msg_size: i64,
    pub max_consumers: i64,
    pub num_replicas: u64,
    pub allow_direct: bool,
    pub sealed: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            storage: "file".into(),
            retention: "limits".into(),
            discard: "old".into(),
            max_bytes: -1,
            max_msgs: -1,
            max_age: 0,
            max_msg_size: -1,
            max_consumers: -1,
            num_replicas: 1,
            allow_direct: true,
            sealed: false,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Contents {
    pub bytes: u64,
    pub consumer_count: u64,
}

/// The servers that hold a stream.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Cluster {
    pub leader: Option<String>,
    pub replicas: Vec<Replica>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Replica {
    pub name: String,
    pub current: bool,
    pub offline: bool,
}

/// Asks. Gives up on the broker after 5 s, and starts none.
pub async fn ask(settings: &Settings) -> Reached {
    let (connected, embedded) = match &settings.nats.server {
        Server::At(_) => (connect_command(settings, "replicator-doctor").await, false),
        Server::Embedded { base, port, program, search } => {
            let options = EmbeddedOptions {
                base: base.clone(),
                port: *port,
                program: program.clone(),
                search: search.clone(),
            };
            match EmbeddedLook::at(&options).await {
                Ok(EmbeddedLook::Runs(url)) => {
                    let mut there = settings.clone();
                    there.nats.server = Server::At(vec![url.parse().expect("a URL of this form")]);
                    (connect_command(&there, "replicator-doctor").await, true)
                }
                Ok(EmbeddedLook::Idle(program, version)) => return Reached::Idle(program, version),
                Err(error) => return Reached::Away(trouble(error.into())),
            }
        }
    };
    match connected {
        Ok(broker) => {
            let facts = facts(&broker, settings, embedded).await;
            broker.shutdown().await;
            Reached::There(Box::new(facts))
        }
        Err(error) => Reached::Away(trouble(error)),
    }
}

fn trouble(error: ConnectError) -> Trouble {
    let hint = error.hint();
    Trouble { hint, ..Failure::from(error).into() }
}

async fn facts(broker: &Broker, settings: &Settings, embedded: bool) -> Facts {
    let wire = Wire::new(broker.client().clone());
    let info = broker.client().server_info();
    let mirror = &settings.mirror;
    let consumer = format!("CONSUMER.INFO.{}.{}", mirror.log_stream(), settings.node.consumer());
    let (nothing, stream_of_log) = (json!({}), mirror.log_stream());
    let (account, log, blobs, nodes, consumer, clock, store) = tokio::join!(
        wire.api(("asking for", "this account's JetStream"), "INFO", &nothing),
        stream(&wire, Which::Log, mirror),
        stream(&wire, Which::Blobs, mirror),
        stream(&wire, Which::Nodes, mirror),
        wire.api::<Value>(("asking for", "this node's consumer"), &consumer, &nothing),
        clock::measure(&wire, &stream_of_log),
        store::ask(broker, settings),
    );
    Facts {
        server: format!("{}:{}", info.host, info.port),
        version: info.version,
        embedded,
        max_payload: info.max_payload,
        account,
        streams: [Some(log), Some(blobs).filter(|_| store.is_none()), Some(nodes)]
            .into_iter()
            .flatten()
            .collect(),
        store,
        consumer: consumer.is_ok(),
        clock,
    }
}

async fn stream(wire: &Wire, which: Which, mirror: &MirrorName) -> Stream {
    let name = match which {
        Which::Log => mirror.log_stream(),
        Which::Blobs => format!("OBJ_{}", mirror.blob_bucket()),
        Which::Nodes => format!("KV_{}", mirror.node_bucket()),
    };
    let asked = wire.api(("asking for stream", &name), &format!("STREAM.INFO.{name}"), &json!({})).await;
    let there = match asked {
        Ok(facts) => Ok(Some(facts)),
        Err(BrokerError::Absent { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    Stream { which, name, there }
}

#[cfg(test)]
impl Facts {
    /// Of a broker on which nothing has been made.
    pub fn of_a_test() -> Self {
        let stream = |which| Stream { which, name: "S".into(), there: Ok(None) };
        Self {
            server: "localhost:4222".into(),
            version: "2.15.2".into(),
            embedded: false,
            max_payload: 1 << 20,
            account: Ok(Account::default()),
            streams: [Which::Log, Which::Blobs, Which::Nodes].map(stream).into(),
            store: None,
            consumer: false,
            clock: None,
        }
    }
}
