//! Publishing with an acknowledgement.

use super::{Attempt, Wire, error::ApiError, error::Doing};
use crate::broker::BrokerError;
use async_nats::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;

/// What a stream did with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ack {
    /// Stored, or found stored already under the same message id.
    Stored {
        /// Where.
        sequence: u64,
        /// Stored by an earlier publish of the same message id.
        duplicate: bool,
    },
    /// The subject's last message is not the expected one. Nothing was stored.
    WrongLast {
        /// Which it is; 0: there is none. Not said by every server.
        last: Option<u64>,
    },
}

#[derive(Deserialize)]
pub(super) struct PubAck {
    pub(super) error: Option<ApiError>,
    #[serde(default)]
    pub(super) seq: u64,
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    pub(super) count: u64,
}

impl Wire {
    /// Publishes into this stream and waits for its acknowledgement. A busy broker (429) is asked again within the time. After a time-out it may or may not
    /// be stored.
    pub async fn publish(
        &self,
        stream: &str,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<Ack, BrokerError> {
        let doing = Doing("publishing to", subject);
        self.unless_busy(|| async {
            let ack = self.publish_once(doing, stream, headers.clone(), payload.clone()).await?;
            match ack.error {
                None if ack.seq > 0 => Ok(Ack::Stored { sequence: ack.seq, duplicate: ack.duplicate }),
                None => Err(doing.answer("an acknowledgement without a sequence".into()).into()),
                Some(error) if error.is_busy() => Err(Attempt::Busy(doing.refused(error))),
                Some(error) => match error.wrong_last() {
                    Some(last) => Ok(Ack::WrongLast { last }),
                    None => Err(doing.refused(error).into()),
                },
            }
        })
        .await
    }

    /// `doing` ends with the subject.
    pub(super) async fn publish_once(
        &self,
        doing: Doing<'_>,
        stream: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<PubAck, BrokerError> {
        let answer = self.request(doing, Some(stream), doing.1.to_owned(), headers, payload).await?;
        serde_json::from_slice(&answer.payload).map_err(|e| doing.answer(e.to_string()))
    }
}
