//! `GET /api/v1/activity`: what this node is at, and what the last hour was like. It is known here, also while the broker is away.

use super::Api;
use crate::parked;
use axum::{Json, extract::State, http::StatusCode, http::Uri};
use common::{
    arrivals::{Arrival, Arrived},
    error_chain,
    http::{Problem, Query},
    resolve::blocking,
    time::Timestamp,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Parked events that are told with their reasons; all are counted.
const PARKED: usize = 100;
/// Payloads are for the command line.
const UNTOLD: &str = "payload";

pub async fn answer(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<Value>, Problem> {
    Query::of(&uri, &[])?;
    let index = api.index.clone();
    let parked = blocking(move || index.parked()).await;
    let failed = |error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error_chain(&error));
    let parked = parked.map_err(failed)?;
    let told: Vec<Value> = parked.iter().take(PARKED).map(parked::json).map(without_payload).collect();
    let online = api.online.get();
    let mut transfers = online.map(|online| online.arrivals.all()).unwrap_or_default();
    transfers.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    let transfers: Vec<Value> = transfers.iter().filter_map(transfer).collect();
    Ok(Json(json!({
        "now": Timestamp::now(),
        "reached": online.is_some(),
        "away_since": online.and_then(|online| online.vitals.away()),
        "transfers": transfers,
        "parked": told,
        "parked_count": parked.len(),
        "samples": online.map(|online| online.vitals.last_hour()).unwrap_or_default(),
    })))
}

fn without_payload(mut parked: Value) -> Value {
    if let Some(fields) = parked.as_object_mut() {
        fields.remove(UNTOLD);
    }
    parked
}

/// None: it has just ended.
fn transfer(arrival: &Arrival) -> Option<Value> {
    let Arrived::Bytes(bytes) = *arrival.arrived.borrow() else { return None };
    Some(json!({ "path": arrival.path.to_string(), "bytes": bytes, "size": arrival.size }))
}
