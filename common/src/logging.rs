//! Where log lines go: to standard error, as text for a person at a terminal, as JSON for everything else.

use crate::{
    exit::{Exit, Fault},
    settings::{LogFormat, LogSettings},
};
use std::io::{self, IsTerminal};
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

/// Without `RUST_LOG`. The NATS client reports each attempt to connect, three times over, where we report each change.
const DEFAULT_FILTER: &str = "info,async_nats=off,rustls=warn,ignore=warn,object_store=off";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `RUST_LOG` is not a list of directives.
    #[error("RUST_LOG is {0:?}, which is not a log filter")]
    Filter(String, #[source] ParseError),
    /// This process has a subscriber already.
    #[error("logging was set up twice")]
    Twice,
}

impl Fault for LoggingError {
    fn exit(&self) -> Exit {
        match self {
            Self::Filter(..) => Exit::Usage,
            Self::Twice => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Filter(..) => {
                Some("for example RUST_LOG=debug, or RUST_LOG=info,common::broker=debug".into())
            }
            Self::Twice => None,
        }
    }
}

/// Sends this process' log lines to standard error. Once for each process, by its `main`.
pub fn init(settings: &LogSettings) -> Result<(), LoggingError> {
    let filter = match settings.filter.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => {
            EnvFilter::builder().parse(text).map_err(|error| LoggingError::Filter(text.into(), error))?
        }
        None => EnvFilter::new(DEFAULT_FILTER),
    };
    let terminal = io::stderr().is_terminal();
    let format = settings.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(terminal);
    let done = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
    done.map_err(|_| LoggingError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_a_wrong_setting() {
        let settings = LogSettings { format: None, filter: Some("info,=".into()) };
        let error = init(&settings).expect_err("a bad filter");
        assert!(matches!(error, LoggingError::Filter(..)), "{error}");
        assert_eq!(error.exit(), Exit::Usage);
    }

    #[test]
    fn the_default_filter_is_one() {
        assert!(EnvFilter::builder().parse(DEFAULT_FILTER).is_ok());
    }
}
