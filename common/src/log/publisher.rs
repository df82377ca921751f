//! The task through which a log publishes: single events at once, many together as atomic batches.
//!
//! Nothing waits for company. Events that come while enough others are on their way queue up; what is in the queue when there
//! is room goes out together, as one atomic batch when that is worth it.

use crate::{
    broker::{
        BrokerError,
        wire::{Ack, BatchAck, Member, Wire},
    },
    event::Event,
    subject::Subjects,
};
use async_nats::{
    HeaderMap,
    header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID},
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::{mpsc, oneshot};

/// From this many queued events on a batch is faster than single publishes: it costs about 9 ms however small.
const WORTH_A_BATCH: usize = 128;
/// The server's limit of messages in a batch.
const BATCH: usize = 1000;
/// The server takes 8 MiB; headers and subjects count too.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Single publishes on their way at once; more gains nothing.
const WINDOW: usize = 512;
/// The same where batches are offered: the rest had better queue for one.
const WINDOW_BESIDE_BATCHES: usize = 64;
/// Batches on their way at once: one is being filled while one waits for the disk.
const BATCHES: usize = 2;

pub(super) type Outcome = Ack;

/// What keeps an event from being stored twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Guard {
    /// The server's memory of identities, and the path's expected sequence.
    Duplicates,
    /// The expected sequence alone: the server remembers an event that it does not have any more.
    Sequence,
}

struct Order {
    member: Member,
    answer: oneshot::Sender<Result<Outcome, BrokerError>>,
}

/// The way into the task, which ends with the last of these.
pub(super) struct Publisher {
    queue: mpsc::Sender<Order>,
}

impl Publisher {
    pub(super) fn start(wire: Wire, stream: String, atomic: bool) -> Self {
        let (queue, orders) = mpsc::channel(BATCH * 2);
        let task = Arc::new(Task { wire, stream, atomic: AtomicBool::new(atomic) });
        tokio::spawn(task.run(orders));
        Self { queue }
    }

