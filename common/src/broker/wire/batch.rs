//! Atomic batches (server 2.12 on): many messages stored together, or none, with one wait for the disk.

use super::{PATIENCE, Wire, error::Doing, fresh_id};
use crate::broker::BrokerError;
use async_nats::{
    HeaderMap,
    header::{NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE},
};
use bytes::Bytes;
use tokio::time::timeout;

/// One message of a batch.
#[derive(Clone, Debug)]
pub struct Member {
    /// Where to. No two members of a batch that expect a last sequence may share one.
    pub subject: String,
    /// Its own headers.
    pub headers: HeaderMap,
    /// Its bytes.
    pub payload: Bytes,
}

/// What became of a batch.
#[derive(Debug)]
pub enum BatchAck {
    /// All were stored, one after the other; the first here.
    Stored {
        /// Where the first was stored.
        first: u64,
    },
    /// None was stored: one of them was refused (only the first such is named), or the server has too many open batches.
    Refused,
    /// None was stored, and no batch like this will be: not offered, or one of the headers is not allowed in it.
    NotOffered,
}

/// "atomic publish is disabled", "unsupported header", "batch publish is disabled".
const NOT_OFFERED: [u64; 3] = [10174, 10177, 10205];

impl Wire {
    /// Stores all of these or none. At most 1,000 messages and 8 MiB. After an error all or none may be stored.
    pub async fn publish_batch(&self, stream: &str, members: &[Member]) -> Result<BatchAck, BrokerError> {
        let doing = Doing("publishing a batch to", stream);
        let Some((last, others)) = members.split_last() else {
            return Err(doing.invalid("an empty batch".into()));
        };
        let id = fresh_id();
        let headers = |member: &Member, at: usize| {
            let mut headers = member.headers.clone();
            headers.insert(NATS_BATCH_ID, id.as_str());
            headers.insert(NATS_BATCH_SEQUENCE, (at + 1).to_string());
            headers
        };
        let send = async {
            for (at, member) in others.iter().enumerate() {
                let (subject, payload) = (member.subject.clone(), member.payload.clone());
                self.client
                    .publish_with_headers(subject, headers(member, at), payload)
                    .await
                    .map_err(|e| doing.away(e.to_string()))?;
            }
            Ok(())
        };
        timeout(PATIENCE, send).await.map_err(|_| doing.timeout(PATIENCE))??;
        let mut commit = headers(last, others.len());
        commit.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        let doing = Doing("publishing a batch that ends with", &last.subject);
        let ack = self.publish_once(doing, stream, commit, last.payload.clone()).await?;
        let count = members.len() as u64;
        match ack.error {
            Some(error) if NOT_OFFERED.contains(&error.err_code) => Ok(BatchAck::NotOffered),
            Some(_) => Ok(BatchAck::Refused),
            // A server that knows no batches stores the last message alone and says no count.
            None if ack.count == 0 => Ok(BatchAck::NotOffered),
            None if ack.count == count && ack.seq >= count => {
                Ok(BatchAck::Stored { first: ack.seq - count + 1 })
            }
            None => Err(doing.answer(format!("{} of {count} messages acknowledged", ack.count))),
        }
    }
}
