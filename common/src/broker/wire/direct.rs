//! Direct Get: reading stored messages without a consumer, one or many for a request.
//!
//! Servers from 2.11 on answer many for one request; older ones are found out by their first answer and asked for single
//! messages, several at once. On a cluster any replica may answer, also one that is behind: what is found was there,
//! what is not found may be there on another.

use super::{LOOK, PATIENCE, Wire, error::Doing};
use crate::{broker::BrokerError, time::Timestamp};
use async_nats::{
    HeaderMap, Message, Subscriber,
    header::{NATS_SEQUENCE, NATS_SUBJECT, NATS_TIME_STAMP},
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use tokio::time::timeout;

/// The most messages asked for at once, so that the answer fits well into the client's buffer for a subscription.
/// The server's own limit for one request is 1,024 subjects.
const GROUP: usize = 500;
/// The most messages of one page. The server counts what is left at each request with a wildcard: by walking all subjects, which takes 60 ms for a million of them, but
/// at once when all of the stream is asked for (`>`).
const PAGE: usize = 10_000;
/// The most bytes of subjects in one request: it must fit into the server's `max_payload`, 1 MiB by default.
const GROUP_BYTES: usize = 256 * 1024;
/// The most bytes of one answer; the server stops after the message that reaches it, and the rest is asked for again.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// What the server says when it has no message on any of the subjects; after a message that it cannot read it says something else.
const NO_RESULTS: &str = "No Results";
/// Single requests in flight where the server knows no batches.
const PIPELINE: usize = 64;

/// A message as a stream has it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When the broker stored it.
    pub time: Timestamp,
    /// Where it was published to. After a read with wildcards, white space at its end may be missing: the client library takes
    /// it off every header.
    pub subject: String,
    /// Its bytes.
    pub payload: Bytes,
}

/// Messages in order, without gaps among those that match.
#[derive(Debug)]
pub struct Page {
    /// Oldest first.
    pub messages: Vec<Stored>,
    /// Nothing that matches came after them.
    pub end: bool,
}

/// One message of the answer to a batched request.
enum Item {
    Message(Stored),
    /// The answer is complete; whether it was cut short by a limit of bytes or messages.
    End {
        cut: bool,
    },
    /// There is no (further) message. `none`: of all that were asked for.
    NotFound {
        none: bool,
    },
    /// This server answers only single requests.
    NotBatched,
}

/// Ours never have these characters in a token of their own.
fn has_wildcard(subject: &str) -> bool {
    subject.ends_with(['*', '>'])
}

impl Wire {
    /// The newest message of a subject.
    pub async fn last_of(&self, stream: &str, subject: &str) -> Result<Option<Stored>, BrokerError> {
        let found = self.direct_get(Doing("reading", subject), stream, json!({ "last_by_subj": subject }));
        Ok(found.await?.map(|stored| Stored { subject: subject.into(), ..stored }))
    }

    /// The message with exactly this sequence.
    pub async fn at(&self, stream: &str, sequence: u64) -> Result<Option<Stored>, BrokerError> {
        if sequence == 0 {
            return Ok(None);
        }
        self.direct_get(Doing("reading", stream), stream, json!({ "seq": sequence })).await
    }

    /// The oldest message at or after a sequence on a subject, which may end in a wildcard.
    pub async fn next_of(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
    ) -> Result<Option<Stored>, BrokerError> {
        let body = json!({ "seq": from.max(1), "next_by_subj": subject });
        let found = self.direct_get(Doing("reading", subject), stream, body).await?;
        let exact = !has_wildcard(subject);
        Ok(found.map(|stored| if exact { Stored { subject: subject.into(), ..stored } } else { stored }))
    }

    /// The newest message of each subject (none with wildcards), in the order asked. A subject may be asked for twice.
    pub async fn lasts_of(
        &self,
        stream: &str,
        subjects: &[String],
    ) -> Result<Vec<Option<Stored>>, BrokerError> {
        let mut found: HashMap<&str, Stored> = HashMap::with_capacity(subjects.len());
        // One whose name comes back shortened cannot be told from another in a shared answer.
        let (mut alone, mut rest): (Vec<&str>, Vec<&str>) =
            subjects.iter().map(String::as_str).partition(|subject| subject.trim_end() != *subject);
        while self.is_batched() && rest.len() > 1 {
            let length = group_length(&rest);
            let Some(unread) = self.group_of_lasts(stream, &rest[..length], &mut found).await? else { break };
            alone.extend(unread);
            rest.drain(..length);
        }
        alone.append(&mut rest);
        let singles = stream::iter(0..alone.len()).map(|at| self.last_of(stream, alone[at]));
        let singles: Vec<_> = singles.buffered(PIPELINE).try_collect().await?;
        for (subject, stored) in alone.iter().zip(singles) {
            found.extend(stored.map(|stored| (*subject, stored)));
        }
        Ok(subjects.iter().map(|subject| found.get(subject.as_str()).cloned()).collect())
    }

