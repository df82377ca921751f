//! Why an upload or a removal is not done, and how that is answered.

use crate::{
    direct::{DirectError, Refusal},
    node::{Next, PublishError},
};
use axum::http::StatusCode;
use common::{
    blobs::BlobError,
    broker::BrokerError,
    error_chain,
    hash::ContentHash,
    http::{ASK_AGAIN, Problem},
    place::PlaceError,
    root::{RenameError, is_full},
};
use serde_json::json;
use std::io;

/// Why nothing was taken, or not all of it done.
#[derive(Debug)]
pub enum Refused {
    /// The client has gone.
    CutOff,
    /// It sends too slowly, or nothing.
    Slow,
    /// The body is longer than the client said, or shorter.
    Size {
        said: u64,
        more: bool,
    },
    /// Over the limit, in bytes.
    TooLarge(u64),
    /// It hashes to something else.
    WrongContent(ContentHash),
    /// There is no room above the floor of `--min-free`.
    NoRoom(String),
    Disk(io::Error),
    Store(BlobError),
    Direct(DirectError),
    /// It passes.
    Again(&'static str),
}

impl From<DirectError> for Refused {
    fn from(error: DirectError) -> Self {
        Self::Direct(error)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        use StatusCode as Code;
        match refused {
            // Nobody reads this one.
            Refused::CutOff => Self::new(Code::BAD_REQUEST, "the body ended early"),
            Refused::Slow => Self::new(Code::REQUEST_TIMEOUT, "the body came too slowly"),
            Refused::Size { said, more } => {
                let which = if more { "more" } else { "fewer" };
                Self::new(
                    Code::BAD_REQUEST,
                    format!("the body has {which} than the {said} bytes that were announced"),
                )
            }
            Refused::TooLarge(most) => Self::new(
                Code::PAYLOAD_TOO_LARGE,
                format!("over {most} bytes: --max-upload of the watcher allows no more"),
            )
            .with("limit", json!(most)),
            Refused::WrongContent(found) => {
                Self::new(Code::UNPROCESSABLE_ENTITY, "the content does not hash to its name")
                    .with("sha256", json!(found))
            }
            Refused::NoRoom(lack) => Self::new(Code::INSUFFICIENT_STORAGE, lack),
            Refused::Disk(error) => disk(&error),
            Refused::Store(BlobError::Broker(error)) => broker(&error),
            Refused::Store(error) => Self::passing(error_chain(&error), ASK_AGAIN),
            Refused::Direct(error) => direct(&error),
            Refused::Again(why) => Self::passing(why, ASK_AGAIN),
        }
    }
}

fn direct(error: &DirectError) -> Problem {
    let said = error_chain(error);
    match error {
        DirectError::Refused(refusal) => refusal_problem(refusal),
        DirectError::Busy => Problem::passing(said, ASK_AGAIN),
        DirectError::Unplaced { version, source } => {
            let full = matches!(**source, DirectError::Place(ref error) if is_no_room(error));
            let problem = if full {
                Problem::new(StatusCode::INSUFFICIENT_STORAGE, said)
            } else {
                Problem::passing(said, ASK_AGAIN)
            };
            problem.with("version", json!(version))
        }
        DirectError::Place(error) if is_no_room(error) => {
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, said)
        }
        DirectError::Publish(
            PublishError::Log(error) | PublishError::Blob { source: BlobError::Broker(error), .. },
        ) => broker(error),
        DirectError::Publish(error) if error.next() == Next::Pause => {
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, said)
        }
        DirectError::Publish(_) | DirectError::Place(_) => Problem::passing(said, ASK_AGAIN),
    }
}

fn refusal_problem(refusal: &Refusal) -> Problem {
    let said = refusal.to_string();
    match refusal {
        Refusal::MovedOn(version) => Problem::new(StatusCode::CONFLICT, said).with("version", json!(version)),
        Refusal::Unpublished | Refusal::InTheWay(_) | Refusal::TooMany => {
            Problem::new(StatusCode::CONFLICT, said)
        }
        Refusal::Exists => Problem::new(StatusCode::PRECONDITION_FAILED, said),
        Refusal::Comparing => Problem::passing(said, ASK_AGAIN),
        Refusal::Ignored => Problem::new(StatusCode::BAD_REQUEST, said),
    }
}

fn is_no_room(error: &PlaceError) -> bool {
    match error {
        PlaceError::Disk(error) | PlaceError::Rename(RenameError::Io(error)) => is_full(error),
        PlaceError::Index(error) => error.is_full(),
        PlaceError::Resolve(error) => error.is_full(),
        PlaceError::Rename(_) => false,
    }
}

fn disk(error: &io::Error) -> Problem {
    let said = format!("cannot write below the root: {error}");
    if is_full(error) {
        Problem::new(StatusCode::INSUFFICIENT_STORAGE, said)
    } else {
        Problem::passing(said, ASK_AGAIN)
    }
}

fn broker(error: &BrokerError) -> Problem {
    let said = error_chain(error);
    if error.is_full() {
        Problem::new(StatusCode::INSUFFICIENT_STORAGE, said)
    } else {
        Problem::passing(said, ASK_AGAIN)
    }
}
