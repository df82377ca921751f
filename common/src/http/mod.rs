//! HTTP of both processes: health, metrics, the node's record, and what a process adds of its own. On loopback whoever can connect may ask; elsewhere a
//! token is needed.

pub mod content;
mod health;
pub mod openapi;
mod origin;
mod problem;
mod query;
mod serve;
mod tokens;

pub use problem::Problem;
pub use query::{Query, path_below, refused};
pub use tokens::{Scope, Scopes, TokenError, Tokens};

use crate::{
    exit::{Exit, Failure, Fault},
    nodes::Role,
    settings::{HttpSettings, Listen},
    vitals::Vitals,
};
use axum::{
    Router,
    extract::{Request, State},
    http::{
        HeaderName, HeaderValue, StatusCode, Uri,
        header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use openapi::Table;
use serde_json::json;
use std::{io, net::SocketAddr, sync::Arc};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Who asks for these needs no token: a load balancer has none, and they say nothing about files.
const OPEN: [&str; 3] = ["/healthz", "/livez", "/readyz"];
/// Whoever collects metrics may know this machine by any name; they name no file.
const METRICS: &str = "/metrics";
/// Answers are of this moment, unless they say otherwise.
const USUAL: [(HeaderName, HeaderValue); 2] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
];
/// Seconds after which one may ask again for what a process does not know yet.
pub const ASK_AGAIN: u64 = 2;

/// The port that was asked for cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("HTTP cannot listen on {address}")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

impl Fault for ListenError {
    fn exit(&self) -> Exit {
        Exit::Usage
    }

    fn hint(&self) -> Option<String> {
        Some("--http ADDR takes another address, --http off none".into())
    }
}

/// What a process answers of its own.
#[derive(Default)]
pub struct Routes {
    /// What begins to answer within 10 s.
    pub in_time: Table,
    /// What has limits of its own.
    pub patient: Table,
    /// What is no part of the API, holds no data, and everybody may have.
    pub open: Router,
}

/// HTTP that is served until it is told to end, or dropped.
pub struct Serving {
    address: SocketAddr,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Serving {
    /// Begins, where the settings want it. A default port that is taken is no reason not to run: another node of this machine has it.
    pub async fn start(
        settings: &HttpSettings,
        role: Role,
        vitals: &Arc<Vitals>,
        routes: Routes,
    ) -> Result<Option<Self>, Failure> {
        let tokens = settings.tokens.as_deref().map(Tokens::read).transpose()?;
        let listener = match settings.listen {
            Listen::Off => return Ok(None),
            Listen::At(address) => {
                TcpListener::bind(address).await.map_err(|source| ListenError { address, source })?
            }
            Listen::Default => match TcpListener::bind(default_address(role)).await {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::warn!(address = %default_address(role), %error, "no HTTP: the default port cannot be had; --http takes another");
                    return Ok(None);
                }
            },
        };
        let address = listener.local_addr().map_err(|error| Failure::new(Exit::Failed, error))?;
        tracing::info!(%address, "HTTP");
        let stop = CancellationToken::new();
        let served = serve::serve(listener, router(role, vitals, tokens, routes), stop.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(served));
        Ok(Some(Self { address, stop, task }))
    }

    /// Where it is, for the node's record.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets what is being answered end.
    pub async fn end(self) {
        self.stop.cancel();
        // A panic in there is no reason to end otherwise.
        let _ = self.task.await;
    }
}

/// Where a process answers that was told nothing.
pub fn default_address(role: Role) -> SocketAddr {
    let port = match role {
        Role::Watcher => 7420,
        Role::Replicator => 7421,
    };
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn router(role: Role, vitals: &Arc<Vitals>, tokens: Option<Tokens>, routes: Routes) -> Router {
    let (in_time, mut operations) = health::routes(vitals).merge(routes.in_time).split();
    let (patient, more) = routes.patient.split();
    operations.extend(more);
    let description = openapi::document(&format!("mediamirror {role}"), &operations, tokens.is_some());
    let description = ([(CONTENT_TYPE, "application/json")], Bytes::from(description.to_string()));
    Router::new()
        .merge(in_time)
        .layer(middleware::from_fn(serve::in_time))
        .merge(patient)
        .fallback(async |uri: Uri| {
            Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
        })
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(tokens, admitted))
        .merge(routes.open.method_not_allowed_fallback(wrong_method))
        .merge(
            Router::new()
                .route(openapi::PATH, get(async move || description))
                .method_not_allowed_fallback(wrong_method),
        )
        .layer(middleware::map_response(usual))
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this method is not for what is asked for")
}

async fn usual(mut answer: Response) -> Response {
    for (name, value) in USUAL {
        answer.headers_mut().entry(name).or_insert(value);
    }
    answer
}

async fn admitted(State(tokens): State<Option<Tokens>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if OPEN.contains(&path) {
        return next.run(request).await;
    }
    if tokens.is_none()
        && path != METRICS
        && let Err(problem) = origin::check(request.method(), request.headers())
    {
        return problem.into_response();
    }
    if let Some(scopes) = tokens.map_or(Some(Scopes::ALL), |tokens| tokens.admit(request.headers())) {
        request.extensions_mut().insert(scopes);
        return next.run(request).await;
    }
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer …");
    ([(WWW_AUTHENTICATE, "Bearer")], problem).into_response()
}

async fn permitted(State(scope): State<Scope>, request: Request, next: Next) -> Response {
    if request.extensions().get::<Scopes>().is_some_and(|scopes| scopes.has(scope)) {
        return next.run(request).await;
    }
    let scope = scope.as_str();
    Problem::new(StatusCode::FORBIDDEN, format!("the token has not the scope {scope}"))
        .with("scope", json!(scope))
        .into_response()
}