    /// `None`: this server does not know the request. Else those of which nothing was said: the server stops at a message that it cannot read, and the
    /// ones behind it have to be asked for one by one.
    async fn group_of_lasts<'a>(
        &self,
        stream: &str,
        group: &[&'a str],
        found: &mut HashMap<&'a str, Stored>,
    ) -> Result<Option<HashSet<&'a str>>, BrokerError> {
        let doing = Doing("reading several subjects of", stream);
        let mut asked: HashSet<&'a str> = group.iter().copied().collect();
        while !asked.is_empty() {
            let body = json!({ "multi_last": asked, "max_bytes": MAX_BYTES });
            let mut answer = self.batch(doing, stream, body).await?;
            let before = asked.len();
            let cut = loop {
                match self.item(doing, stream, &mut answer).await? {
                    Item::Message(stored) => {
                        if let Some(subject) = asked.take(stored.subject.as_str()) {
                            found.insert(subject, stored);
                        }
                    }
                    Item::End { cut } => break cut,
                    Item::NotFound { none: true } => break false,
                    Item::NotFound { none: false } => return Ok(Some(asked)),
                    Item::NotBatched => return Ok(None),
                }
            };
            if !cut {
                break;
            }
            if asked.len() == before {
                return Err(doing.answer("an answer cut short before its first message".into()));
            }
        }
        Ok(Some(HashSet::new()))
    }

    /// The oldest messages at or after a sequence on a subject (which may have wildcards): up to `count`, fewer at the end
    /// or when they come to `max_bytes`, but at least one if there is one.
    pub async fn page(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        count: usize,
        max_bytes: usize,
    ) -> Result<Page, BrokerError> {
        let count = count.clamp(1, PAGE);
        if !self.is_batched() {
            return self.page_of_singles(stream, subject, from, count, max_bytes).await;
        }
        let doing = Doing("reading", subject);
        let body = json!({ "seq": from.max(1), "next_by_subj": subject, "batch": count, "max_bytes": max_bytes.min(MAX_BYTES) });
        let mut answer = self.batch(doing, stream, body).await?;
        let mut messages = Vec::new();
        loop {
            match self.item(doing, stream, &mut answer).await? {
                Item::Message(stored) => messages.push(stored),
                Item::End { cut } => return Ok(Page { messages, end: !cut }),
                Item::NotFound { .. } => return Ok(Page { messages, end: true }),
                Item::NotBatched => {
                    return self.page_of_singles(stream, subject, from, count, max_bytes).await;
                }
            }
        }
    }

    /// Guesses that the next messages have the next sequences, and asks for those at once. Where that is wrong two requests are answered alike, and
    /// fewer are made next time.
    async fn page_of_singles(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        count: usize,
        max_bytes: usize,
    ) -> Result<Page, BrokerError> {
        let (mut messages, mut bytes) = (BTreeMap::new(), 0);
        // The chunks of a blob may stand among those of others: a wrong guess would move a whole chunk for nothing.
        let most = if has_wildcard(subject) { PIPELINE } else { 1 };
        let (mut next, mut guesses) = (from.max(1), most.min(8));
        while messages.len() < count && bytes < max_bytes {
            let sequences = (next..=u64::MAX).take(guesses.min(count - messages.len()));
            let answers = stream::iter(sequences).map(|sequence| self.next_of(stream, subject, sequence));
            let answers: Vec<_> = answers.buffered(PIPELINE).try_collect().await?;
            let (asked, before) = (answers.len(), messages.len());
            let end = answers.iter().any(Option::is_none);
            // What was stored while the answers came may stand behind a sequence that was not there yet when it was asked for.
            for stored in answers.into_iter().map_while(|answer| answer) {
                next = next.max(stored.sequence + 1);
                let length = stored.payload.len();
                if messages.insert(stored.sequence, stored).is_none() {
                    bytes += length;
                }
            }
            if end {
                return Ok(Page { messages: messages.into_values().collect(), end: true });
            }
            let right = messages.len() - before;
            guesses = if right == asked { guesses * 2 } else { right + 1 }.clamp(1, most);
        }
        Ok(Page { messages: messages.into_values().collect(), end: false })
    }

    async fn direct_get(
        &self,
        doing: Doing<'_>,
        stream: &str,
        body: Value,
    ) -> Result<Option<Stored>, BrokerError> {
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let body = body.to_string().into();
        let message = self.request(doing, Some(stream), subject, HeaderMap::new(), body).await?;
        match status(&message) {
            None => stored(doing, message).map(Some),
            Some(404) => Ok(None),
            Some(_) => Err(refused(doing, &message)),
        }
    }

    /// Sends a request whose answer is many messages. They end when the subscription is dropped.
    async fn batch(&self, doing: Doing<'_>, stream: &str, body: Value) -> Result<Subscriber, BrokerError> {
        let send = async {
            let inbox = self.client.new_inbox();
            let answer = self.client.subscribe(inbox.clone()).await.map_err(|e| doing.away(e.to_string()))?;
            let subject = format!("$JS.API.DIRECT.GET.{stream}");
            self.client
                .publish_with_reply(subject, inbox, body.to_string().into())
                .await
                .map_err(|e| doing.away(e.to_string()))?;
            Ok(answer)
        };
        timeout(PATIENCE, send).await.map_err(|_| doing.timeout(PATIENCE))?
    }

    async fn item(
        &self,
        doing: Doing<'_>,
        stream: &str,
        answer: &mut Subscriber,
    ) -> Result<Item, BrokerError> {
        let Ok(message) = timeout(PATIENCE - LOOK, answer.next()).await else {
            return Err(self.no_answer(doing, Some(stream), doing.timeout(PATIENCE)).await);
        };
        let message = message.ok_or_else(|| doing.away("the connection was closed".into()))?;
        // Counted down with each message; only a server that understood the request sends it.
        let pending = header(&message, "Nats-Num-Pending").and_then(|pending| pending.parse::<u64>().ok());
        match (status(&message), pending) {
            (None, Some(_)) => stored(doing, message).map(Item::Message),
            (None, None) | (Some(408), _) => {
                self.not_batched();
                Ok(Item::NotBatched)
            }
            (Some(204), pending) => Ok(Item::End { cut: pending.is_some_and(|pending| pending > 0) }),
            (Some(404), _) => Ok(Item::NotFound { none: message.description.as_deref() == Some(NO_RESULTS) }),
            (Some(503), _) => {
                let away = doing.away("nobody serves this request".into());
                Err(self.no_answer(doing, Some(stream), away).await)
            }
            (Some(_), _) => Err(refused(doing, &message)),
        }
    }
}

