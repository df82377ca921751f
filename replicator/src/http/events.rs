//! `GET /api/v1/events?from=N`: the log as server-sent events, one for each event, its version as `id`.
//!
//! The log is read by pages, each when the one before is sent: a client that takes nothing holds one page, and nobody else up.

use super::{Api, STREAMS, away, crowded};
use crate::log_command;
use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use common::{
    broker::BrokerError,
    event::{StreamCreated, Version},
    http::{
        Problem, Query, Scope,
        openapi::{Access, Content, Operation, Verb, schemas},
        refused,
    },
    log::{EventLog, LogState, Logged},
};
use futures_util::stream;
use serde_json::json;
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep},
};

/// How often the log is asked for its end.
const POLL: Duration = Duration::from_millis(250);
/// Events read at once, some 40 KB.
const PAGE: usize = 100;
/// When there is nothing to tell, that is told this often: proxies cut what is silent for 30 s or 60 s.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What a stream begins with: how many milliseconds a client waits before it comes again.
const BEGIN: &str = "retry: 2000\n\n";
/// The version after which a client that comes again goes on.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// nginx holds back what it passes on, unless it is told not to.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

pub fn operation() -> Operation {
    let text = "The log as it grows, as server-sent events: `data` is an Event and `id` its version; `event: reset` when the log is another one";
    let event = json!({
        "type": "object", "required": ["data"], "properties": {
            "data": { "type": "string", "contentMediaType": "application/json" }, "id": schemas::text(), "event": schemas::text(),
        },
    });
    Operation::new("events", Verb::Get, "/api/v1/events", Access::Scope(Scope::Read), text)
        .query(
            "from",
            schemas::from(),
            "The first version; the next that there will be where nothing is said",
        )
        .header("Last-Event-ID", schemas::from(), "The version after which to go on: beats `from`")
        .answer(200, "It does not end by itself", Content::Text("text/event-stream", event))
}

/// Without `from` and `Last-Event-ID` it begins with the next event.
pub async fn answer(State(api): State<Arc<Api>>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let query = Query::of(&uri, &["from"])?;
    let from = query.get::<u64>("from")?;
    let resumed = headers.get(LAST_EVENT_ID).map(|id| {
        let id: Option<u64> = id.to_str().ok().and_then(|id| id.parse().ok());
        id.ok_or_else(|| refused("Last-Event-ID", "not a version"))
    });
    let from = resumed.transpose()?.map(|id| id.saturating_add(1)).or(from);
    let place = Arc::clone(&api.streams).try_acquire_owned();
    let place = place.map_err(|_| crowded(STREAMS, "live logs are open"))?;
    let log = api.sightings()?.state().await.map_err(away)?;
    let next = from.map_or(log.last.next(), |from| Version::new(from.max(1)));
    let begin = Bytes::from_static(BEGIN.as_bytes());
    let feed = Feed {
        api,
        cursor: Cursor { next, created: log.created },
        page: VecDeque::new(),
        begin: Some(begin),
        _place: place,
    };
    let body = Body::from_stream(stream::unfold(feed, Feed::frame));
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("text/event-stream")), UNBUFFERED], body).into_response())
}

/// What a stream holds.
struct Feed {
    api: Arc<Api>,
    cursor: Cursor,
    page: VecDeque<Logged>,
    begin: Option<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl Feed {
    /// The next piece of the answer; `None`: the process ends.
    async fn frame(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let stop = self.api.stop.clone();
        let frame = tokio::select! {
            () = stop.cancelled() => return None,
            frame = self.next_frame() => frame,
        };
        Some((Ok(frame), self))
    }

    async fn next_frame(&mut self) -> Bytes {
        if let Some(begin) = self.begin.take() {
            return begin;
        }
        let silent = Instant::now();
        loop {
            if let Some(logged) = self.page.pop_front() {
                self.cursor.next = logged.version.next();
                return format!("id: {}\ndata: {}\n\n", logged.version, log_command::json(&logged)).into();
            }
            match self.look().await {
                Ok(Step::Reset(frame)) => return frame.into(),
                Ok(Step::Read) if !self.page.is_empty() => continue,
                Ok(_) => {}
                // It comes back, or the client hangs up.
                Err(error) => tracing::debug!(%error, "the log could not be read for a live log"),
            }
            if silent.elapsed() >= HEARTBEAT {
                return Bytes::from_static(b": nothing new\n\n");
            }
            sleep(POLL).await;
        }
    }

    async fn look(&mut self) -> Result<Step, BrokerError> {
        let Some(sightings) = self.api.online.get().map(|online| &online.sightings) else {
            return Ok(Step::Wait);
        };
        let log = sightings.state().await?;
        let step = self.cursor.step(&log);
        if step == Step::Read {
            // What has come since comes next: else the log would seem to end below what was sent.
            let page = sightings.log.read(self.cursor.next, PAGE).await?.into_iter();
            self.page = page.take_while(|logged| logged.version <= log.last).collect();
        }
        Ok(step)
    }
}

/// Where in which life of the log a stream is.
struct Cursor {
    next: Version,
    created: StreamCreated,
}

/// What a stream does next.
#[derive(PartialEq, Eq, Debug)]
enum Step {
    Wait,
    Read,
    /// The log is another one, or ends below what was sent of it: this tells so, and it is sent from its beginning.
    Reset(String),
}

impl Cursor {
    fn step(&mut self, log: &LogState) -> Step {
        if log.created != self.created || self.next > log.last.next() {
            let (created, head) = (log.created.clone(), log.last);
            let data = json!({ "stream_created": created, "head": head });
            (self.next, self.created) = (Version::ZERO.next(), created);
            return Step::Reset(format!("event: reset\ndata: {data}\n\n"));
        }
        if self.next <= log.last { Step::Read } else { Step::Wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::time::Timestamp;

    fn log(created: i128, last: u64) -> LogState {
        let created = StreamCreated(Timestamp::from_nanos(created));
        LogState { created, first: Version::new(1), last: Version::new(last), history: None, now: None }
    }

    #[test]
    fn a_stream_goes_on_within_one_life_of_the_log_and_begins_anew_with_another() {
        for (next, state, expected) in [
            (5, log(1, 9), (Step::Read, 5)),
            (9, log(1, 9), (Step::Read, 9)),
            (10, log(1, 9), (Step::Wait, 10)),
            (1, log(1, 0), (Step::Wait, 1)),
        ] {
            let mut cursor = Cursor { next: Version::new(next), created: log(1, 0).created };
            assert_eq!((cursor.step(&state), cursor.next.get()), expected, "{next} {state:?}");
        }
        for (next, state) in [(11, log(1, 9)), (5, log(2, 9)), (u64::MAX, log(1, 9))] {
            let mut cursor = Cursor { next: Version::new(next), created: log(1, 0).created };
            let Step::Reset(frame) = cursor.step(&state) else { panic!("no reset at {next}") };
            assert!(frame.starts_with("event: reset\ndata: {") && frame.contains("\"head\":9"), "{frame}");
            assert_eq!(cursor.step(&state), Step::Read);
            assert_eq!(cursor.next.get(), 1);
        }
    }
}
