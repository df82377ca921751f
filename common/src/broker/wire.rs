//! JetStream by its wire protocol: every request has a bound, every refusal becomes a [`BrokerError`].
//!
//! The client library is used for the connection only. Its own requests hide the codes that decide what comes next, and have
//! no form for batched reads and atomic batches.

mod batch;
mod direct;
mod error;
mod publish;
mod stream;

pub use batch::{BatchAck, Member};
pub use direct::{Page, Stored};
pub use publish::Ack;
pub use stream::{Settings, StreamInfo};

use crate::broker::BrokerError;
use async_nats::{Client, HeaderMap, Message, Request, RequestErrorKind};
use bytes::Bytes;
use error::{ApiError, Doing};
use rand::Rng;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::timeout;

/// How long one request may take. A healthy broker answers within milliseconds, one under a storm of writes within a second.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The part of it that is kept for finding out why there was no answer.
const LOOK: Duration = Duration::from_secs(1);
/// The shortest and longest wait before a request is repeated that the broker was too busy for.
const BUSY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// A connection, as JetStream sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Wire {
    client: Client,
    /// Cleared at the first answer of a server that does not know batched direct gets (before 2.11).
    batched: Arc<AtomicBool>,
}

/// What every answer of the JetStream API may be instead of itself.
#[derive(Deserialize)]
struct Refusal {
    error: Option<ApiError>,
}

/// A new random name: 22 letters and digits, as NATS makes them for chunks and batches.
pub fn fresh_id() -> String {
    rand::rng().sample_iter(rand::distr::Alphanumeric).take(22).map(char::from).collect()
}

impl Wire {
    /// Over this connection.
    pub fn new(client: Client) -> Self {
        Self { client, batched: Arc::new(AtomicBool::new(true)) }
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// False once a server was found to answer only single direct gets.
    pub fn is_batched(&self) -> bool {
        self.batched.load(Ordering::Relaxed)
    }

    fn not_batched(&self) {
        self.batched.store(false, Ordering::Relaxed);
    }

    /// A request to `$JS.API.<subject>`. `what` names its object in an error: `asking for stream MIRROR_MEDIA`.
    pub async fn api<T: DeserializeOwned>(
        &self,
        doing: (&'static str, &str),
        subject: &str,
        body: &impl Serialize,
    ) -> Result<T, BrokerError> {
        let doing = Doing(doing.0, doing.1);
        let body = serde_json::to_vec(body).map_err(|e| doing.answer(e.to_string()))?;
        let subject = format!("$JS.API.{subject}");
        let answer = self.request(doing, None, subject, HeaderMap::new(), body.into()).await?;
        if let Ok(Refusal { error: Some(error) }) = serde_json::from_slice(&answer.payload) {
            return Err(doing.refused(error));
        }
        serde_json::from_slice(&answer.payload).map_err(|e| doing.answer(e.to_string()))
    }

    /// One request, one answer. `stream`: whose existence decides what "nobody answers" means.
    async fn request(
        &self,
        doing: Doing<'_>,
        stream: Option<&str>,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<Message, BrokerError> {
        let mut request = Request::new().payload(payload).timeout(None);
        if !headers.is_empty() {
            request = request.headers(headers);
        }
        let wait = if stream.is_some() { PATIENCE - LOOK } else { PATIENCE };
        // The library bounds only the wait for the answer; a command queue that is full while disconnected waits too.
        let Ok(answer) = timeout(wait, self.client.send_request(subject, request)).await else {
            return Err(self.no_answer(doing, stream, doing.timeout(PATIENCE)).await);
        };
        match answer.map_err(|error| (error.kind(), error)) {
            Ok(answer) => Ok(answer),
            Err((RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded, error)) => {
                Err(doing.invalid(error.to_string()))
            }
            Err((RequestErrorKind::NoResponders, error)) => {
                Err(self.no_answer(doing, stream, doing.away(error.to_string())).await)
            }
            Err((_, error)) => Err(doing.away(error.to_string())),
        }
    }

    /// A stream that is not there and one that has no leader look the same to who publishes or reads, and old servers say nothing at all; its
    /// info tells.
    async fn no_answer(&self, doing: Doing<'_>, stream: Option<&str>, error: BrokerError) -> BrokerError {
        let Some(stream) = stream else { return error };
        match timeout(LOOK, Box::pin(self.stream_info(stream))).await {
            Ok(Err(BrokerError::Absent { .. })) => doing.absent(),
            _ => error,
        }
    }

    /// Repeats what the broker was too busy for until [`PATIENCE`] is over.
    async fn unless_busy<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, BrokerError>
    where
        F: Future<Output = Result<T, Attempt>>,
    {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        let mut pause = BUSY.0;
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::Busy(error)) if tokio::time::Instant::now() + pause > give_up => {
                    return Err(error);
                }
                Err(Attempt::Busy(_)) => {
                    let jitter = rand::rng().random_range(0.5..1.0);
                    tokio::time::sleep(pause.mul_f64(jitter)).await;
                    pause = (pause * 2).min(BUSY.1);
                }
            }
        }
    }
}

/// Why an attempt did not succeed.
enum Attempt {
    /// The broker has too much to do (429): nothing was stored, try again.
    Busy(BrokerError),
    /// Another attempt now is no use.
    Failed(BrokerError),
}

impl From<BrokerError> for Attempt {
    fn from(error: BrokerError) -> Self {
        Self::Failed(error)
    }
}
