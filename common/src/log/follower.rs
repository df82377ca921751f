//! The durable pull consumer of one node.

use super::{ConsumerState, Delivery, Follower, Logged};
use crate::{
    broker::{BrokerError, wire::Wire},
    event::Version,
    names::NodeName,
    subject::Subjects,
};
use async_nats::{
    Client, Subject,
    jetstream::{
        self,
        consumer::{PullConsumer, pull},
    },
};
use async_trait::async_trait;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Unacknowledged for this long, an event comes again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Events delivered and not yet acknowledged.
const MAX_ACK_PENDING: u64 = 4096;
/// Events asked for at once.
const BATCH: usize = 256;
/// A request for events stands this long, with a sign of life each second: a consumer that is gone is noticed after 2 s.
const EXPIRES: Duration = Duration::from_secs(3);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Without a sign of life for this long the broker is away.
const AWAY: Duration = Duration::from_secs(10);
/// Two signs of trouble further apart than this had a good time between them.
const TROUBLE_ENDS: Duration = Duration::from_secs(4);
/// Between attempts to ask for events again.
const PAUSE: Duration = Duration::from_millis(250);
const ACK: &str = "+ACK";
const IN_PROGRESS: &str = "+WPI";
/// The consumer exists: made by another process at this moment.
const EXISTS: [u64; 3] = [10013, 10105, 10148];

/// Follows the log through this node's consumer.
pub struct JetStreamFollower {
    wire: Wire,
    stream: String,
    name: String,
    subjects: Subjects,
    consumer: PullConsumer,
    messages: pull::Stream,
    trouble: Option<Trouble>,
}

/// Since when, and when last, the broker gave no sign of life.
#[derive(Clone, Copy)]
struct Trouble {
    since: Instant,
    last: Instant,
}

/// An event from the consumer.
pub struct JetStreamDelivery {
    logged: Logged,
    pending: u64,
    client: Client,
    reply: Option<Subject>,
}

#[derive(Deserialize)]
struct Position {
    stream_seq: u64,
}

#[derive(Deserialize)]
struct ConsumerInfo {
    ack_floor: Position,
    delivered: Position,
    num_pending: u64,
}

impl JetStreamFollower {
    pub(super) async fn start(
        wire: &Wire,
        stream: &str,
        subjects: Subjects,
        node: &NodeName,
    ) -> Result<Self, BrokerError> {
        let name = node.consumer();
        provide(wire, stream, &subjects, node).await?;
        let mut context = jetstream::new(wire.client().clone());
        context.set_timeout(crate::broker::wire::PATIENCE);
        let consumer: PullConsumer =
            context.get_consumer_from_stream(name.as_str(), stream).await.map_err(|e| BrokerError::Away {
                doing: format!("opening consumer {name}"),
                reason: e.to_string(),
            })?;
        let messages = pull(&consumer, &name).await?;
        Ok(Self {
            wire: wire.clone(),
            stream: stream.into(),
            name,
            subjects,
            consumer,
            messages,
            trouble: None,
        })
    }

    /// Decides whether this is the end. `reopen`: the iterator will not go on by itself.
    async fn in_trouble(&mut self, reason: String, reopen: bool) -> Result<(), BrokerError> {
        let now = Instant::now();
        let since = self.trouble.filter(|t| now - t.last < TROUBLE_ENDS).map_or(now, |t| t.since);
        self.trouble = Some(Trouble { since, last: now });
        if now - since >= AWAY {
            let doing = format!("following the log by {}", self.name);
            return Err(BrokerError::Away { doing, reason });
        }
        // A consumer that was deleted while nobody was connected is never told of.
        let look = timeout(HEARTBEAT, info(&self.wire, &self.stream, &self.name));
        if let Ok(Err(error @ BrokerError::Absent { .. })) = look.await {
            return Err(error);
        }
        if reopen {
            sleep(PAUSE).await;
            self.messages = pull(&self.consumer, &self.name).await?;
        }
        Ok(())
    }

    fn delivery(&self, message: jetstream::Message) -> Result<JetStreamDelivery, BrokerError> {
        let doing = || format!("following the log by {}", self.name);
        let (version, time, pending) = match message.info() {
            Ok(info) => (Version::new(info.stream_sequence), info.published.into(), info.pending),
            Err(error) => return Err(BrokerError::Answer { doing: doing(), reason: error.to_string() }),
        };
        let message = message.message;
        let subject = message.subject.to_string();
        let logged = Logged::new(&self.subjects, version, time, subject, message.payload);
        Ok(JetStreamDelivery { logged, pending, client: self.wire.client().clone(), reply: message.reply })
    }
}

