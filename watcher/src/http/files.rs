//! `GET /api/v1/files/{sha256}`: content by its hash.

use axum::{Router, routing::get};
use common::http::{
    Scope,
    content::{Shelf, file},
    needs,
};
use std::sync::Arc;

/// Where tokens are in force it needs the scope `read`.
pub fn routes(shelf: &Arc<Shelf>) -> Router {
    let routes = Router::new().route("/api/v1/files/{sha256}", get(file));
    needs(Scope::Read, routes.with_state(Arc::clone(shelf)))
}
