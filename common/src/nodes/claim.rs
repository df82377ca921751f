//! One process for each node and role: its record is also its claim to the name.

use super::{DOWN, NodeBucket, NodeRecord, NodeRunState, Role, SeenRecord};
use crate::{
    broker::BrokerError,
    exit::{Exit, Fault},
    names::NodeName,
    time::Timestamp,
};
use std::{fs, io, path::Path};

/// Why a process may not speak for its node.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another installation does, now.
    #[error(
        "node {node} is taken: the {role} of instance {theirs} was seen {age} s ago, and this is instance {ours}"
    )]
    Taken {
        /// The name.
        node: NodeName,
        /// The process.
        role: Role,
        /// Who has it.
        theirs: String,
        /// Who we are.
        ours: String,
        /// Seconds since it was seen, by the broker's clock.
        age: u64,
    },
    /// Another installation has written our record.
    #[error(
        "the record of node {node} was written by the {role} of instance {theirs}, and this is instance {ours}: two machines use one name"
    )]
    Lost {
        /// The name.
        node: NodeName,
        /// The process.
        role: Role,
        /// Who has it.
        theirs: String,
        /// Who we are.
        ours: String,
    },
    /// The broker did not answer.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Fault for ClaimError {
    fn exit(&self) -> Exit {
        match self {
            Self::Taken { .. } | Self::Lost { .. } => Exit::Halted,
            Self::Broker(_) => Exit::BrokerAway,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Taken { .. } | Self::Lost { .. } => Some(
                "give each machine a name of its own with --node; after moving a node, wait 15 s or stop the old process".into(),
            ),
            Self::Broker(_) => None,
        }
    }
}

/// The right to write one record.
pub struct Claim {
    bucket: NodeBucket,
    revision: u64,
    /// When it was taken, by the broker's clock: an older record of anybody is what a broker knows that was rolled back.
    since: Timestamp,
}

impl Claim {
    /// Takes the name that `record` is of: at once when nobody has it or this same instance had it, from another instance when that was not seen for 15 s.
    pub async fn take(bucket: NodeBucket, record: &NodeRecord) -> Result<Self, ClaimError> {
        let mut claim = Self { bucket, revision: 0, since: Timestamp::from_nanos(0) };
        if let Some(held) = claim.bucket.get(&record.node, record.role).await? {
            let age = claim.bucket.now().await?.seconds_since(held.written).max(0.0);
            let lives = age < DOWN.as_secs_f64() && held.record.state != NodeRunState::Stopping;
            if held.record.instance != record.instance && lives {
                return Err(ClaimError::Taken {
                    node: record.node.clone(),
                    role: record.role,
                    theirs: held.record.instance,
                    ours: record.instance.clone(),
                    age: age as u64,
                });
            }
            claim.revision = held.revision;
        }
        claim.put(record, false).await?;
        let written = claim.bucket.get(&record.node, record.role).await?;
        if let Some(own) = written.filter(|own| own.revision == claim.revision) {
            claim.since = own.written;
        }
        Ok(claim)
    }

    /// Writes the record. When another wrote it meanwhile: one of this very run (an acknowledgement was lost) is written over, and so is one from before the
    /// claim (the broker was rolled back); any other ends the claim.
    pub async fn write(&mut self, record: &NodeRecord) -> Result<(), ClaimError> {
        self.put(record, true).await
    }

    async fn put(&mut self, record: &NodeRecord, taken: bool) -> Result<(), ClaimError> {
        // Twice: the second time over what a lost acknowledgement had stored, or over nothing in a bucket made anew.
        for _ in 0..3 {
            if let Some(revision) = self.bucket.put(record, self.revision).await? {
                self.revision = revision;
                return Ok(());
            }
            match self.bucket.get(&record.node, record.role).await? {
                // Another run of this very instance is a copy of this machine, or of its state directory.
                Some(SeenRecord { record: theirs, written, .. })
                    if taken
                        && written > self.since
                        && (&theirs.instance, &theirs.boot) != (&record.instance, &record.boot)
                        || !taken && theirs.instance != record.instance =>
                {
                    return Err(ClaimError::Lost {
                        node: record.node.clone(),
                        role: record.role,
                        theirs: theirs.instance,
                        ours: record.instance.clone(),
                    });
                }
                found => self.revision = found.map_or(0, |found| found.revision),
            }
        }
        Ok(()) // The next heartbeat tries again.
    }

    /// The bucket it is in.
    pub fn bucket(&self) -> &NodeBucket {
        &self.bucket
    }
}

/// The name of this installation: random, made once and kept in the state directory.
pub fn instance_of(state: &Path) -> io::Result<String> {
    let file = state.join("instance");
    match fs::read_to_string(&file) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => {
            // The first of both processes to link it wins.
            let fresh = format!("{:016x}", rand::random::<u64>());
            let temp = state.join(format!("instance.{fresh}"));
            fs::write(&temp, format!("{fresh}\n"))?;
            fs::File::open(&temp)?.sync_all()?;
            let linked = fs::hard_link(&temp, &file);
            fs::remove_file(&temp)?;
            match linked {
                Ok(()) => Ok(fresh),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    Ok(fs::read_to_string(&file)?.trim().to_owned())
                }
                Err(error) => Err(error),
            }
        }
    }
}
