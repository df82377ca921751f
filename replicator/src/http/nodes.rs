//! `GET /api/v1/nodes`: the records of all nodes with their ages, as `status --json` has them, and the time by the broker's clock.

use super::{Api, away};
use axum::{Json, extract::State, http::Uri};
use common::{
    http::{
        Problem, Query, Scope,
        openapi::{Access, Content, Operation, Verb, schemas},
    },
    status::Status,
    time::Timestamp,
};
use serde_json::{Value, json};
use std::sync::Arc;

pub fn operation() -> Operation {
    let told = schemas::object(json!({
        "head": schemas::count(), "now": schemas::time(), "nodes": schemas::list("Node"),
    }));
    let text = "All nodes, what is wrong first";
    Operation::new("nodes", Verb::Get, "/api/v1/nodes", Access::Scope(Scope::Read), text).answer(
        200,
        "Their records, and how old these are",
        Content::Json(told),
    )
}

pub async fn answer(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<Value>, Problem> {
    Query::of(&uri, &[])?;
    let sightings = api.sightings()?;
    let (log, records) = tokio::try_join!(sightings.state(), sightings.records()).map_err(away)?;
    let now = log.now.unwrap_or_else(Timestamp::now);
    let Status { head, nodes, .. } = Status::new(log.last, records.to_vec(), now, None);
    Ok(Json(json!({ "head": head, "now": now, "nodes": nodes })))
}
