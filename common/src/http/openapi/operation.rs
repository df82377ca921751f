//! One method of one path: what it takes and what it answers.

use super::schemas;
use crate::http::Scope;
use axum::routing::MethodFilter;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The methods that there are here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Changes nothing.
    Get,
    /// Does something.
    Post,
    /// Makes it so.
    Put,
    /// Takes it away.
    Delete,
}

impl Verb {
    pub(super) fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Put => MethodFilter::PUT,
            Self::Delete => MethodFilter::DELETE,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Put => "put",
            Self::Delete => "delete",
        }
    }
}

/// Who may ask, where tokens are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Everybody.
    Open,
    /// Who has any token.
    Token,
    /// Who has a token with this scope.
    Scope(Scope),
}

/// What an answer consists of.
#[derive(Clone, PartialEq, Debug)]
pub enum Content {
    /// Nothing.
    Nothing,
    /// JSON of this schema.
    Json(Value),
    /// Bytes of whatever type they are.
    Bytes,
    /// Text of this type: what its parts are.
    Text(&'static str, Value),
}

impl Content {
    fn schema(self) -> Option<Value> {
        match self {
            Self::Nothing => None,
            Self::Json(schema) => Some(json!({ "application/json": { "schema": schema } })),
            Self::Bytes => Some(json!({ "*/*": {} })),
            Self::Text(kind, schema) => Some(json!({ kind: { "schema": schema } })),
        }
    }
}

/// What stands in the description of one route.
#[derive(Clone, PartialEq, Debug)]
pub struct Operation {
    pub(super) verb: Verb,
    /// As the router has it: a last `{*name}` takes the rest, with its slashes.
    pub(super) path: &'static str,
    pub(super) access: Access,
    id: &'static str,
    summary: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: BTreeMap<u16, Value>,
    head: bool,
}

impl Operation {
    /// `id`: its name for generated clients. Who needs a token needs to reach the service, too: 400 and 503 are told of by themselves.
    pub fn new(
        id: &'static str,
        verb: Verb,
        path: &'static str,
        access: Access,
        summary: &'static str,
    ) -> Self {
        let (parameters, answers) = (Vec::new(), BTreeMap::new());
        let plain = Self { verb, path, access, id, summary, parameters, body: None, answers, head: false };
        match access {
            Access::Open | Access::Token => plain,
            Access::Scope(_) => plain.refuses(400, "A parameter cannot be so, or is not known").passes(
                "It passes: the broker is away, or was not reached yet, or as many ask for this as may",
            ),
        }
    }

    /// With a part of its path.
    #[must_use]
    pub fn path(mut self, name: &str, schema: Value, text: &str) -> Self {
        self.parameters.push(json!({
            "in": "path", "name": name, "required": true, "schema": schema, "description": text,
        }));
        self
    }

    /// With a parameter behind the `?`, which may be left out.
    #[must_use]
    pub fn query(self, name: &str, schema: Value, text: &str) -> Self {
        self.optional("query", name, schema, text)
    }

    /// With a header field, which may be left out.
    #[must_use]
    pub fn header(self, name: &str, schema: Value, text: &str) -> Self {
        self.optional("header", name, schema, text)
    }

    fn optional(mut self, place: &str, name: &str, schema: Value, text: &str) -> Self {
        self.parameters.push(json!({ "in": place, "name": name, "schema": schema, "description": text }));
        self
    }

    /// With a body of this type.
    #[must_use]
    pub fn takes(mut self, kind: &str, schema: Value) -> Self {
        self.body = Some(json!({ "required": true, "content": { kind: { "schema": schema } } }));
        self
    }

    /// With an answer.
    #[must_use]
    pub fn answer(mut self, status: u16, text: &str, content: Content) -> Self {
        let mut answer = json!({ "description": text });
        if let Some(content) = content.schema() {
            answer["content"] = content;
        }
        self.answers.insert(status, answer);
        self
    }

    /// With an answer that is a problem (RFC 9457).
    #[must_use]
    pub fn refuses(mut self, status: u16, text: &str) -> Self {
        self.answers.insert(status, problem(text));
        self
    }

    /// With a 503 that says when to ask again.
    #[must_use]
    pub fn passes(mut self, text: &str) -> Self {
        let mut answer = problem(text);
        answer["headers"] = json!({ "Retry-After": {
            "required": true, "schema": { "type": "integer", "minimum": 1 }, "description": "Seconds",
        } });
        self.answers.insert(503, answer);
        self
    }

    /// `HEAD` is answered, too.
    #[must_use]
    pub fn and_head(mut self) -> Self {
        self.head = true;
        self
    }

    /// Its path, as OpenAPI writes it.
    pub(super) fn template(&self) -> String {
        self.path.replace("{*", "{")
    }

    /// Each method with its description.
    pub(super) fn described(&self, tokens: bool) -> Vec<(&'static str, Value)> {
        let described = self.with_common(tokens);
        let mut all = vec![(self.verb.as_str(), described.clone())];
        if self.head {
            all.push(("head", without_content(described)));
        }
        all
    }

    fn with_common(&self, tokens: bool) -> Value {
        let mut answers = self.answers.clone();
        if self.access != Access::Open {
            match (tokens, self.verb, self.access) {
                (true, _, access) => {
                    answers.insert(401, problem("A token is needed"));
                    if access != Access::Token {
                        answers.insert(403, problem("The token has not the scope"));
                    }
                }
                (false, _, Access::Token) => {}
                (false, verb, _) => {
                    answers.insert(421, problem("The Host is not this machine"));
                    if verb != Verb::Get {
                        answers.insert(403, problem("A page of another origin asks for a change"));
                    }
                }
            }
        }
        let answers: serde_json::Map<String, Value> =
            answers.into_iter().map(|(status, answer)| (status.to_string(), answer)).collect();
        let mut described = json!({
            "operationId": self.id, "summary": self.summary, "parameters": self.parameters, "responses": answers,
        });
        if let Some(body) = &self.body {
            described["requestBody"] = body.clone();
        }
        match self.access {
            Access::Scope(scope) if tokens => described["security"] = json!([{ "token": [scope.as_str()] }]),
            Access::Token if tokens => described["security"] = json!([{ "token": [] }]),
            _ => {}
        }
        described
    }
}

fn problem(text: &str) -> Value {
    json!({ "description": text, "content": { "application/problem+json": { "schema": schemas::named("Problem") } } })
}

fn without_content(mut described: Value) -> Value {
    if let Some(answers) = described["responses"].as_object_mut() {
        for answer in answers.values_mut().filter_map(Value::as_object_mut) {
            answer.remove("content");
        }
    }
    if let Some(id) = described["operationId"].as_str() {
        described["operationId"] = format!("{id}_head").into();
    }
    described
}
