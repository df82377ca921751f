//! `GET /api/v1/files/{sha256}`: content by its hash, as both processes have it.

use super::Api;
use axum::{
    extract::{Path, State},
    http::{HeaderMap, Method, Uri},
    response::Response,
};
use common::http::{Problem, content, openapi::Operation};
use std::sync::Arc;

pub fn operation() -> Operation {
    content::file_operation()
}

pub async fn answer(
    State(api): State<Arc<Api>>,
    name: Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    content::file(State(Arc::clone(&api.shelf)), name, method, uri, headers).await
}
