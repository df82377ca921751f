//! HTTP of both processes: health, metrics, the node's record, and what a process adds of its own. On loopback whoever can connect may ask; elsewhere a
//! token is needed.
//!
//! `/healthz` (also `/livez`): the process works, or should be started anew. `/readyz`: it does its work in time, or why not. `/metrics`: the numbers.
//! `/api/v1/status`: the record.

pub mod content;
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
    vitals::{Reason, Standstill, Verdict, Vitals},
};
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{
        HeaderName, HeaderValue, StatusCode, Uri,
        header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use std::{io, net::SocketAddr, sync::Arc};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// The type of the metrics, as Prometheus asks for it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
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

/// What a process answers of its own. Each of its routes says by [`needs`] what a token has to allow.
#[derive(Default)]
pub struct Routes {
    /// What begins to answer within 10 s.
    pub in_time: Router,
    /// What has limits of its own.
    pub patient: Router,
    /// What holds no data, and everybody may have.
    pub open: Router,
}

/// These routes need a token with this scope, where tokens are asked for.
pub fn needs(scope: Scope, routes: Router) -> Router {
    routes.route_layer(middleware::from_fn_with_state(scope, permitted))
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
        let served = serve::serve(listener, router(Arc::clone(vitals), tokens, routes), stop.clone());
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

fn router(vitals: Arc<Vitals>, tokens: Option<Tokens>, routes: Routes) -> Router {
    let status = Router::new().route("/api/v1/status", get(status)).with_state(Arc::clone(&vitals));
    Router::new()
        .route("/healthz", get(alive))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .route(METRICS, get(metrics))
        .with_state(vitals)
        .merge(needs(Scope::Read, status))
        .merge(routes.in_time)
        .layer(middleware::from_fn(serve::in_time))
        .merge(routes.patient)
        .fallback(async |uri: Uri| {
            Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
        })
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(tokens, admitted))
        .merge(routes.open.method_not_allowed_fallback(wrong_method))
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

async fn alive(State(vitals): State<Arc<Vitals>>) -> Response {
    if vitals.is_dead() {
        let text = "the loop does not turn";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    Json(json!({ "status": "alive" })).into_response()
}

async fn ready(State(vitals): State<Arc<Vitals>>) -> Response {
    let health = vitals.health();
    let reasons: Value = health.reasons.iter().map(reason).collect();
    if health.verdict != Verdict::Unready {
        return Json(json!({ "status": health.verdict, "reasons": reasons })).into_response();
    }
    let text: Vec<String> = health.reasons.iter().map(ToString::to_string).collect();
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, text.join("; ")).with("reasons", reasons).into_response()
}

fn reason(reason: &Reason) -> Value {
    let mut value = json!({ "reason": reason.as_str(), "text": reason.to_string() });
    match *reason {
        Reason::Stalled(Standstill::Loop | Standstill::Broker | Standstill::Work, age)
        | Reason::Behind(age)
        | Reason::Slow(age)
        | Reason::HookFails(age) => value["seconds"] = json!(age.as_secs_f64()),
        Reason::Parked(count) | Reason::Held(count) => value["count"] = json!(count),
        Reason::MostDown(down, nodes) => (value["down"], value["nodes"]) = (json!(down), json!(nodes)),
        Reason::Stopping | Reason::BrokerAway | Reason::LogUnread | Reason::NoRoom | Reason::Diverged => {}
    }
    value
}

async fn metrics(State(vitals): State<Arc<Vitals>>) -> Response {
    ([(CONTENT_TYPE, OPEN_METRICS)], vitals.text()).into_response()
}

/// The record of this process, also while the broker is away.
async fn status(State(vitals): State<Arc<Vitals>>, uri: Uri) -> Result<Response, Problem> {
    Query::of(&uri, &[])?;
    match vitals.record() {
        Some(record) => Ok(Json(record).into_response()),
        None => {
            Err(Problem::passing("the process has not reached the broker since it was started", ASK_AGAIN))
        }
    }
}