/// Makes a node's consumer where it is not there. False: it is.
pub(super) async fn provide(
    wire: &Wire,
    stream: &str,
    subjects: &Subjects,
    node: &NodeName,
) -> Result<bool, BrokerError> {
    let name = node.consumer();
    match info(wire, stream, &name).await {
        Ok(_) => Ok(false),
        Err(BrokerError::Absent { .. }) => {
            create(wire, stream, &name, &subjects.all()).await?;
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// The state of a node's consumer; `None`: there is none.
pub(super) async fn look(
    wire: &Wire,
    stream: &str,
    node: &NodeName,
) -> Result<Option<ConsumerState>, BrokerError> {
    match info(wire, stream, &node.consumer()).await {
        Ok(info) => Ok(Some(info.into())),
        Err(BrokerError::Absent { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes the consumer of a node. False: there was none.
pub(super) async fn delete(wire: &Wire, stream: &str, node: &NodeName) -> Result<bool, BrokerError> {
    let name = node.consumer();
    let subject = format!("CONSUMER.DELETE.{stream}.{name}");
    match wire.api::<serde_json::Value>(("deleting consumer", &name), &subject, &json!({})).await {
        Ok(_) => Ok(true),
        Err(BrokerError::Absent { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

impl From<ConsumerInfo> for ConsumerState {
    fn from(info: ConsumerInfo) -> Self {
        Self {
            acknowledged: Version::new(info.ack_floor.stream_seq),
            delivered: Version::new(info.delivered.stream_seq),
            pending: info.num_pending,
        }
    }
}

async fn info(wire: &Wire, stream: &str, name: &str) -> Result<ConsumerInfo, BrokerError> {
    wire.api(("asking for consumer", name), &format!("CONSUMER.INFO.{stream}.{name}"), &json!({})).await
}

async fn create(wire: &Wire, stream: &str, name: &str, filter: &str) -> Result<(), BrokerError> {
    let body = json!({
        "stream_name": stream,
        "action": "create",
        "config": {
            "name": name,
            "durable_name": name,
            "description": "mediamirror: what this node has applied",
            "deliver_policy": "last_per_subject",
            "ack_policy": "explicit",
            "ack_wait": u64::try_from(ACK_WAIT.as_nanos()).unwrap_or(u64::MAX),
            "max_deliver": -1,
            "max_ack_pending": MAX_ACK_PENDING,
            "filter_subject": filter,
            "replay_policy": "instant",
        }
    });
    let subject = format!("CONSUMER.CREATE.{stream}.{name}.{filter}");
    match wire.api::<serde_json::Value>(("creating consumer", name), &subject, &body).await {
        Err(BrokerError::Refused { code, .. }) if EXISTS.contains(&code) => Ok(()),
        other => other.map(|_| ()),
    }
}

async fn pull(consumer: &PullConsumer, name: &str) -> Result<pull::Stream, BrokerError> {
    let builder = consumer.stream().max_messages_per_batch(BATCH).expires(EXPIRES).heartbeat(HEARTBEAT);
    let away = |reason| BrokerError::Away { doing: format!("following the log by {name}"), reason };
    match timeout(crate::broker::wire::PATIENCE, builder.messages()).await {
        Ok(messages) => messages.map_err(|e| away(e.to_string())),
        Err(_) => Err(away("the connection takes no requests".into())),
    }
}

#[async_trait]
impl Follower for JetStreamFollower {
    type Delivery = JetStreamDelivery;

    async fn next(&mut self) -> Result<JetStreamDelivery, BrokerError> {
        use pull::MessagesErrorKind as Kind;
        loop {
            let error = match self.messages.next().await {
                Some(Ok(message)) => {
                    self.trouble = None;
                    return self.delivery(message);
                }
                Some(Err(error)) => error,
                None => {
                    self.in_trouble("the subscription ended".into(), true).await?;
                    continue;
                }
            };
            let doing = || format!("following the log by {}", self.name);
            match error.kind() {
                Kind::ConsumerDeleted => return Err(BrokerError::Absent { doing: doing() }),
                Kind::PushBasedConsumer | Kind::RequestLimitExceeded => {
                    return Err(BrokerError::Refused {
                        doing: doing(),
                        code: 409,
                        reason: error.to_string(),
                    });
                }
                Kind::MissingHeartbeat => self.in_trouble(error.to_string(), false).await?,
                Kind::Pull | Kind::NoResponders | Kind::Other => {
                    self.in_trouble(error.to_string(), true).await?;
                }
            }
        }
    }

    async fn state(&mut self) -> Result<ConsumerState, BrokerError> {
        Ok(info(&self.wire, &self.stream, &self.name).await?.into())
    }
}

impl JetStreamDelivery {
    async fn answer(&self, kind: &'static str) {
        if let Some(reply) = self.reply.clone() {
            // A full command queue, while disconnected, must not hold up who acknowledges: the event would come again.
            let _ = timeout(HEARTBEAT, self.client.publish(reply, kind.into())).await;
        }
    }
}

#[async_trait]
impl Delivery for JetStreamDelivery {
    fn logged(&self) -> &Logged {
        &self.logged
    }

    fn pending(&self) -> u64 {
        self.pending
    }

    async fn acknowledge(&self) {
        self.answer(ACK).await;
    }

    async fn progress(&self) {
        self.answer(IN_PROGRESS).await;
    }
}
