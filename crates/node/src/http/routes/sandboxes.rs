//! Sandboxes and snapshots.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use moat_api::rest::node::SandboxStats;
use moat_api::rest::sandbox::{
    CreateSandbox, Explanation, Fork, Forked, Keepalive, ListSandboxes, Pause, Resume, Sandbox, SandboxList, Snapshot,
    SnapshotList, TakeSnapshot,
};

use super::{IdPath, with_status};
use crate::http::App;
use crate::http::answer::Answer;
use crate::http::auth::Caller;
use crate::http::body::{Asked, NamePath, OrNothing, SandboxPath};

type Created<T> = (StatusCode, Json<T>);

/// Creates a sandbox. It answers when the sandbox takes execs.
#[utoipa::path(post, path = "/sandboxes", tag = "sandboxes", operation_id = "create_sandbox",
    request_body = Option<CreateSandbox>, responses((status = 201, body = Sandbox, description = "It runs.")))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    OrNothing(request): OrNothing<CreateSandbox>,
) -> Answer<Created<Sandbox>> {
    let sandbox = app.services.sandboxes.create(&caller.namespace, request).await?;
    Ok(with_status(StatusCode::CREATED, sandbox))
}

/// Lists sandboxes, oldest first.
#[utoipa::path(get, path = "/sandboxes", tag = "sandboxes", operation_id = "list_sandboxes", params(ListSandboxes),
    responses((status = 200, body = SandboxList, description = "A page.")))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Asked(query): Asked<ListSandboxes>,
) -> Answer<Json<SandboxList>> {
    Ok(Json(app.services.sandboxes.list(&caller.namespace, &query)?))
}

/// One sandbox, also when it has ended and is remembered.
#[utoipa::path(get, path = "/sandboxes/{id}", tag = "sandboxes", operation_id = "get_sandbox", params(IdPath),
    responses((status = 200, body = Sandbox, description = "As it is.")))]
pub(super) async fn get(State(app): State<App>, caller: Caller, SandboxPath(id): SandboxPath) -> Answer<Json<Sandbox>> {
    Ok(Json(app.services.sandboxes.get(&caller.namespace, &id)?))
}

/// Ends a sandbox, whatever it is doing. It answers when nothing of it is left.
#[utoipa::path(delete, path = "/sandboxes/{id}", tag = "sandboxes", operation_id = "delete_sandbox", params(IdPath),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete(State(app): State<App>, caller: Caller, SandboxPath(id): SandboxPath) -> Answer<StatusCode> {
    app.services.sandboxes.delete(&caller.namespace, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a sandbox a new life span.
#[utoipa::path(post, path = "/sandboxes/{id}/keepalive", tag = "sandboxes", operation_id = "keep_sandbox_alive",
    params(IdPath), request_body = Option<Keepalive>,
    responses((status = 200, body = Sandbox, description = "With its new end.")))]
pub(super) async fn keepalive(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    OrNothing(request): OrNothing<Keepalive>,
) -> Answer<Json<Sandbox>> {
    Ok(Json(app.services.sandboxes.keepalive(&caller.namespace, &id, request).await?))
}

/// Pauses a sandbox, in memory or on disk. What is left of its life span is kept.
#[utoipa::path(post, path = "/sandboxes/{id}/pause", tag = "sandboxes", operation_id = "pause_sandbox", params(IdPath),
    request_body = Option<Pause>, responses((status = 200, body = Sandbox, description = "It is paused.")))]
pub(super) async fn pause(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    OrNothing(request): OrNothing<Pause>,
) -> Answer<Json<Sandbox>> {
    Ok(Json(app.services.sandboxes.pause(&caller.namespace, &id, request).await?))
}

/// Lets a paused sandbox go on, wherever it was kept.
#[utoipa::path(post, path = "/sandboxes/{id}/resume", tag = "sandboxes", operation_id = "resume_sandbox",
    params(IdPath), request_body = Option<Resume>, responses((status = 200, body = Sandbox, description = "It runs.")))]
pub(super) async fn resume(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    OrNothing(request): OrNothing<Resume>,
) -> Answer<Json<Sandbox>> {
    Ok(Json(app.services.sandboxes.resume(&caller.namespace, &id, request).await?))
}

/// Makes children of a sandbox: with its memory and processes, or with its files.
#[utoipa::path(post, path = "/sandboxes/{id}/fork", tag = "sandboxes", operation_id = "fork_sandbox", params(IdPath),
    request_body = Option<Fork>,
    responses((status = 201, body = Forked, description = "Each child, or why it is not.")))]
pub(super) async fn fork(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    OrNothing(request): OrNothing<Fork>,
) -> Answer<Created<Forked>> {
    let forked = app.services.sandboxes.fork(&caller.namespace, &id, request).await?;
    Ok(with_status(StatusCode::CREATED, forked))
}

/// Keeps a sandbox, with its memory or its files alone; others can be created from it.
#[utoipa::path(post, path = "/sandboxes/{id}/snapshots", tag = "snapshots", operation_id = "take_snapshot",
    params(IdPath), request_body = Option<TakeSnapshot>,
    responses((status = 201, body = Snapshot, description = "It is kept.")))]
pub(super) async fn snapshot(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    OrNothing(request): OrNothing<TakeSnapshot>,
) -> Answer<Created<Snapshot>> {
    let snapshot = app.services.sandboxes.snapshot(&caller.namespace, &id, request).await?;
    Ok(with_status(StatusCode::CREATED, snapshot))
}

/// Lists the snapshots of the namespace.
#[utoipa::path(get, path = "/snapshots", tag = "snapshots", operation_id = "list_snapshots",
    responses((status = 200, body = SnapshotList, description = "All of them.")))]
pub(super) async fn snapshots(State(app): State<App>, caller: Caller) -> Answer<Json<SnapshotList>> {
    Ok(Json(app.services.sandboxes.snapshots(&caller.namespace)?))
}

/// Removes a snapshot by id or name.
#[utoipa::path(delete, path = "/snapshots/{name}", tag = "snapshots", operation_id = "delete_snapshot",
    params(("name" = String, Path, description = "Id or name.")),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete_snapshot(
    State(app): State<App>,
    caller: Caller,
    NamePath(name): NamePath,
) -> Answer<StatusCode> {
    app.services.sandboxes.delete_snapshot(&caller.namespace, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What happened to a sandbox, step by step; also after it is gone.
#[utoipa::path(get, path = "/sandboxes/{id}/explain", tag = "sandboxes", operation_id = "explain_sandbox",
    params(IdPath), responses((status = 200, body = Explanation, description = "The steps.")))]
pub(super) async fn explain(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
) -> Answer<Json<Explanation>> {
    Ok(Json(app.services.sandboxes.explain(&caller.namespace, &id).await?))
}

/// What a sandbox uses.
#[utoipa::path(get, path = "/sandboxes/{id}/stats", tag = "sandboxes", operation_id = "sandbox_stats", params(IdPath),
    responses((status = 200, body = SandboxStats, description = "Now.")))]
pub(super) async fn usage(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
) -> Answer<Json<SandboxStats>> {
    Ok(Json(app.services.sandboxes.usage(&caller.namespace, &id).await?))
}
