//! What a process answers, as a table: each route is added together with its [`Operation`], and from the same table come the router and the description at
//! `/api/v1/openapi.json` (OpenAPI 3.1). What is not described is not answered.

mod operation;
pub mod schemas;

pub use operation::{Access, Content, Operation, Verb};

use super::permitted;
use axum::{Router, handler::Handler, middleware, routing::on};
use serde_json::{Map, Value, json};

/// Where the description is.
pub const PATH: &str = "/api/v1/openapi.json";

/// Routes with what is said of them. `S`: what their handlers share.
pub struct Table<S = ()> {
    router: Router<S>,
    operations: Vec<Operation>,
}

impl<S: Clone + Send + Sync + 'static> Default for Table<S> {
    fn default() -> Self {
        Self { router: Router::new(), operations: Vec::new() }
    }
}

impl<S: Clone + Send + Sync + 'static> Table<S> {
    /// With one more. It is only called with a token that allows as much, where tokens are asked for.
    #[must_use]
    pub fn route<T: 'static>(mut self, operation: Operation, handler: impl Handler<T, S>) -> Self {
        let mut route = on(operation.verb.filter(), handler);
        if let Access::Scope(scope) = operation.access {
            route = route.route_layer(middleware::from_fn_with_state(scope, permitted));
        }
        self.router = self.router.route(operation.path, route);
        self.operations.push(operation);
        self
    }

    /// Gives the handlers what they share.
    pub fn with_state(self, state: S) -> Table {
        Table { router: self.router.with_state(state), operations: self.operations }
    }

    /// With all of another.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let operations = self.operations.into_iter().chain(other.operations).collect();
        Self { router: self.router.merge(other.router), operations }
    }

    /// The two halves.
    pub(super) fn split(self) -> (Router<S>, Vec<Operation>) {
        (self.router, self.operations)
    }
}

/// The description. `tokens`: whether they are asked for.
pub(super) fn document(title: &str, operations: &[Operation], tokens: bool) -> Value {
    let mut paths = Map::new();
    for operation in operations {
        let path = paths.entry(operation.template()).or_insert_with(|| json!({}));
        for (verb, described) in operation.described(tokens) {
            path[verb] = described;
        }
    }
    let security = match tokens {
        true => json!({ "token": { "type": "http", "scheme": "bearer" } }),
        false => json!({}),
    };
    json!({
        "openapi": "3.1.0",
        "info": { "title": title, "version": env!("CARGO_PKG_VERSION"), "license": { "name": "Apache-2.0" } },
        "paths": paths,
        "components": { "schemas": schemas::all(), "securitySchemes": security },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Scope;

    fn described(tokens: bool) -> Value {
        let read = Operation::new("read", Verb::Get, "/x/{*path}", Access::Scope(Scope::Read), "It reads")
            .path("path", schemas::path_in_url(), "The path")
            .answer(200, "Content", Content::Bytes)
            .refuses(404, "There is none")
            .and_head();
        let write =
            Operation::new("write", Verb::Put, "/x/{*path}", Access::Scope(Scope::Write), "It writes")
                .answer(200, "Done", Content::Json(json!({ "type": "object" })));
        document("test", &[read, write], tokens)
    }

    fn statuses(described: &Value) -> Vec<&str> {
        described["responses"].as_object().expect("answers").keys().map(String::as_str).collect()
    }

    #[test]
    fn one_path_has_all_of_its_methods_and_a_wildcard_is_a_parameter() {
        let path = &described(false)["paths"]["/x/{path}"];
        let verbs: Vec<&String> = path.as_object().expect("methods").keys().collect();
        assert_eq!(verbs, ["get", "head", "put"]);
        assert_eq!(path["get"]["operationId"], "read");
        assert_eq!(path["head"]["operationId"], "read_head");
        assert_eq!(path["head"]["responses"]["200"].get("content"), None);
        assert_eq!(path["get"]["parameters"][0]["in"], "path");
    }

    #[test]
    fn what_tokens_are_for_is_said_where_they_are_asked_for() {
        let (open, guarded) = (described(false), described(true));
        let (open, guarded) = (&open["paths"]["/x/{path}"], &guarded["paths"]["/x/{path}"]);
        assert_eq!(statuses(&open["get"]), ["200", "400", "404", "421", "503"]);
        assert_eq!(statuses(&open["put"]), ["200", "400", "403", "421", "503"]);
        assert_eq!(statuses(&guarded["get"]), ["200", "400", "401", "403", "404", "503"]);
        assert_eq!(guarded["put"]["security"], json!([{ "token": ["write"] }]));
        assert_eq!(open["put"].get("security"), None);
    }

    #[test]
    fn what_is_referred_to_is_there() {
        let schemas = schemas::all();
        let text = format!("{}{schemas}", described(true));
        let mut referred = 0;
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().expect("a name");
            assert!(schemas.get(name).is_some(), "{name}");
            referred += 1;
        }
        assert!(referred > 3);
    }
}
