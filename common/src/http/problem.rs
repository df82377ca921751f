//! Errors with a body, by RFC 9457.

use axum::{
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

/// What went wrong, for programs and people.
pub struct Problem {
    status: StatusCode,
    fields: Map<String, Value>,
}

impl Problem {
    /// `detail`: about this occurrence, one sentence.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        let fields = json!({ "title": title, "status": status.as_u16(), "detail": detail.into() });
        let Value::Object(fields) = fields else { unreachable!("an object, as written above") };
        Self { status, fields }
    }

    /// With a field of our own.
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.fields.insert(name.into(), value);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Value::Object(self.fields).to_string();
        let mut response = (self.status, body).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}