    /// The caller bounds the time.
    pub(super) async fn publish(
        &self,
        event: &Event,
        subjects: &Subjects,
        guard: Guard,
    ) -> Result<Outcome, BrokerError> {
        let subject = subjects.of(&event.path);
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, event.replaces.to_string());
        if guard == Guard::Duplicates {
            headers.insert(NATS_MESSAGE_ID, event.identity(subjects).to_string());
        }
        let (answer, answered) = oneshot::channel();
        let gone = || BrokerError::Away {
            doing: format!("publishing to {subject}"),
            reason: "the publisher has stopped".into(),
        };
        let member = Member { subject: subject.clone(), headers, payload: Bytes::from(event.encode()) };
        self.queue.send(Order { member, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// What has ended.
enum Done {
    Single,
    Batch,
}

struct Task {
    wire: Wire,
    stream: String,
    /// Cleared when the server turns out not to take our batches.
    atomic: AtomicBool,
}

impl Task {
    async fn run(self: Arc<Self>, mut queue: mpsc::Receiver<Order>) {
        let mut under_way: FuturesUnordered<BoxFuture<'_, Done>> = FuturesUnordered::new();
        let (mut singles, mut batches) = (0, 0);
        let mut orders = Vec::with_capacity(BATCH);
        loop {
            let window = if self.atomic() { WINDOW_BESIDE_BATCHES } else { WINDOW };
            // A batch that is refused goes on as singles inside its own place, so these two bound everything.
            let room = if self.atomic() { BATCH } else { window - singles.min(window) };
            tokio::select! {
                Some(done) = under_way.next(), if !under_way.is_empty() => match done {
                    Done::Single => singles -= 1,
                    Done::Batch => batches -= 1,
                },
                received = queue.recv_many(&mut orders, room), if singles < window && batches < BATCHES => {
                    if received == 0 {
                        break;
                    }
                    // Whoever gave up waiting must not find the event stored long after.
                    orders.retain(|order| !order.answer.is_closed());
                    let batch = if self.atomic() { take_batch(&mut orders) } else { Vec::new() };
                    if !batch.is_empty() {
                        batches += 1;
                        under_way.push(self.batch(batch).map(|()| Done::Batch).boxed());
                    }
                    for order in orders.drain(..) {
                        singles += 1;
                        under_way.push(self.single(order).map(|()| Done::Single).boxed());
                    }
                }
            }
        }
        while under_way.next().await.is_some() {}
    }

    fn atomic(&self) -> bool {
        self.atomic.load(Ordering::Relaxed)
    }

    async fn single(&self, order: Order) {
        let Member { subject, headers, payload } = order.member;
        let outcome = self.wire.publish(&self.stream, &subject, headers, payload).await;
        // Nobody waits any more: the event is found by who reads the log.
        let _ = order.answer.send(outcome);
    }

    /// A refusal names only the first offender, and a lost answer none: either way each member, published alone, learns what
    /// became of it, since its expectation and its id are the same.
    async fn batch(&self, orders: Vec<Order>) {
        let (members, answers): (Vec<Member>, Vec<_>) =
            orders.into_iter().map(|order| (order.member, order.answer)).unzip();
        match self.wire.publish_batch(&self.stream, &members).await {
            Ok(BatchAck::Stored { first }) => {
                for (sequence, answer) in (first..).zip(answers) {
                    let _ = answer.send(Ok(Outcome::Stored { sequence, duplicate: false }));
                }
                return;
            }
            Ok(BatchAck::NotOffered) => self.atomic.store(false, Ordering::Relaxed),
            Ok(BatchAck::Refused) | Err(_) => {}
        }
        let alone = members.into_iter().zip(answers).map(|(member, answer)| Order { member, answer });
        futures_util::stream::iter(alone).for_each_concurrent(WINDOW, |order| self.single(order)).await;
    }
}

/// Takes out of the queue what can go as one batch: nothing when that is not worth it. A second event of a path stays: a batch
/// takes one expectation for a subject.
fn take_batch(orders: &mut Vec<Order>) -> Vec<Order> {
    if orders.len() < WORTH_A_BATCH {
        return Vec::new();
    }
    let (mut bytes, mut seen) = (0, HashSet::new());
    let fits = |order: &mut Order| {
        bytes += order.member.payload.len() + 2 * order.member.subject.len() + 256;
        bytes <= BATCH_BYTES && seen.insert(order.member.subject.clone())
    };
    let batch: Vec<Order> = orders.extract_if(.., fits).collect();
    if batch.len() < WORTH_A_BATCH {
        orders.extend(batch);
        return Vec::new();
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(subjects: impl Iterator<Item = String>, length: usize) -> Vec<Order> {
        let order = |subject| {
            let member = Member { subject, headers: HeaderMap::new(), payload: vec![0; length].into() };
            Order { member, answer: oneshot::channel().0 }
        };
        subjects.map(order).collect()
    }

    #[test]
    fn a_batch_is_worth_it_legal_and_loses_nothing() {
        let distinct = |n: usize| (0..n).map(|n| n.to_string());
        for (name, mut queue, batch) in [
            ("too few", orders(distinct(127), 1), 0),
            ("enough", orders(distinct(128), 1), 128),
            ("one path over and over", orders(distinct(500).map(|_| "a".into()), 1), 0),
            ("some paths twice", orders(distinct(300).chain(distinct(50)), 1), 300),
            ("too many bytes", orders(distinct(1000), 16 * 1024), 251),
            ("far too many bytes", orders(distinct(1000), 64 * 1024), 0),
        ] {
            let all = queue.len();
            let taken = take_batch(&mut queue);
            let subjects: HashSet<&str> = taken.iter().map(|order| order.member.subject.as_str()).collect();
            assert_eq!((taken.len(), subjects.len()), (batch, batch), "{name}");
            assert_eq!(taken.len() + queue.len(), all, "{name}");
        }
    }
}
