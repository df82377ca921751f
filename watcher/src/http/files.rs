//! `GET /api/v1/files/{sha256}`: content by its hash.

use common::http::{
    content::{Shelf, file, file_operation},
    openapi::Table,
};
use std::sync::Arc;

/// Where tokens are in force it needs the scope `read`.
pub fn routes(shelf: &Arc<Shelf>) -> Table {
    Table::default().route(file_operation(), file).with_state(Arc::clone(shelf))
}
