//! `GET /api/v1/log?from=N&limit=M`: a page of the log.

use super::{Api, away};
use crate::log_command;
use axum::{Json, extract::State, http::Uri};
use common::{
    event::Version,
    http::{
        Problem, Query, Scope,
        openapi::{Access, Content, Operation, Verb, schemas},
        refused,
    },
    log::EventLog,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Events of a page where nothing is said.
const USUAL: usize = 100;
/// The most of one page: what one request to the broker gives.
const MOST: usize = 500;

pub fn operation() -> Operation {
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL });
    let page = schemas::object(json!({
        "events": schemas::list("Event"), "next": schemas::version(), "head": schemas::count(),
    }));
    Operation::new("log", Verb::Get, "/api/v1/log", Access::Scope(Scope::Read), "A page of the log")
        .query("from", schemas::from(), "The first version")
        .query("limit", limit, "The most events")
        .answer(200, "`next` is what to ask for next; above `head` when that is all", Content::Json(page))
}

/// `next` is what to ask for next, and lies above `head` when there is nothing more yet.
pub async fn answer(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<Value>, Problem> {
    let query = Query::of(&uri, &["from", "limit"])?;
    let from = Version::new(query.get::<u64>("from")?.unwrap_or(1).max(1));
    let limit = query.get::<usize>("limit")?.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(refused("limit", &format!("not from 1 to {MOST}")));
    }
    let sightings = api.sightings()?;
    let seen = sightings.state().await.map_err(away)?.last;
    // What comes this moment is on the next page; nothing is asked for where nothing is.
    let page = if from <= seen { sightings.log.read(from, limit).await.map_err(away)? } else { Vec::new() };
    let last = page.last().map(|last| last.version);
    let (next, head) = (last.map_or(from, Version::next), seen.max(last.unwrap_or_default()));
    let events: Vec<Value> = page.iter().map(log_command::json).collect();
    Ok(Json(json!({ "events": events, "next": next, "head": head })))
}
