//! `GET /api/v1/activity`: what this node is at, and what the last hour was like. It is known here, also while the broker is away.

use super::Api;
use crate::parked;
use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
};
use common::{
    arrivals::{Arrival, Arrived},
    error_chain,
    http::{
        Problem, Query, Scope,
        openapi::{Access, Content, Operation, Verb, schemas},
    },
    index::IndexError,
    resolve::blocking,
    time::Timestamp,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Parked events that are told with their reasons; all are counted.
const PARKED: usize = 100;

pub fn operation() -> Operation {
    let text = "What this node is at, and what the last hour was like";
    let told = schemas::object(json!({
        "now": schemas::time(), "reached": { "type": "boolean" }, "away_since": schemas::or_null(schemas::time()),
        "transfers": schemas::list("Transfer"), "parked": schemas::list("Parked"), "parked_count": schemas::count(),
        "samples": schemas::list("Sample"),
    }));
    Operation::new("activity", Verb::Get, "/api/v1/activity", Access::Scope(Scope::Read), text)
        .answer(200, "As it is known here, also while the broker is away", Content::Json(told))
        .refuses(500, "The index cannot be read")
}

pub async fn answer(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<Value>, Problem> {
    Query::of(&uri, &[])?;
    let index = api.index.clone();
    let parked = blocking(move || Ok::<_, IndexError>((index.parked_first(PARKED)?, index.parked_count()?)));
    let failed = |error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error_chain(&error));
    let (parked, parked_count) = parked.await.map_err(failed)?;
    let parked: Vec<Value> = parked.iter().map(parked::json).collect();
    let online = api.online.get();
    let mut transfers = online.map(|online| online.arrivals.all()).unwrap_or_default();
    transfers.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    let transfers: Vec<Value> = transfers.iter().filter_map(transfer).collect();
    Ok(Json(json!({
        "now": Timestamp::now(),
        "reached": online.is_some(),
        "away_since": online.and_then(|online| online.vitals.samples.away()),
        "transfers": transfers,
        "parked": parked,
        "parked_count": parked_count,
        "samples": online.map(|online| online.vitals.samples.past()).unwrap_or_default(),
    })))
}

/// None: it has just ended.
fn transfer(arrival: &Arrival) -> Option<Value> {
    let Arrived::Bytes(bytes) = *arrival.arrived.borrow() else { return None };
    Some(json!({ "path": arrival.path.to_string(), "bytes": bytes, "size": arrival.size }))
}
