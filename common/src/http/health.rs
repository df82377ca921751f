//! Health, metrics and the node's record.
//!
//! `/healthz` (also `/livez`): the process works, or should be started anew. `/readyz`: it does its work in time, or why not. `/metrics`: the numbers.
//! `/api/v1/status`: the record.

use super::{
    ASK_AGAIN, METRICS, Problem, Query, Scope,
    openapi::{Access, Content, Operation, Table, Verb, schemas},
};
use crate::vitals::{Reason, Standstill, Verdict, Vitals};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// The type of the metrics, as Prometheus asks for it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn routes(vitals: &Arc<Vitals>) -> Table {
    let open = |id, path, summary| Operation::new(id, Verb::Get, path, Access::Open, summary);
    let alive_at = |id, path| {
        open(id, path, "Whether the process works")
            .answer(200, "It does", Content::Json(schemas::object(json!({ "status": { "const": "alive" } }))))
            .refuses(503, "Its loop has not turned for 30 s: start it anew")
    };
    let well = schemas::object(json!({
        "status": schemas::one_of(&["ready", "degraded"]), "reasons": schemas::list("Reason"),
    }));
    let ready_at = open("ready", "/readyz", "Whether it does its work in time")
        .answer(200, "It does; `degraded`: a person should look", Content::Json(well))
        .refuses(503, "It does not; `reasons` says why");
    let metrics_at =
        Operation::new("metrics", Verb::Get, METRICS, Access::Token, "The numbers, for Prometheus").answer(
            200,
            "OpenMetrics",
            Content::Text(OPEN_METRICS, schemas::text()),
        );
    let read = Access::Scope(Scope::Read);
    let status_at = Operation::new("status", Verb::Get, "/api/v1/status", read, "The record of this process")
        .answer(200, "As it is now, also while the broker is away", Content::Json(schemas::named("Record")));
    Table::default()
        .route(alive_at("alive", "/healthz"), alive)
        .route(alive_at("live", "/livez"), alive)
        .route(ready_at, ready)
        .route(metrics_at, metrics)
        .route(status_at, status)
        .with_state(Arc::clone(vitals))
}

async fn alive(State(vitals): State<Arc<Vitals>>) -> Response {
    if vitals.is_dead() {
        let text = "the loop does not turn";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    Json(json!({ "status": "alive" })).into_response()
}

async fn ready(State(vitals): State<Arc<Vitals>>) -> Response {
    let health = vitals.health();
    let reasons: Value = health.reasons.iter().map(reason).collect();
    if health.verdict != Verdict::Unready {
        return Json(json!({ "status": health.verdict, "reasons": reasons })).into_response();
    }
    let text: Vec<String> = health.reasons.iter().map(ToString::to_string).collect();
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, text.join("; ")).with("reasons", reasons).into_response()
}

fn reason(reason: &Reason) -> Value {
    let mut value = json!({ "reason": reason.as_str(), "text": reason.to_string() });
    match *reason {
        Reason::Stalled(Standstill::Loop | Standstill::Broker | Standstill::Work, age)
        | Reason::Behind(age)
        | Reason::Slow(age)
        | Reason::HookFails(age) => value["seconds"] = json!(age.as_secs_f64()),
        Reason::Parked(count) | Reason::Held(count) => value["count"] = json!(count),
        Reason::MostDown(down, nodes) => (value["down"], value["nodes"]) = (json!(down), json!(nodes)),
        Reason::Stopping
        | Reason::BrokerAway
        | Reason::LogUnread
        | Reason::NoRoom
        | Reason::StoreAway
        | Reason::Denied
        | Reason::Diverged => {}
    }
    value
}

async fn metrics(State(vitals): State<Arc<Vitals>>) -> Response {
    ([(CONTENT_TYPE, OPEN_METRICS)], vitals.text()).into_response()
}

/// The record of this process, also while the broker is away.
async fn status(State(vitals): State<Arc<Vitals>>, uri: Uri) -> Result<Response, Problem> {
    Query::of(&uri, &[])?;
    match vitals.record() {
        Some(record) => Ok(Json(record).into_response()),
        None => {
            Err(Problem::passing("the process has not reached the broker since it was started", ASK_AGAIN))
        }
    }
}
