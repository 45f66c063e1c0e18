//! What is done to a jail and may take long.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use moat_api::rest::Nothing;
use moat_model::jail::{ApplyTemplate, CloneJail, JailEvent, NewJail, StopJail, TakeJailSnapshot, UpgradeJail};

use super::work::{Work, jail, other};
use super::{JailParam, JailPath, SnapshotParam, SnapshotPath};
use crate::http::App;
use crate::http::answer::Answer;
use crate::http::auth::Caller;
use crate::http::body::{Json as JsonBody, OrNothing};
use crate::http::meter::RequestId;

/// Makes a jail, and starts it unless `start` says otherwise. After a failure nothing of it is left.
#[utoipa::path(post, path = "/jails", tag = "jails", operation_id = "create_jail", request_body = Value,
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the jail, or `failed`.")))]
pub(in crate::http) async fn create(
    State(app): State<App>,
    caller: Caller,
    Extension(id): Extension<RequestId>,
    JsonBody(request): JsonBody<NewJail>,
) -> Answer<Response> {
    let jails = app.jails()?.clone();
    Work::respond(&app, id, |events| async move { jails.create(&caller.namespace, request, events).await.map(jail) })
        .await
}

/// Starts a jail, and before it those it depends on.
#[utoipa::path(post, path = "/jails/{name}/start", tag = "jails", operation_id = "start_jail", params(JailParam),
    request_body = Option<Nothing>,
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the jail, or `failed`.")))]
pub(in crate::http) async fn start(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    Extension(id): Extension<RequestId>,
    OrNothing(Nothing {}): OrNothing<Nothing>,
) -> Answer<Response> {
    let jails = app.jails()?.clone();
    Work::respond(&app, id, |events| async move { jails.start(&caller.namespace, &name, events).await.map(jail) }).await
}

/// Stops a jail, and before it those that depend on it.
#[utoipa::path(post, path = "/jails/{name}/stop", tag = "jails", operation_id = "stop_jail", params(JailParam),
    request_body = Option<Value>,
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the jail, or `failed`.")))]
pub(in crate::http) async fn stop(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    Extension(id): Extension<RequestId>,
    OrNothing(how): OrNothing<StopJail>,
) -> Answer<Response> {
    let jails = app.jails()?.clone();
    Work::respond(&app, id, |events| async move { jails.stop(&caller.namespace, &name, how, events).await.map(jail) })
        .await
}

/// Stops and starts a jail.
#[utoipa::path(post, path = "/jails/{name}/restart", tag = "jails", operation_id = "restart_jail", params(JailParam),
    request_body = Option<Nothing>,
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the jail, or `failed`.")))]
pub(in crate::http) async fn restart(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    Extension(id): Extension<RequestId>,
    OrNothing(Nothing {}): OrNothing<Nothing>,
) -> Answer<Response> {
    let jails = app.jails()?.clone();
    Work::respond(&app, id, |events| async move { jails.restart(&caller.namespace, &name, events).await.map(jail) })
        .await
}

/// Makes another jail of a jail's files, whether it is up or down.
#[utoipa::path(post, path = "/jails/{name}/clone", tag = "jails", operation_id = "clone_jail", params(JailParam),
    request_body = Value,
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the new jail, or `failed`.")))]
pub(in crate::http) async fn clone(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    Extension(id): Extension<RequestId>,
    JsonBody(request): JsonBody<CloneJail>,
) -> Answer<Response> {
    let jails = app.jails()?.clone();
    let work = |events| async move { jails.clone_jail(&caller.namespace, &name, request, events).await.map(jail) };
    Work::respond(&app, id, work).await
}

/// Makes a jail that is down thick: with a copy of everything of its own.
#[utoipa::path(post, path = "/jails/{name}/convert", tag = "jails", operation_id = "convert_jail", params(JailParam),
    request_body = Option<Nothing>,
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the jail, or `failed`.")))]
pub(in crate::http) async fn convert(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    Extension(id): Extension<RequestId>,
    OrNothing(Nothing {}): OrNothing<Nothing>,
) -> Answer<Response> {
    let jails = app.jails()?.clone();
    Work::respond(&app, id, |events| async move { jails.convert(&caller.namespace, &name, events).await.map(jail) })
        .await
}

/// Puts a jail that is down on another release.
#[utoipa::path(post, path = "/jails/{name}/upgrade", tag = "jails", operation_id = "upgrade_jail", params(JailParam),
    request_body = Value,
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the jail, or `failed`.")))]
pub(in crate::http) async fn upgrade(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    Extension(id): Extension<RequestId>,
    JsonBody(request): JsonBody<UpgradeJail>,
) -> Answer<Response> {
    let jails = app.jails()?.clone();
    let work = |events| async move { jails.upgrade(&caller.namespace, &name, request.release, events).await.map(jail) };
    Work::respond(&app, id, work).await
}

/// Applies a template to a jail, step by step, or says what its steps would be. A client that goes away ends it before the
/// next step.
#[utoipa::path(post, path = "/jails/{name}/template", tag = "jails", operation_id = "apply_template", params(JailParam),
    request_body = Value,
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the steps, or `failed`.")))]
pub(in crate::http) async fn template(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    Extension(id): Extension<RequestId>,
    JsonBody(request): JsonBody<ApplyTemplate>,
) -> Answer<Response> {
    let jails = app.jails()?.clone();
    let work = |events| async move {
        let applied = jails.apply(&caller.namespace, &name, request, events).await?;
        Ok(JailEvent::Done { jail: None, applied: Some(applied), result: None })
    };
    Work::respond(&app, id, work).await
}

/// Keeps a jail's files as they are, whether it is up or down.
#[utoipa::path(post, path = "/jails/{name}/snapshots", tag = "jails", operation_id = "snapshot_jail", params(JailParam),
    request_body = Option<Value>,
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the snapshot, or `failed`.")))]
pub(in crate::http) async fn snapshot(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    Extension(id): Extension<RequestId>,
    OrNothing(request): OrNothing<TakeJailSnapshot>,
) -> Answer<Response> {
    let jails = app.jails()?.clone();
    let work = |events| async move {
        let taken = jails.snapshot(&caller.namespace, &name, request.tag, events).await?;
        Ok(other(&taken))
    };
    Work::respond(&app, id, work).await
}

/// Makes the files of a jail that is down what they were.
#[utoipa::path(post, path = "/jails/{name}/snapshots/{tag}/rollback", tag = "jails", operation_id = "roll_jail_back",
    params(SnapshotParam), request_body = Option<Nothing>,
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the jail, or `failed`.")))]
pub(in crate::http) async fn rollback(
    State(app): State<App>,
    caller: Caller,
    SnapshotPath(name, tag): SnapshotPath,
    Extension(id): Extension<RequestId>,
    OrNothing(Nothing {}): OrNothing<Nothing>,
) -> Answer<Response> {
    let jails = app.jails()?.clone();
    let work = |events| async move { jails.rollback(&caller.namespace, &name, Some(tag), events).await.map(jail) };
    Work::respond(&app, id, work).await
}
