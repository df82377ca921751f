//! The log as a JetStream stream.
//!
//! The stream is made on first use and then taken as it is. Reads are Direct Gets and need no consumer.
//!
//! On a cluster any replica may answer a read, also one that is behind: [`read`](EventLog::read), [`next_of`](EventLog::next_of) and [`at`](EventLog::at)
//! may then miss the newest events. [`lasts`](EventLog::lasts) is what decides a refused publish, so it asks again, for 2 s at most, until it sees what
//! the acknowledgements and refusals of this handle told.

use super::{
    ConsumerState, EventLog, Hints, LogState, Logged, Published,
    floors::Floors,
    follower::{self, JetStreamFollower},
    publisher::Publisher,
};
use crate::{
    broker::{
        BrokerError,
        wire::{PATIENCE, Stored, StreamInfo, Wire},
    },
    event::{Event, InvalidEvent, StreamCreated, Version},
    names::{MirrorName, NodeName},
    path::MediaPath,
    subject::Subjects,
};
use async_trait::async_trait;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// How long a replica may be behind before we believe it.
const CATCH_UP: Duration = Duration::from_secs(2);
/// How often it is asked meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// The most bytes of one page of the log.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// The most events of one page, as the trait says.
const PAGE: usize = 500;

/// How a log is made when it is not there.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Whose log.
    pub mirror: MirrorName,
    /// Copies in the cluster, 1 to 5.
    pub replicas: usize,
    /// At most this many events of each path are kept; `None`: all.
    pub history: Option<u64>,
}

/// A handle to the log. Cheap to clone.
#[derive(Clone)]
pub struct JetStreamLog(Arc<Inner>);

struct Inner {
    wire: Wire,
    stream: String,
    subjects: Subjects,
    publisher: Publisher,
    floors: Floors,
}

impl JetStreamLog {
    /// The log of a mirror, made when it is not there. One that is there is used as it is, provided that it stores exactly the mirror's
    /// subjects and can be read directly. Several processes may do this at once.
    pub async fn open(client: async_nats::Client, options: LogOptions) -> Result<Self, BrokerError> {
        let (wire, stream) = (Wire::new(client), options.mirror.log_stream());
        let subjects = Subjects::new(&options.mirror);
        let config = json!({
            "name": stream,
            "description": format!("mediamirror: the log of {}", options.mirror),
            "subjects": [subjects.all()],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "num_replicas": options.replicas,
            "max_msgs_per_subject": options.history.map_or(-1, |n| i64::try_from(n).unwrap_or(-1)),
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0,
            "allow_direct": true,
            "deny_delete": true,
            "deny_purge": true,
            "allow_atomic": true,
        });
        let info = wire.stream_or_create(&stream, &config).await?;
        Self::over(wire, stream, subjects, &info)
    }

    /// The log of a mirror if it is there: for processes that may not make one, and for looking at it. `Absent` when it is not.
    pub async fn attach(client: async_nats::Client, mirror: &MirrorName) -> Result<Self, BrokerError> {
        let (wire, stream) = (Wire::new(client), mirror.log_stream());
        let info = wire.stream_info(&stream).await?;
        Self::over(wire, stream, Subjects::new(mirror), &info)
    }

    /// How far the consumer of a node is, without making one; `None`: there is none.
    pub async fn consumer(&self, node: &NodeName) -> Result<Option<ConsumerState>, BrokerError> {
        follower::look(&self.0.wire, &self.0.stream, node).await
    }

    /// Makes the consumer of a node that has not run yet. False: it is there.
    pub async fn provide(&self, node: &NodeName) -> Result<bool, BrokerError> {
        follower::provide(&self.0.wire, &self.0.stream, &self.0.subjects, node).await
    }

    /// Deletes the consumer of a node that is gone for good. False: there was none.
    pub async fn forget(&self, node: &NodeName) -> Result<bool, BrokerError> {
        follower::delete(&self.0.wire, &self.0.stream, node).await
    }

    fn over(wire: Wire, stream: String, subjects: Subjects, info: &StreamInfo) -> Result<Self, BrokerError> {
        Wire::require(&stream, info, &[subjects.all()])?;
        let publisher = Publisher::start(wire.clone(), stream.clone(), info.config.allow_atomic);
        Ok(Self(Arc::new(Inner { wire, stream, subjects, publisher, floors: Floors::default() })))
    }

    fn logged(&self, stored: Stored) -> Logged {
        let Stored { sequence, time, subject, payload } = stored;
        let subjects = &self.0.subjects;
        let logged = |subject, payload| Logged::new(subjects, Version::new(sequence), time, subject, payload);
        let read = logged(subject, payload);
        // The subject of a path that ends in white space (not the escaped kinds, U+00A0 say) comes without it; the payload still has it.
        if let Err(InvalidEvent::Subject(path)) = read.event.as_ref().map_err(|invalid| &**invalid)
            && subjects.of(path).trim_end() == read.subject
        {
            return logged(subjects.of(path), read.payload);
        }
        read
    }

    /// The path's last event is not the expected one. It may still be this very event, whose acknowledgement was lost.
    async fn after_refusal(
        &self,
        event: &Event,
        subject: &str,
        last: Option<u64>,
    ) -> Result<Published, BrokerError> {
        let replaces = event.replaces.get();
        if last == Some(0) {
            return Ok(Published::Refused);
        }
        // Where the server does not tell the sequence, another write of this path was under way: it will be above.
        let floor = last.unwrap_or(replaces + 1);
        self.0.floors.raise(subject, floor);
        Ok(match self.last_on(subject).await? {
            Some(known)
                if known.version > event.replaces
                    && known.id(&self.0.subjects) == event.identity(&self.0.subjects) =>
            {
                Published::Stored(known.version)
            }
            _ => Published::Refused,
        })
    }

