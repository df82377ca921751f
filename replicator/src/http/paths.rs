//! `GET /api/v1/paths/{path}`: content by path. What the log has and this node has not yet is applied out of turn, and read while it arrives.

use super::{Api, Online, WAITS, away, crowded, misses::Ask};
use crate::{
    apply::Outcome,
    service::{Answer, Begun, End, Nothing},
};
use axum::{
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::Response,
};
use common::{
    arrivals::Arrival,
    event::{Event, Kind, Version},
    http::{
        ASK_AGAIN, Problem, Query, Scope,
        content::{Asked, Local, describe, from_arrival, from_disk},
        openapi::{Access, Operation, Verb, schemas},
        path_below,
    },
    path::MediaPath,
    sightings::FRESH,
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// An answer begins within this time, or it is 503: what is small, or already on its way, has come by then over any link that is of use.
const BEGINS: Duration = Duration::from_secs(30);
/// What is parked is not tried again sooner, in seconds.
const PARKED_AGAIN: u64 = 30;

pub fn operation() -> Operation {
    let text = "Content by its path; what the log has and this node not yet is fetched now";
    let plain =
        Operation::new("read_path", Verb::Get, "/api/v1/paths/{*path}", Access::Scope(Scope::Read), text)
            .path("path", schemas::path_in_url(), "The path of the file");
    describe(plain).refuses(404, "The log has no such file, or it was removed")
}

pub async fn answer(
    State(api): State<Arc<Api>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Query::of(&uri, &[])?;
    let path = path_below(&uri, "/api/v1/paths/")?;
    let place = api.shelf.place()?;
    let asked = Asked { is_get: method == Method::GET, headers: &headers, path: Some(&path) };
    let found = tokio::select! {
        found = timeout(BEGINS, find(&api, &path)) => found,
        () = api.stop.cancelled() => return Err(Problem::passing("the process ends", ASK_AGAIN)),
    };
    let slow =
        |_| Problem::passing(format!("the file did not come within {} s", BEGINS.as_secs()), ASK_AGAIN);
    match found.map_err(slow)?? {
        Found::Disk(standing) => from_disk(&asked, standing, place).await,
        Found::Arriving(event, arrival) => Ok(from_arrival(&asked, event, arrival, place)),
    }
}

enum Found {
    Disk(common::http::content::Standing),
    Arriving(common::hash::ContentHash, Arrival),
}

/// Waits for what is not there as long as it was told to.
async fn find(api: &Api, path: &MediaPath) -> Result<Found, Problem> {
    let until = Instant::now() + api.miss_wait;
    let mut waiting = None;
    loop {
        let local = api.shelf.at(path).await?;
        if let Local::Standing(standing) = local {
            return Ok(Found::Disk(standing));
        }
        let online = api.online()?;
        let head = online.sightings.state().await.map_err(away)?.last;
        let missed = match look(api, online, path, head).await? {
            Ok(found) => return Ok(found),
            Err(missed) => missed,
        };
        if Instant::now() >= until {
            return Err(missed);
        }
        if waiting.is_none() {
            waiting = Some(api.waits.try_acquire().map_err(|_| crowded(WAITS, "requests wait"))?);
        }
        sleep(FRESH.min(until.saturating_duration_since(Instant::now()))).await;
    }
}

/// Asks the log once. `Ok(Err)`: there is nothing to read at the path; it may come yet.
async fn look(
    api: &Api,
    online: &Online,
    path: &MediaPath,
    head: Version,
) -> Result<Result<Found, Problem>, Problem> {
    let none = |why: &str| Problem::new(StatusCode::NOT_FOUND, why);
    match api.misses.ask(path, head) {
        Ask::Now => {}
        Ask::Known => return Ok(Err(none("the log has no such file"))),
        Ask::TooMany => return Err(Problem::passing("too many files were asked for that are not there", 1)),
    }
    let end = match online.urgent.apply(path.clone()).await {
        Answer::Begun(begun) => come(online, begun).await,
        Answer::Nothing(nothing) => Come::Ended(Ended::Nothing(nothing)),
        Answer::Away => Come::Ended(Ended::End(End::Away)),
    };
    let ended = match end {
        Come::Arriving(content, arrival) => return Ok(Ok(Found::Arriving(content, arrival))),
        Come::Ended(ended) => ended,
    };
    let local = api.shelf.at(path).await?;
    match (answer_to(&ended, &local), local) {
        (Reply::Read, Local::Standing(standing)) => Ok(Ok(Found::Disk(standing))),
        (Reply::None(why), _) => {
            api.misses.add(path, head);
            Ok(Err(none(why)))
        }
        (Reply::Later(why, seconds), _) => Err(Problem::passing(why, seconds)),
        (Reply::Broken(why), _) => Err(Problem::new(StatusCode::BAD_GATEWAY, why)),
        (Reply::Read, _) => Err(Problem::passing(CHANGING, ASK_AGAIN)),
    }
}

enum Come {
    Arriving(common::hash::ContentHash, Arrival),
    Ended(Ended),
}

/// How a question ended.
#[derive(Debug)]
enum Ended {
    Nothing(Nothing),
    /// The newest event is a removal.
    Removal,
    End(End),
}

/// Waits until the event is applied, or its content is on its way.
async fn come(online: &Online, mut begun: Begun) -> Come {
    let logged = Arc::clone(&begun.logged);
    let Ok(event) = &logged.event else { return Come::Ended(Ended::Nothing(Nothing::Invalid)) };
    if event.kind() == Kind::Removed {
        return Come::Ended(Ended::Removal);
    }
    let Event { path, sha256, .. } = event;
    tokio::select! {
        biased;
        end = begun.ended() => Come::Ended(Ended::End(end)),
        arrival = online.arrivals.of(path, *sha256) => Come::Arriving(*sha256, arrival),
    }
}

const CHANGING: &str = "the file is being changed on this node";

/// What is answered.
#[derive(PartialEq, Eq, Debug)]
enum Reply {
    /// What stands there.
    Read,
    /// 404.
    None(&'static str),
    /// 503, to be asked again after so many seconds.
    Later(String, u64),
    /// 502: the store has not what the log promises.
    Broken(String),
}

/// Decides by what the rules of apply have come to and what stands there then. What they keep from the path is not read around them.
fn answer_to(ended: &Ended, local: &Local) -> Reply {
    if matches!(local, Local::Standing(_)) {
        return Reply::Read;
    }
    let changed = matches!(local, Local::Changed);
    let later = |why: &str| Reply::Later(why.into(), ASK_AGAIN);
    match ended {
        Ended::Nothing(Nothing::NoEvent) => Reply::None("the log has no such file"),
        Ended::Nothing(Nothing::Invalid) => Reply::None("what the log has last at this path is no event"),
        Ended::Removal => Reply::None("the file was removed"),
        Ended::Nothing(Nothing::Applied) if changed => later(CHANGING),
        // A user took it away, and the watcher is about to say so.
        Ended::Nothing(Nothing::Applied) => Reply::None("the file was removed on this node"),
        Ended::Nothing(Nothing::Repairing) => later("the file is being brought back to this node"),
        Ended::Nothing(Nothing::Parked) => {
            Reply::Later("the file cannot be placed on this node".into(), PARKED_AGAIN)
        }
        Ended::End(End::Parked(reason)) => Reply::Later(reason.clone(), PARKED_AGAIN),
        Ended::End(End::NoContent(reason)) => Reply::Broken(reason.clone()),
        Ended::End(End::Failed(reason)) => later(reason),
        Ended::End(End::Away) => later("the broker is away, or the log is not trusted yet"),
        Ended::End(End::Applied(outcome)) => match outcome {
            Outcome::Removed | Outcome::Gone | Outcome::LeftAlone => Reply::None("the file was removed"),
            // Placed, and somebody was faster to change it; or what stands here wins.
            Outcome::Placed { .. } | Outcome::Adopted | Outcome::Own => later(CHANGING),
            Outcome::Superseded | Outcome::Kept => later(CHANGING),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_rules_keep_from_a_path_is_not_read_there() {
        use Nothing::*;
        let (none, later, broken) = (404, 503, 502);
        let text = || "why".to_owned();
        let ended = |outcome| Ended::End(End::Applied(outcome));
        for (ended, absent, changed) in [
            (Ended::Nothing(NoEvent), none, none),
            (Ended::Nothing(Invalid), none, none),
            (Ended::Nothing(Applied), none, later),
            (Ended::Nothing(Repairing), later, later),
            (Ended::Nothing(Parked), later, later),
            (Ended::Removal, none, none),
            (Ended::End(End::Parked(text())), later, later),
            (Ended::End(End::NoContent(text())), broken, broken),
            (Ended::End(End::Failed(text())), later, later),
            (Ended::End(End::Away), later, later),
            (ended(Outcome::Removed), none, none),
            (ended(Outcome::Gone), none, none),
            (ended(Outcome::LeftAlone), none, none),
            (ended(Outcome::Kept), later, later),
            (ended(Outcome::Own), later, later),
            (ended(Outcome::Superseded), later, later),
            (ended(Outcome::Placed { fetched: 1 }), later, later),
        ] {
            let status = |local| match answer_to(&ended, &local) {
                Reply::Read => 200,
                Reply::None(_) => none,
                Reply::Later(..) => later,
                Reply::Broken(_) => broken,
            };
            let found = (status(Local::Absent), status(Local::Changed));
            assert_eq!(found, (absent, changed), "{ended:?}");
        }
    }
}
