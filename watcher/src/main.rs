//! The watcher: notices finished files, stores their bytes once, and publishes them to the log.

use std::process::ExitCode;

fn main() -> ExitCode {
    match common::broker::guard::maybe_run() {
        Some(code) => code,
        None => common::exit::finish(watcher::cli::run()),
    }
}
