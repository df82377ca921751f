//! Where the blobs are, when that is not the broker: whether this machine reaches it, with the rights of whoever asks.

use super::finding::Finding;
use common::{
    blobs::{BlobError, BlobStore, Location, ObjectBlobs, StoreFault, objects::MarkError},
    broker::Broker,
    hash::ContentHash,
    mirror_record::MirrorRecord,
    nodes::NodeBucket,
    settings::Settings,
};

/// A store, and what it said; `Ok(false)`: nobody has made it this mirror's yet.
#[derive(Clone, Debug)]
pub struct Facts {
    pub at: Location,
    pub found: Result<bool, Trouble>,
}

/// Why it cannot be used.
#[derive(Clone, Debug)]
pub struct Trouble {
    pub reason: String,
    pub denied: bool,
}

/// Asks the store that the record of the mirror names, else that of `--blobs`. `None`: it is the broker's.
pub async fn ask(broker: &Broker, settings: &Settings) -> Option<Facts> {
    let nodes = NodeBucket::named(broker.client().clone(), &settings.mirror);
    let record = MirrorRecord::read(&nodes).await.ok().flatten().map(|(record, _)| record.current);
    let id = record.as_ref().and_then(|kept| kept.id.clone());
    let at = record.map(|kept| kept.blobs).or_else(|| settings.blobs.clone())?;
    if at == Location::Nats {
        return None;
    }
    let found = look(&at, settings, id.as_deref()).await;
    Some(Facts { at, found })
}

async fn look(at: &Location, settings: &Settings, id: Option<&str>) -> Result<bool, Trouble> {
    let trouble = |reason: String, denied| Trouble { reason, denied };
    let store = ObjectBlobs::open(at, settings.environment.variables(), 1)
        .map_err(|error| trouble(error.to_string(), false))?;
    let of = |error: &BlobError| {
        let denied = matches!(error, BlobError::Store { fault: StoreFault::Denied, .. });
        trouble(common::error_chain(error), denied)
    };
    match store.check(Some(&settings.mirror), id).await {
        Ok(_) => store.contains(&[ContentHash::of_nothing()]).await.map(|_| true).map_err(|error| of(&error)),
        Err(MarkError::None(_)) if id.is_none() => Ok(false),
        Err(MarkError::Store(error)) => Err(of(&error)),
        Err(error) => Err(trouble(error.to_string(), false)),
    }
}

pub fn judge(facts: &Facts) -> Finding {
    let Facts { at, found } = facts;
    match found {
        Ok(true) => Finding::ok("store", format!("{at} answers")),
        Ok(false) => {
            Finding::ok("store", format!("{at} answers, and is made this mirror's by the first node"))
        }
        Err(Trouble { reason, denied }) => {
            let cure = match denied {
                true => {
                    "give this process credentials that may read, write, delete and list there (AWS_ACCESS_KEY_ID, …)"
                }
                false => {
                    "see docs/MIGRATION.md for what a store needs, and that it answers from this machine"
                }
            };
            Finding::wrong("store", reason.clone())
                .why("without it no file leaves this node, and none comes")
                .cure(cure)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn a_store_that_cannot_be_used_is_wrong() {
        let at: Location = "s3://bucket/prefix".parse().expect("a location");
        let trouble = |denied| Err(Trouble { reason: "no".into(), denied });
        for (found, verdict, cure) in [
            (Ok(true), Verdict::Ok, None),
            (Ok(false), Verdict::Ok, None),
            (trouble(false), Verdict::Wrong, Some("MIGRATION")),
            (trouble(true), Verdict::Wrong, Some("credentials")),
        ] {
            let finding = judge(&Facts { at: at.clone(), found });
            assert_eq!(finding.verdict, verdict);
            assert_eq!(
                finding.cure.is_some_and(|text| cure.is_some_and(|cure| text.contains(cure))),
                cure.is_some()
            );
        }
    }
}
