//! `GET /api/v1/wait`: answers when a file is on the other nodes, or why it is not.

use super::{Api, WAITS, away, crowded};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
};
use common::{
    event::Version,
    http::{
        ASK_AGAIN, Problem, Query, Scope,
        openapi::{Access, Content, Operation, Verb, schemas},
        refused,
    },
    path::MediaPath,
    settings::parse_duration,
    wait::{self, Enough, Outcome, Wanted, What},
};
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// As long as proxies wait for an answer.
const LONGEST: Duration = Duration::from_secs(60);

pub fn operation() -> Operation {
    let text = "Answers when a file is on the nodes: `path` or `version` says which";
    Operation::new("wait", Verb::Get, "/api/v1/wait", Access::Scope(Scope::Read), text)
        .query("path", schemas::path(), "The newest event of this path, which has to be an addition")
        .query("version", schemas::version(), "The event at this version")
        .query("nodes", schemas::enough(), "On how many nodes; `all` where nothing is said")
        .query("timeout", schemas::timeout(), "How long to wait")
        .answer(200, "It is there", Content::Json(schemas::named("Where")))
        .refuses(504, "Time is up, or it is parked where it is needed; with the fields of Where")
}

/// 200: it is there; 504: time is up, or it is parked where it is needed.
pub async fn answer(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<Value>, Problem> {
    let wanted = wanted(&uri)?;
    let sightings = api.sightings()?;
    let _place = api.waits.try_acquire().map_err(|_| crowded(WAITS, "requests wait"))?;
    let answer = tokio::select! {
        answer = wait::wait(sightings, &wanted) => answer.map_err(away)?,
        () = api.stop.cancelled() => return Err(Problem::passing("the process ends", ASK_AGAIN)),
    };
    let detail = match answer.outcome {
        Outcome::There => return Ok(Json(answer.json())),
        Outcome::NotYet => "it is not on as many nodes yet",
        Outcome::Parked => "it cannot be applied on a node where it is needed",
    };
    let Value::Object(fields) = answer.json() else { unreachable!("an answer is an object") };
    let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, detail);
    Err(fields.into_iter().fold(problem, |problem, (name, value)| problem.with(&name, value)))
}

fn wanted(uri: &Uri) -> Result<Wanted, Problem> {
    let query = Query::of(uri, &["path", "version", "nodes", "timeout"])?;
    let what = match (query.bytes("path"), query.get::<u64>("version")?) {
        (Some(_), Some(_)) => return Err(refused("version", "together with path")),
        (None, None) => return Err(refused("path", "missing, and so is version")),
        (None, Some(0)) => return Err(refused("version", "the log begins with 1")),
        (None, Some(version)) => What::Version(Version::new(version)),
        (Some(path), None) => {
            What::Path(MediaPath::new(path).map_err(|error| refused("path", &error.to_string()))?)
        }
    };
    let timeout = query.get_by("timeout", parse_duration)?.unwrap_or(wait::USUAL);
    if timeout > LONGEST {
        return Err(refused("timeout", &format!("over {} s", LONGEST.as_secs())));
    }
    Ok(Wanted { what, enough: query.get("nodes")?.unwrap_or(Enough::All), timeout })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Wanted, Problem> {
        wanted(&format!("/api/v1/wait?{query}").parse().expect("a URI"))
    }

    #[test]
    fn what_is_not_said_is_all_nodes_and_10_s() {
        let by_path = parse("path=a%2Fb+c").expect("a request");
        assert!(matches!(&by_path.what, What::Path(path) if path.as_bytes() == b"a/b c"));
        assert_eq!((by_path.enough, by_path.timeout), (Enough::All, Duration::from_secs(10)));
        let by_version = parse("version=7&nodes=2&timeout=500ms").expect("a request");
        assert!(matches!(by_version.what, What::Version(version) if version.get() == 7));
        assert_eq!((by_version.enough, by_version.timeout), (Enough::Nodes(2), Duration::from_millis(500)));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (query, name) in [
            ("", "path"),
            ("path=", "path"),
            ("path=../x", "path"),
            ("path=.mirror/id", "path"),
            ("path=%00", "path"),
            ("path=a&version=1", "version"),
            ("version=0", "version"),
            ("version=x", "version"),
            ("path=a&nodes=0", "nodes"),
            ("path=a&nodes=some", "nodes"),
            ("path=a&timeout=1", "timeout"),
            ("path=a&timeout=61s", "timeout"),
            ("path=a&node=all", "node"),
        ] {
            let problem = parse(query).expect_err("a problem");
            assert_eq!(problem.field("parameter"), name, "{query}");
        }
    }
}
