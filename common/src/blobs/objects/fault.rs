//! What the errors of an object store mean.

use crate::blobs::{BlobError, StoreFault};
use object_store::{Error, RetryConfig};
use std::{error::Error as _, path::Path, time::Duration};
use tokio::time::timeout;

/// Few and soon: who asked has a bound of its own, and tries again.
pub fn retries() -> RetryConfig {
    RetryConfig { max_retries: 3, retry_timeout: Duration::from_secs(8), ..RetryConfig::default() }
}

/// An error of the store, in our words.
pub fn fault(doing: String, error: &Error) -> BlobError {
    let fault = match error {
        Error::NotFound { .. } => StoreFault::Absent,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreFault::Denied,
        Error::AlreadyExists { .. } | Error::Precondition { .. } => StoreFault::Exists,
        Error::NotImplemented { .. } | Error::NotSupported { .. } => StoreFault::Unsupported,
        Error::Generic { .. } if is_full(error) => StoreFault::Full,
        // Requests that got no answer, or one of those that say "later".
        Error::Generic { .. } => StoreFault::Away,
        _ => StoreFault::Refused,
    };
    BlobError::Store { doing, reason: last_words(error), fault }
}

/// One request, bounded.
pub async fn bounded<T>(
    patience: Duration,
    doing: impl Fn() -> String,
    request: impl Future<Output = object_store::Result<T>>,
) -> Result<T, BlobError> {
    match timeout(patience, request).await {
        Ok(done) => done.map_err(|error| fault(doing(), &error)),
        Err(_) => Err(slow(doing(), patience)),
    }
}

/// No answer in time.
pub fn slow(doing: String, waited: Duration) -> BlobError {
    let reason = format!("no answer from the store within {} s", waited.as_secs());
    BlobError::Store { doing, reason, fault: StoreFault::Away }
}

/// The folder of the store is not there.
pub fn unmounted(doing: String, folder: &Path) -> BlobError {
    let reason =
        format!("{} is not mounted, or is no blob store: it has no {}", folder.display(), super::mark::NAME);
    BlobError::Store { doing, reason, fault: StoreFault::Away }
}

/// Of a folder, whose disk says so.
fn is_full(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(crate::root::is_full) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// All that is said, on one line: what an S3 server answers is XML over many.
fn last_words(error: &Error) -> String {
    crate::error_chain(error).split_whitespace().collect::<Vec<_>>().join(" ")
}
