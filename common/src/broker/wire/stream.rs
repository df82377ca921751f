//! Streams: what they are, making them, purging a subject.

use super::{Wire, error::Doing};
use crate::{broker::BrokerError, time::Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A stream as its server describes it.
#[derive(Clone, Deserialize, Debug)]
pub struct StreamInfo {
    /// When it was created.
    pub created: Timestamp,
    /// The server's clock when it answered (2.10 on).
    pub ts: Option<Timestamp>,
    /// Its configuration, as far as we depend on it.
    pub config: Settings,
    /// What is in it.
    pub state: Contents,
}

/// The settings of a stream that we depend on, as the server knows them: a setting that an older server ignored is absent.
#[derive(Clone, Deserialize, Debug, Default)]
#[serde(default)]
pub struct Settings {
    /// The subjects it stores.
    pub subjects: Vec<String>,
    /// Whether single messages can be read directly.
    pub allow_direct: bool,
    /// Whether atomic batches are taken.
    pub allow_atomic: bool,
    /// How many messages of a subject are kept; not above 0: all.
    pub max_msgs_per_subject: i64,
    /// `async`: acknowledged before the disk has it.
    pub persist_mode: Option<String>,
}

/// What is in a stream.
#[derive(Clone, Deserialize, Debug)]
pub struct Contents {
    /// Messages.
    pub messages: u64,
    /// The oldest sequence still kept.
    pub first_seq: u64,
    /// The newest sequence.
    pub last_seq: u64,
    /// Consumers.
    #[serde(default)]
    pub consumer_count: u64,
}

#[derive(Deserialize)]
struct Subjects {
    /// Missing where all of them fit into one answer.
    #[serde(default)]
    total: u64,
    state: SubjectsState,
}

#[derive(Deserialize)]
struct SubjectsState {
    subjects: Option<std::collections::BTreeMap<String, u64>>,
}

impl Wire {
    /// What the server says of this stream. `Absent` when it is not there.
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfo, BrokerError> {
        self.api(("asking for stream", stream), &format!("STREAM.INFO.{stream}"), &json!({})).await
    }

    /// The stream, made with this configuration when it is not there. One that is there, or that another process makes at
    /// this moment, is taken as it is. Settings unknown to the server are ignored by it: read them in what is returned.
    pub async fn stream_or_create(
        &self,
        stream: &str,
        config: &impl Serialize,
    ) -> Result<StreamInfo, BrokerError> {
        match self.stream_info(stream).await {
            Err(BrokerError::Absent { .. }) => {}
            known => return known,
        }
        let subject = format!("STREAM.CREATE.{stream}");
        match self.api::<StreamInfo>(("creating stream", stream), &subject, config).await {
            Ok(_) => self.stream_info(stream).await,
            // Another process may have been faster: the name is in use then, or, as 2.9 says it at that moment, its subjects are those of another stream.
            Err(refused @ BrokerError::Refused { .. }) => match self.stream_info(stream).await {
                Err(BrokerError::Absent { .. }) => Err(refused),
                known => known,
            },
            Err(error) => Err(error),
        }
    }

    /// Refuses a stream that cannot be read and written as we do, and says how to mend it.
    pub fn require(stream: &str, info: &StreamInfo, subjects: &[String]) -> Result<(), BrokerError> {
        let doing = Doing("using stream", stream);
        let mut found = info.config.subjects.clone();
        let mut wanted = subjects.to_vec();
        found.sort();
        wanted.sort();
        if found != wanted {
            return Err(doing.invalid(format!(
                "it stores {found:?}, not {wanted:?}: it belongs to something else; take another mirror name, or set it right with \
                 `nats stream edit {stream} --subjects='{}'`",
                wanted.join(",")
            )));
        }
        if !info.config.allow_direct {
            return Err(doing.invalid(format!(
                "direct get is off; switch it on: `nats stream edit {stream} --allow-direct`"
            )));
        }
        Ok(())
    }

    /// Subjects below a filter that have messages, from the `offset`th on, and how many there are in all. The server lists them anew for each call: for commands.
    pub async fn subjects(
        &self,
        stream: &str,
        filter: &str,
        offset: u64,
    ) -> Result<(Vec<String>, u64), BrokerError> {
        let body = json!({ "subjects_filter": filter, "offset": offset });
        let info: Subjects =
            self.api(("listing the subjects of", stream), &format!("STREAM.INFO.{stream}"), &body).await?;
        let listed: Vec<String> = info.state.subjects.unwrap_or_default().into_keys().collect();
        let total = info.total.max(offset + listed.len() as u64);
        Ok((listed, total))
    }

    /// Deletes the messages of a subject that stand below a sequence.
    pub async fn purge_below(&self, stream: &str, subject: &str, sequence: u64) -> Result<(), BrokerError> {
        let body = json!({ "filter": subject, "seq": sequence });
        let _: serde_json::Value =
            self.api(("purging", subject), &format!("STREAM.PURGE.{stream}"), &body).await?;
        Ok(())
    }

    /// Deletes every message of a subject.
    pub async fn purge(&self, stream: &str, subject: &str) -> Result<(), BrokerError> {
        let body = json!({ "filter": subject });
        let _: serde_json::Value =
            self.api(("purging", subject), &format!("STREAM.PURGE.{stream}"), &body).await?;
        Ok(())
    }
}