    /// The server has stored this event before. Where is it now? `None`: gone from the log, which was trimmed within the duplicate window.
    async fn after_duplicate(
        &self,
        event: &Event,
        subject: &str,
        sequence: u64,
    ) -> Result<Option<Version>, BrokerError> {
        self.0.floors.raise(subject, sequence);
        let newest = self.last_on(subject).await?.filter(|newest| newest.version.get() >= sequence);
        Ok(newest.map(|newest| {
            let ours = newest.id(&self.0.subjects) == event.identity(&self.0.subjects);
            if ours { newest.version } else { Version::new(sequence) }
        }))
    }

    async fn lasts_by_subject(&self, subjects: &[String]) -> Result<Vec<Option<Stored>>, BrokerError> {
        let Inner { wire, stream, floors, .. } = &*self.0;
        let mut found = wire.lasts_of(stream, subjects).await?;
        let believe = Instant::now() + CATCH_UP;
        loop {
            let is_behind = |&at: &usize| floors.stands_above(&subjects[at], sequence_of(&found[at]));
            let behind: Vec<usize> = (0..subjects.len()).filter(is_behind).collect();
            if behind.is_empty() {
                return Ok(found);
            }
            if Instant::now() > believe {
                // Not a slow replica: the log has lost events, which the caller will notice by its trust check.
                floors.clear();
                return Ok(found);
            }
            sleep(ASK_AGAIN).await;
            let again: Vec<String> = behind.iter().map(|&at| subjects[at].clone()).collect();
            for (at, stored) in behind.into_iter().zip(wire.lasts_of(stream, &again).await?) {
                found[at] = stored;
            }
        }
    }
}

fn sequence_of(stored: &Option<Stored>) -> u64 {
    stored.as_ref().map_or(0, |stored| stored.sequence)
}

#[async_trait]
impl EventLog for JetStreamLog {
    type Follower = JetStreamFollower;

    fn subjects(&self) -> &Subjects {
        &self.0.subjects
    }

    async fn state(&self) -> Result<LogState, BrokerError> {
        let info = self.0.wire.stream_info(&self.0.stream).await?;
        let never = info.state.last_seq == 0;
        Ok(LogState {
            created: StreamCreated(info.created),
            first: if never { Version::ZERO } else { Version::new(info.state.first_seq) },
            last: Version::new(info.state.last_seq),
            history: u64::try_from(info.config.max_msgs_per_subject).ok().filter(|&most| most > 0),
            now: info.ts,
        })
    }

    async fn publish(&self, event: &Event) -> Result<Published, BrokerError> {
        use super::publisher::{Guard, Outcome};
        let subject = self.0.subjects.of(&event.path);
        let doing = || format!("publishing to {subject}");
        let publish = async {
            let mut outcome = self.0.publisher.publish(event, &self.0.subjects, Guard::Duplicates).await?;
            if let Outcome::Stored { sequence, duplicate: true } = outcome
                && sequence > event.replaces.get()
            {
                match self.after_duplicate(event, &subject, sequence).await? {
                    Some(version) => return Ok(Published::Stored(version)),
                    None => {
                        outcome = self.0.publisher.publish(event, &self.0.subjects, Guard::Sequence).await?
                    }
                }
            }
            match outcome {
                Outcome::Stored { duplicate: true, .. } => Ok(Published::Refused),
                Outcome::Stored { sequence, .. } => {
                    self.0.floors.raise(&subject, sequence);
                    Ok(Published::Stored(Version::new(sequence)))
                }
                Outcome::WrongLast { last } => self.after_refusal(event, &subject, last).await,
            }
        };
        timeout(PATIENCE, publish)
            .await
            .map_err(|_| BrokerError::Timeout { doing: doing(), waited: PATIENCE })?
    }

    async fn lasts(&self, paths: &[MediaPath]) -> Result<Vec<Option<Logged>>, BrokerError> {
        let subjects: Vec<String> = paths.iter().map(|path| self.0.subjects.of(path)).collect();
        let found = self.lasts_by_subject(&subjects).await?;
        Ok(found.into_iter().map(|stored| stored.map(|stored| self.logged(stored))).collect())
    }

    async fn last_on(&self, subject: &str) -> Result<Option<Logged>, BrokerError> {
        let found = self.lasts_by_subject(&[subject.to_owned()]).await?.pop().flatten();
        Ok(found.map(|stored| self.logged(stored)))
    }

    async fn next_of(&self, path: &MediaPath, from: Version) -> Result<Option<Logged>, BrokerError> {
        let subject = self.0.subjects.of(path);
        let found = self.0.wire.next_of(&self.0.stream, &subject, from.get()).await?;
        Ok(found.map(|stored| self.logged(stored)))
    }

    async fn at(&self, version: Version) -> Result<Option<Logged>, BrokerError> {
        let found = self.0.wire.at(&self.0.stream, version.get()).await?;
        Ok(found.map(|stored| self.logged(stored)))
    }

    async fn read(&self, from: Version, limit: usize) -> Result<Vec<Logged>, BrokerError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        // The stream has no other subjects, and this way the server need not look at each of them.
        let (wire, stream) = (&self.0.wire, &self.0.stream);
        let page = wire.page(stream, ">", from.get(), limit.min(PAGE), PAGE_BYTES).await?;
        Ok(page.messages.into_iter().map(|stored| self.logged(stored)).collect())
    }

    async fn follow(&self, node: &NodeName) -> Result<JetStreamFollower, BrokerError> {
        JetStreamFollower::start(&self.0.wire, &self.0.stream, self.0.subjects.clone(), node).await
    }

    async fn hints(&self) -> Result<Hints, BrokerError> {
        Hints::subscribe(self.0.wire.client(), self.0.subjects.clone()).await
    }
}
