//! The node itself.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use moat_api::rest::node::{NodeList, Stats, Version};

use super::shown;
use crate::api_keys::Scope;
use crate::http::App;
use crate::http::answer::{Answer, Failure};
use crate::http::auth::{self, Caller, Peer};
use crate::http::meter::Finished;

/// Lists the nodes this one knows. It comes first.
#[utoipa::path(get, path = "/nodes", tag = "node", operation_id = "list_nodes",
    responses((status = 200, body = NodeList, description = "The nodes.")))]
pub(super) async fn nodes(State(app): State<App>, _caller: Caller) -> Json<NodeList> {
    let nodes = vec![app.services.sandboxes.node()];
    // A node that knows of no others still knows itself.
    let cluster = match &app.services.cluster {
        Some(cluster) => cluster.jobs.nodes().await.unwrap_or_default(),
        None => Vec::new(),
    };
    Json(NodeList { nodes, cluster: cluster.into_iter().map(shown::node).collect() })
}

/// Sums over what the caller may see.
#[utoipa::path(get, path = "/stats", tag = "node", operation_id = "stats",
    responses((status = 200, body = Stats, description = "Now.")))]
pub(super) async fn stats(State(app): State<App>, caller: Caller) -> Json<Stats> {
    let namespace = match &caller.scope {
        Scope::Admin => None,
        Scope::Namespace { namespace } => Some(namespace),
    };
    Json(app.services.sandboxes.stats(namespace).await)
}

/// What answers here.
#[utoipa::path(get, path = "/version", tag = "node", operation_id = "version",
    responses((status = 200, body = Version, description = "Versions.")))]
pub(super) async fn version(_caller: Caller) -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION").to_owned(), api: "v1".to_owned() })
}

/// The document of this API.
pub(super) async fn openapi(_caller: Caller) -> Response {
    ([(CONTENT_TYPE, "application/json")], crate::http::openapi::json()).into_response()
}

/// Whether the daemon works. Nobody is asked who they are: a load balancer has no key.
pub(super) async fn health(State(app): State<App>) -> Answer<Response> {
    let pages = app.services.pages.as_ref().ok_or_else(|| Failure::of_status(StatusCode::NOT_FOUND))?;
    let mut answer = match pages.scrape.health() {
        Ok(text) => (StatusCode::OK, format!("{text}\n")).into_response(),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n")).into_response(),
    };
    answer.extensions_mut().insert(Finished);
    Ok(answer)
}

/// Numbers for Prometheus.
pub(super) async fn metrics(State(app): State<App>, request: Request) -> Answer<Response> {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    auth::may_scrape(&app, request.headers(), request.uri(), peer)?;
    let pages = app.services.pages.as_ref().ok_or_else(|| Failure::of_status(StatusCode::NOT_FOUND))?;
    pages.scrape.refresh();
    pages.handle.run_upkeep();
    Ok(pages.handle.render().into_response())
}
