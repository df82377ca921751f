//! Looking at the embedded broker of this machine without starting one.

use super::{
    embedded::{Answer, EmbeddedError, EmbeddedOptions, who_answers},
    server::find,
    version::ServerVersion,
};
use std::{fs, path::PathBuf};

/// What there is of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EmbeddedLook {
    /// It runs, and answers at this URL.
    Runs(String),
    /// It does not run. The first process that needs it starts this program.
    Idle(PathBuf, ServerVersion),
}

impl EmbeddedLook {
    /// Makes nothing, and waits for at most 2 s and for the program to tell its version. An error is what a process would end with.
    pub async fn at(options: &EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let name = fs::read_to_string(options.base.join("nats/name")).unwrap_or_default();
        let port = options.port;
        let who = match who_answers(port).await {
            Answer::Server(answers) if answers == name.trim() => {
                return Ok(Self::Runs(format!("nats://127.0.0.1:{port}")));
            }
            Answer::Server(other) => format!("the NATS server {other:?}"),
            Answer::Other => "a program that is no NATS server".into(),
            Answer::Nobody => {
                let (program, version) = find(options).await?;
                return Ok(Self::Idle(program, version));
            }
        };
        Err(EmbeddedError::Foreign { port, who })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stranger_on_the_port_is_named_and_nothing_is_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let stranger = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = stranger.local_addr().expect("an address").port();
        let base = dir.path().join("base");
        let options =
            |port| EmbeddedOptions { base: base.clone(), port, program: None, search: vec![base.clone()] };
        let found = EmbeddedLook::at(&options(port)).await;
        assert!(matches!(found, Err(EmbeddedError::Foreign { .. })), "{found:?}");
        drop(stranger);
        let found = EmbeddedLook::at(&options(port)).await;
        assert!(matches!(found, Err(EmbeddedError::NoServer { .. })), "{found:?}");
        assert!(!base.exists());
    }
}
