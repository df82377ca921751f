//! `DELETE /api/v1/paths/{path}`: the file at a path goes, everywhere.

use super::{Api, Refused};
use crate::direct::Direct;
use axum::{
    Json,
    extract::{Request, State},
};
use common::{
    http::{
        Problem, Query, Scope,
        openapi::{Access, Content, Operation, Verb, schemas},
        path_below,
    },
    vitals::Direction,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// What the path of a request has before that of the file.
const PREFIX: &str = "/api/v1/paths/";

pub fn operation() -> Operation {
    let done = schemas::object(json!({
        "removed": { "type": "boolean" }, "version": schemas::or_null(schemas::count()),
    }));
    let text = "Removes a file, everywhere";
    Operation::new("remove", Verb::Delete, "/api/v1/paths/{*path}", Access::Scope(Scope::Write), text)
        .path("path", schemas::path_in_url(), "The path of the file")
        .answer(
            200,
            "It is gone, by the event at `version`; `removed` is false when it was before",
            Content::Json(done),
        )
        .refuses(
            409,
            "Others have changed it, a folder is in the way, or more are removed at once than may be",
        )
        .refuses(507, "The disk is full, here or of the broker")
}

/// 200 also when it is gone already.
pub async fn answer(State(api): State<Arc<Api>>, request: Request) -> Result<Json<Value>, Problem> {
    Query::of(request.uri(), &[])?;
    let path = path_below(request.uri(), PREFIX)?;
    let (node, session) = api.working()?;
    let place = api.place().await?;
    // A client that goes away does not leave anything half done.
    let task = tokio::spawn(async move {
        let _place = place;
        let _turn = api.turn(&node, &path).await?;
        let direct = Direct { node: &node, session: &session, path: &path };
        let may = || api.may_remove(node.index.present_count()?);
        let done = direct.remove(may).await.map_err(|error| Problem::from(Refused::Direct(error)))?;
        if let (Some(vitals), true) = (api.vitals.get(), done.created) {
            vitals.metrics.removed(Direction::Out);
        }
        Ok(Json(json!({ "removed": done.created, "version": done.version })))
    });
    match task.await {
        Ok(answer) => answer,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
