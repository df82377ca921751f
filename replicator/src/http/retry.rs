//! `POST /api/v1/parked/retry`: another try of what is parked, as `replicator parked retry`. Only JSON is taken: a form of another page cannot send it.

use super::Api;
use crate::parked::{Retried, retry};
use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::{StatusCode, Uri},
};
use common::{
    error_chain,
    http::{
        Problem, Query, Scope,
        openapi::{Access, Content, Operation, Verb, schemas},
        refused,
    },
    path::MediaPath,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The most paths of one request.
const MOST: usize = 1000;

/// One of the three.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    path: Option<String>,
    paths: Option<Vec<String>>,
    all: Option<bool>,
}

impl Body {
    /// None: all of them.
    fn paths(self) -> Result<Vec<MediaPath>, Problem> {
        let one_of = "not one of {\"path\":…}, {\"paths\":[…]} and {\"all\":true}";
        let (parameter, texts) = match self {
            Self { path: Some(path), paths: None, all: None } => ("path", vec![path]),
            Self { path: None, paths: Some(paths), all: None } if (1..=MOST).contains(&paths.len()) => {
                ("paths", paths)
            }
            Self { path: None, paths: None, all: Some(true) } => return Ok(Vec::new()),
            Self { path: None, paths: Some(_), all: None } => {
                return Err(refused("paths", &format!("not 1 to {MOST} paths")));
            }
            _ => return Err(refused("body", one_of)),
        };
        let parse = |text: String| text.parse().map_err(|error| refused(parameter, &error_chain(&error)));
        texts.into_iter().map(parse).collect()
    }
}

pub fn operation() -> Operation {
    let text = "Another try of what is parked";
    let only = |name: &str, schema: Value| {
        let mut asked = schemas::object(json!({ name: schema }));
        asked["additionalProperties"] = false.into();
        asked
    };
    let paths = json!({ "type": "array", "items": schemas::path(), "minItems": 1, "maxItems": MOST });
    let asked = [only("path", schemas::path()), only("paths", paths), only("all", json!({ "const": true }))];
    let unknown = json!({ "type": "array", "items": schemas::text() });
    let done = schemas::object(json!({ "retried": schemas::count(), "unknown": unknown }));
    Operation::new("retry_parked", Verb::Post, "/api/v1/parked/retry", Access::Scope(Scope::Admin), text)
        .takes("application/json", json!({ "oneOf": asked }))
        .answer(
            200,
            "So many events are tried again; nothing is parked at the paths that are unknown",
            Content::Json(done),
        )
        .refuses(404, "Nothing is parked at any of the paths")
        .refuses(413, "The body is too long")
        .refuses(415, "The body is not said to be JSON")
        .refuses(422, "The body is not as it has to be")
        .refuses(500, "The index cannot be written")
}

pub async fn answer(
    State(api): State<Arc<Api>>,
    uri: Uri,
    body: Result<Json<Body>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    Query::of(&uri, &[])?;
    let Json(body) = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let retried = retry(&api.index, body.paths()?).await;
    let failed = |error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error_chain(&error));
    let Retried { events, unknown } = retried.map_err(failed)?;
    let unknown: Vec<String> = unknown.iter().map(ToString::to_string).collect();
    if events == 0 && !unknown.is_empty() {
        let text = format!("no event of {} is parked", unknown.join(", "));
        return Err(Problem::new(StatusCode::NOT_FOUND, text));
    }
    tracing::info!(events, "parked events are tried again, as was asked over HTTP");
    Ok(Json(json!({ "retried": events, "unknown": unknown })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_names_one_path_or_some_or_says_all() {
        let paths = |body: &str| serde_json::from_str::<Body>(body).expect("a body").paths();
        for (body, expected) in
            [(r#"{"path":"a/b"}"#, 1), (r#"{"paths":["a","b"]}"#, 2), (r#"{"all":true}"#, 0)]
        {
            assert_eq!(paths(body).expect("paths").len(), expected, "{body}");
        }
        for (body, parameter) in [
            ("{}", "body"),
            (r#"{"all":false}"#, "body"),
            (r#"{"all":true,"path":"a"}"#, "body"),
            (r#"{"path":"a","paths":["b"]}"#, "body"),
            (r#"{"paths":[]}"#, "paths"),
            (r#"{"paths":["a","../b"]}"#, "paths"),
            (r#"{"path":"/etc/passwd"}"#, "path"),
        ] {
            assert_eq!(paths(body).expect_err("a problem").field("parameter"), parameter, "{body}");
        }
        assert!(serde_json::from_str::<Body>(r#"{"Path":"a"}"#).is_err());
    }
}
