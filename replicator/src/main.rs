//! The replicator: consumes the log, and fetches, verifies and places what its node lacks.

use std::process::ExitCode;

fn main() -> ExitCode {
    match common::broker::guard::maybe_run().or_else(replicator::hooks::maybe_run) {
        Some(code) => code,
        None => common::exit::finish(replicator::cli::run()),
    }
}
