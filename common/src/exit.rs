//! How a command ends: one code for each meaning, and the error printed once, with what a person can do about it.

use std::{error::Error, fmt, io::Write, process::ExitCode};

/// The exit codes of both programs. Scripts rely on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed, or a difference was found.
    Failed = 1,
    /// Wrong usage, or a setting that cannot be.
    Usage = 2,
    /// The broker cannot be reached.
    BrokerAway = 3,
    /// Timed out, or not caught up.
    NotCaughtUp = 4,
    /// Halted by a safety limit: a person must look before it goes on.
    Halted = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that a command may end with.
pub trait Fault: Error + Send + Sync + 'static {
    /// The code to end with.
    fn exit(&self) -> Exit;

    /// What a person can do, as one sentence; `None` when the message says it all.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// What a command ended with. Any [`Fault`] becomes one by `?`.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    hint: Option<String>,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// From an error that says nothing about how to end.
    pub fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit, hint: None, error: error.into() }
    }

    /// The same with what a person can do.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The code to end with.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl<F: Fault> From<F> for Failure {
    fn from(fault: F) -> Self {
        Self { exit: fault.exit(), hint: fault.hint(), error: Box::new(fault) }
    }
}

/// An error with all its causes, on one line.
pub fn error_chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut chain = said.clone();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // A transparent error, and one that quotes its source, would say the same twice.
        if !said.contains(&text) {
            chain = format!("{chain}: {text}");
        }
        said = text;
        cause = error.source();
    }
    chain
}

impl fmt::Display for Failure {
    /// The whole chain on one line, then the hint on another.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", error_chain(self.error.as_ref()))?;
        self.hint.iter().try_for_each(|hint| write!(f, "\n hint: {hint}"))
    }
}

/// The end of a `main`: prints a failure to standard error and gives the code to return.
pub fn finish(result: Result<Exit, Failure>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // Nobody can be told when standard error itself is gone.
            let _ = writeln!(std::io::stderr(), "{failure}");
            failure.exit.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("opening the index")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("disk full")]
    struct Inner;

    impl Fault for Outer {
        fn exit(&self) -> Exit {
            Exit::Halted
        }
        fn hint(&self) -> Option<String> {
            Some("make room".into())
        }
    }

    #[test]
    fn the_chain_is_printed_once_with_its_hint() {
        let failure = Failure::from(Outer(Inner));
        assert_eq!(failure.to_string(), "error: opening the index: disk full\n hint: make room");
        assert_eq!(failure.exit(), Exit::Halted);
    }

    #[test]
    fn a_cause_that_its_error_quotes_is_not_said_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("opening the index: {0}")]
        struct Quoting(#[source] Inner);
        let failure = Failure::new(Exit::Failed, Quoting(Inner));
        assert_eq!(failure.to_string(), "error: opening the index: disk full");
    }
}
