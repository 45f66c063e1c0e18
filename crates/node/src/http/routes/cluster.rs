//! Nodes as jobs see them.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use moat_api::rest::node::{ClusterNode, DrainNode, SetEligibility};
use moat_model::NodeId;
use moat_model::job::Eligibility;
use utoipa::IntoParams;

use super::shown;
use crate::http::App;
use crate::http::answer::{Answer, Failure};
use crate::http::auth::{Administrator, Caller};
use crate::http::body::{IdText, Json as JsonBody};
use crate::jobs::{DrainRequest, Jobs};

/// `{id}` of a node.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is read by the document alone")]
pub(super) struct NodePath {
    /// Its id, the beginning of one, its name, or `self`.
    id: String,
}

/// One node.
#[utoipa::path(get, path = "/nodes/{id}", tag = "node", operation_id = "get_node", params(NodePath),
    responses((status = 200, body = ClusterNode, description = "As it is.")))]
pub(in crate::http) async fn get(
    State(app): State<App>,
    _caller: Caller,
    IdText(id): IdText,
) -> Answer<Json<ClusterNode>> {
    Ok(Json(shown::node(app.cluster()?.jobs.node(&id).await?)))
}

/// Empties a node of what jobs run on it, or no longer does.
#[utoipa::path(post, path = "/nodes/{id}/drain", tag = "node", operation_id = "drain_node", params(NodePath),
    request_body = DrainNode, responses((status = 200, body = ClusterNode, description = "As it is now wanted.")))]
pub(in crate::http) async fn drain(
    State(app): State<App>,
    _administrator: Administrator,
    IdText(id): IdText,
    JsonBody(request): JsonBody<DrainNode>,
) -> Answer<Json<ClusterNode>> {
    if request.enable && request.keep_ineligible {
        return Err(Failure::invalid("keep_ineligible", "it goes with `enable: false`"));
    }
    let jobs = &app.cluster()?.jobs;
    let node = named(jobs, &id).await?;
    let view = if request.enable {
        let deadline = request.deadline_secs.map(Duration::from_secs);
        let wanted = DrainRequest { deadline, ignore_system: request.ignore_system, message: request.message };
        jobs.drain(&node, wanted).await?
    } else {
        jobs.undrain(&node, request.keep_ineligible).await?
    };
    Ok(Json(shown::node(view)))
}

/// Says whether anything new may be placed on a node.
#[utoipa::path(post, path = "/nodes/{id}/eligibility", tag = "node", operation_id = "set_node_eligibility",
    params(NodePath), request_body = SetEligibility,
    responses((status = 200, body = ClusterNode, description = "As it is now wanted.")))]
pub(in crate::http) async fn eligibility(
    State(app): State<App>,
    _administrator: Administrator,
    IdText(id): IdText,
    JsonBody(request): JsonBody<SetEligibility>,
) -> Answer<Json<ClusterNode>> {
    let jobs = &app.cluster()?.jobs;
    let node = named(jobs, &id).await?;
    let wanted = if request.eligible { Eligibility::Eligible } else { Eligibility::Ineligible };
    Ok(Json(shown::node(jobs.set_eligibility(&node, wanted).await?)))
}

async fn named(jobs: &Jobs, id: &str) -> Answer<NodeId> {
    Ok(jobs.node(id).await?.facts.id)
}
