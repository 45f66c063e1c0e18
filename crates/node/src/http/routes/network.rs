//! Networks of sandboxes, and of the node.

use axum::Json;
use axum::extract::State;
use moat_api::rest::network::{NetworkStatus, NetworkTest, NetworkWish, NodeNetwork, TestNetwork};

use super::IdPath;
use crate::http::App;
use crate::http::answer::Answer;
use crate::http::auth::Caller;
use crate::http::body::{Json as Body, SandboxPath};

/// The network of a sandbox: everything that holds, defaults filled in.
#[utoipa::path(get, path = "/sandboxes/{id}/network", tag = "networks", operation_id = "get_network", params(IdPath),
    responses((status = 200, body = NetworkStatus, description = "As it is.")))]
pub(super) async fn get(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
) -> Answer<Json<NetworkStatus>> {
    Ok(Json(app.services.sandboxes.network(&caller.namespace, &id)?))
}

/// Gives a living sandbox another network, whole: what is absent is at its default, but for the mode, which stays. It
/// answers when the new one is in force; connections it forbids are ended. After a failure the one before holds.
#[utoipa::path(put, path = "/sandboxes/{id}/network", tag = "networks", operation_id = "set_network", params(IdPath),
    request_body = NetworkWish, responses((status = 200, body = NetworkStatus, description = "It is in force.")))]
pub(super) async fn put(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Body(wish): Body<NetworkWish>,
) -> Answer<Json<NetworkStatus>> {
    Ok(Json(app.services.sandboxes.set_network(&caller.namespace, &id, wish).await?))
}

/// Whether destinations would be reached, and by which rule. Nothing is sent; names are looked up.
#[utoipa::path(post, path = "/sandboxes/{id}/network/test", tag = "networks", operation_id = "test_network",
    params(IdPath), request_body = TestNetwork,
    responses((status = 200, body = NetworkTest, description = "What would become of each.")))]
pub(super) async fn test(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Body(request): Body<TestNetwork>,
) -> Answer<Json<NetworkTest>> {
    Ok(Json(app.services.sandboxes.test_network(&caller.namespace, &id, request).await?))
}

/// The network of this node, and who of the namespace is attached to it.
#[utoipa::path(get, path = "/network", tag = "networks", operation_id = "node_network",
    responses((status = 200, body = NodeNetwork, description = "As it is.")))]
pub(super) async fn of_node(State(app): State<App>, caller: Caller) -> Json<NodeNetwork> {
    Json(app.services.sandboxes.node_network(&caller.namespace).await)
}

/// The same test for a network that no sandbox has.
#[utoipa::path(post, path = "/network/test", tag = "networks", operation_id = "test_any_network",
    request_body = TestNetwork,
    responses((status = 200, body = NetworkTest, description = "What would become of each.")))]
pub(super) async fn test_any(
    State(app): State<App>,
    caller: Caller,
    Body(request): Body<TestNetwork>,
) -> Answer<Json<NetworkTest>> {
    Ok(Json(app.services.sandboxes.test_any_network(&caller.namespace, request).await?))
}