/// How many of these fit into one request.
fn group_length(subjects: &[&str]) -> usize {
    let mut bytes = 0;
    let fitting = subjects.iter().take(GROUP).take_while(|subject| {
        bytes += subject.len() + 3;
        bytes <= GROUP_BYTES
    });
    fitting.count().max(1)
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    Some(message.headers.as_ref()?.get_last(name)?.as_str())
}

fn status(message: &Message) -> Option<u16> {
    message.status.map(|status| status.as_u16()).filter(|&status| status != 200)
}

fn refused(doing: Doing<'_>, message: &Message) -> BrokerError {
    let reason = message.description.clone().unwrap_or_default();
    BrokerError::Refused {
        doing: doing.to_string(),
        code: u64::from(status(message).unwrap_or_default()),
        reason,
    }
}

fn stored(doing: Doing<'_>, message: Message) -> Result<Stored, BrokerError> {
    let parse = || {
        let headers = message.headers.as_ref()?;
        let sequence = headers.get_last(NATS_SEQUENCE)?.as_str().parse().ok()?;
        let time = headers.get_last(NATS_TIME_STAMP)?.as_str().parse().ok()?;
        let subject = headers.get_last(NATS_SUBJECT)?.as_str().to_owned();
        Some((sequence, time, subject))
    };
    let (sequence, time, subject) =
        parse().ok_or_else(|| doing.answer("a stored message without sequence, time or subject".into()))?;
    Ok(Stored { sequence, time, subject, payload: message.payload })
}
