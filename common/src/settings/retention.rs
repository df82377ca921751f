//! How long the blob store keeps what it has, and when it is looked for what nothing needs.

use super::{CollectArgs, Layers, RetentionArgs, SettingsError, layers::Given, parse_duration};
use std::{ffi::OsStr, time::Duration};

/// How often blobs are collected, where nothing is said.
const EVERY: Duration = Duration::from_secs(86_400);

/// What the store keeps of the blobs that the log names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retention {
    /// All of them.
    All,
    /// Those that are needed by a node that has not applied the event yet, and any for at least so long after it was stored or last used. The others are asked for
    /// from nodes when they are needed after all.
    Applied(Duration),
}

impl RetentionArgs {
    /// Checks what was typed.
    pub fn resolve(&self, layers: &Layers) -> Result<Retention, SettingsError> {
        let given = layers.pick("blob-retention", self.blob_retention.as_deref().map(OsStr::new));
        let parse = |given: Given| match given.text()?.trim() {
            "all" => Ok(Retention::All),
            "applied" => Ok(Retention::Applied(Duration::ZERO)),
            text => parse_duration(text)
                .map(Retention::Applied)
                .map_err(|_| given.refuse("none of all, applied, and a duration such as 30d")),
        };
        given.map_or(Ok(Retention::All), parse)
    }
}

/// The timer of the collection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CollectSettings {
    /// From one collection of any node to the next; `None`: this node does none.
    pub every: Option<Duration>,
    /// What is kept.
    pub retention: Retention,
}

impl CollectArgs {
    /// Checks what was typed.
    pub fn resolve(&self, layers: &Layers) -> Result<CollectSettings, SettingsError> {
        let given = layers.pick("gc-every", self.gc_every.as_deref().map(OsStr::new));
        let parse = |given: Given| match given.text()?.trim() {
            "off" => Ok(None),
            text => match parse_duration(text) {
                Ok(every) if !every.is_zero() => Ok(Some(every)),
                _ => Err(given.refuse("neither off nor a duration such as 1d")),
            },
        };
        Ok(CollectSettings {
            every: given.map_or(Ok(Some(EVERY)), parse)?,
            retention: self.retention.resolve(layers)?,
        })
    }
}
