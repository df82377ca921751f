//! What can be wrong with settings: always exit code 2, and nothing was changed.

use super::layers::Origin;
use crate::{
    exit::{Exit, Fault},
    names::InvalidName,
};
use std::{io, path::PathBuf};

/// A setting that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The configuration file could not be read.
    #[error("reading the configuration file {}", .path.display())]
    Unreadable {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration file is not TOML.
    #[error("the configuration file {} is not TOML: {reason}", .path.display())]
    NotToml {
        /// Its path.
        path: PathBuf,
        /// Line and cause.
        reason: String,
    },
    /// The configuration file has a key that means nothing.
    #[error("the configuration file {} has the unknown key {key:?}", .path.display())]
    UnknownKey {
        /// Its path.
        path: PathBuf,
        /// The key.
        key: String,
        /// The known key that is spelled most alike.
        nearest: Option<&'static str>,
    },
    /// A value that is not what its key takes.
    #[error("{origin}: {value:?} is {reason}")]
    BadValue {
        /// Where it was given.
        origin: Origin,
        /// As it was typed.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that breaks its pattern.
    #[error("{origin}: {source}")]
    BadName {
        /// Where it was given.
        origin: Origin,
        /// What a name looks like.
        source: InvalidName,
    },
    /// The default of `--node` could not be made of this machine's name.
    #[error("the host name {0:?} makes no node name")]
    HostName(String),
    /// This command needs a setting that was not given.
    #[error("--{0} is required")]
    Missing(&'static str),
    /// Two settings that exclude each other.
    #[error("{0} and {1} exclude each other")]
    Both(Origin, Origin),
    /// No place for state: neither `HOME` nor a setting names one.
    #[error("there is no place for state: HOME is not set")]
    NoHome,
    /// The nats CLI's context could not be read.
    #[error("the nats context {name:?} ({}) cannot be used: {reason}", .path.display())]
    Context {
        /// Its name.
        name: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Fault for SettingsError {
    fn exit(&self) -> Exit {
        Exit::Usage
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { nearest: Some(key), .. } => Some(format!("did you mean `{key}`?")),
            Self::UnknownKey { nearest: None, .. } => {
                Some("the keys are the names of the flags, without the dashes before them".into())
            }
            Self::HostName(_) => Some("name this node with --node NAME".into()),
            Self::Missing(flag) => Some(format!(
                "give it as a flag, as MEDIAMIRROR_{}, or as `{flag}` in the configuration file",
                flag.to_uppercase().replace('-', "_")
            )),
            Self::NoHome => Some("give --state DIR, or set STATE_DIRECTORY or XDG_STATE_HOME".into()),
            Self::Context { .. } => Some("`nats context ls` lists what there is".into()),
            Self::Unreadable { .. }
            | Self::NotToml { .. }
            | Self::BadValue { .. }
            | Self::BadName { .. }
            | Self::Both(..) => None,
        }
    }
}
