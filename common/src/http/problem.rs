//! Errors with a body, by RFC 9457.

use axum::{
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

/// What went wrong, for programs and people.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    fields: Map<String, Value>,
    retry_after: Option<u64>,
}

impl Problem {
    /// `detail`: about this occurrence, one sentence.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        let fields = json!({ "title": title, "status": status.as_u16(), "detail": detail.into() });
        let Value::Object(fields) = fields else { unreachable!("an object, as written above") };
        Self { status, fields, retry_after: None }
    }

    /// 503: it passes, and this many seconds later may be asked again.
    pub fn passing(detail: impl Into<String>, retry_after: u64) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// What one of its fields says.
    pub fn field(&self, name: &str) -> &Value {
        self.fields.get(name).unwrap_or(&Value::Null)
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
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
