//! Merges look-ups made at the same time into one request. A look-up alone goes out alone and at once; those that come while
//! others are under way share the next request.

use crate::broker::{
    BrokerError,
    wire::{PATIENCE, Stored, Wire},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Look-ups in one request: the server allows 1,024.
const MOST: usize = 500;
/// Requests under way: one is answered while the next is read by the server.
const AT_ONCE: usize = 2;

type Answer = Result<Option<Stored>, BrokerError>;
type Question = (String, oneshot::Sender<Answer>);

/// The way into the task, which ends with the last of these.
pub(super) struct Lookups {
    wire: Wire,
    stream: String,
    queue: mpsc::Sender<Question>,
}

impl Lookups {
    pub(super) fn start(wire: Wire, stream: String) -> Self {
        let (queue, questions) = mpsc::channel(MOST);
        tokio::spawn(run(wire.clone(), stream.clone(), questions));
        Self { wire, stream, queue }
    }

    /// The newest message of a subject.
    pub(super) async fn last(&self, subject: String) -> Answer {
        if !self.wire.is_batched() {
            return self.wire.last_of(&self.stream, &subject).await;
        }
        let doing = format!("reading {subject}");
        let (answer, answered) = oneshot::channel();
        let ask = async {
            self.queue.send((subject, answer)).await.ok()?;
            answered.await.ok()
        };
        // Twice: the request before, and ours.
        match timeout(PATIENCE * 2, ask).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(BrokerError::Away { doing, reason: "the reader has stopped".into() }),
            Err(_) => Err(BrokerError::Timeout { doing, waited: PATIENCE * 2 }),
        }
    }
}

async fn run(wire: Wire, stream: String, mut queue: mpsc::Receiver<Question>) {
    let mut under_way = FuturesUnordered::new();
    let mut questions = Vec::new();
    loop {
        tokio::select! {
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            received = queue.recv_many(&mut questions, MOST), if under_way.len() < AT_ONCE => {
                if received == 0 {
                    break;
                }
                under_way.push(answer(&wire, &stream, std::mem::take(&mut questions)));
            }
        }
    }
    while under_way.next().await.is_some() {}
}

async fn answer(wire: &Wire, stream: &str, questions: Vec<Question>) {
    let (subjects, answers): (Vec<String>, Vec<_>) =
        questions.into_iter().filter(|(_, answer)| !answer.is_closed()).unzip();
    match wire.lasts_of(stream, &subjects).await {
        Ok(found) => {
            for (answer, stored) in answers.into_iter().zip(found) {
                // Who gave up waiting needs none.
                let _ = answer.send(Ok(stored));
            }
        }
        Err(error) => {
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}
