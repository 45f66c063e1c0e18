//! Allocations, wherever they run.

use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use moat_api::allocation::{AllocationVerb, Origin};
use moat_api::rest::Done;
use moat_api::rest::allocation::{
    AllocationChecks, AllocationFile, AllocationFiles, AllocationList, AllocationLogs, AllocationPath, AllocationStats,
    AllocationView, InTask, ListAllocations, RestartAllocation, SignalAllocation, StopAllocation,
};
use moat_api::rest::job::Decided;
use moat_engine::guest::{ExecOutput, ExecSession};
use moat_model::spec::Signal;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::exec::Telling;
use super::shown;
use super::sockets::{self, Held, Talk};
use crate::api_keys::Scope;
use crate::http::answer::{Answer, Failure};
use crate::http::auth::Caller;
use crate::http::body::{Asked, IdText, Json as JsonBody, OrNothing};
use crate::http::meter::RequestId;
use crate::http::presence::Presence;
use crate::http::process::Running;
use crate::http::server::Place as Seat;
use crate::http::{App, Cluster};
use crate::jobs::AllocView;
use crate::stream::reach::Place;

/// `{id}` of an allocation.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is read by the document alone")]
pub(super) struct AllocationIdPath {
    /// Its id, or the beginning of one.
    id: String,
}

async fn find(cluster: &Cluster, caller: &Caller, id: &str) -> Answer<AllocView> {
    Ok(cluster.jobs.allocation(Some(&caller.namespace), id).await?)
}

async fn place(cluster: &Cluster, caller: &Caller, id: &str) -> Answer<Place> {
    let found = find(cluster, caller, id).await?.allocation;
    Ok(Place { namespace: found.namespace, node: found.node, allocation: found.id })
}

/// Lists the allocations of the namespace, the newest first.
#[utoipa::path(get, path = "/allocations", tag = "allocations", operation_id = "list_allocations",
    params(ListAllocations), responses((status = 200, body = AllocationList, description = "All of them.")))]
pub(in crate::http) async fn list(
    State(app): State<App>,
    caller: Caller,
    Asked(query): Asked<ListAllocations>,
) -> Answer<Json<AllocationList>> {
    let mut all = app.cluster()?.jobs.allocations(Some(&caller.namespace), None).await?;
    let prefix = query.prefix.unwrap_or_default();
    all.retain(|view| view.allocation.id.as_str().starts_with(&prefix));
    if let Some(node) = query.node {
        all.retain(|view| view.allocation.node.as_str() == node);
    }
    Ok(Json(shown::allocations(all)))
}

/// One allocation.
#[utoipa::path(get, path = "/allocations/{id}", tag = "allocations", operation_id = "get_allocation",
    params(AllocationIdPath), responses((status = 200, body = AllocationView, description = "As it is.")))]
pub(in crate::http) async fn get(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
) -> Answer<Json<AllocationView>> {
    Ok(Json(shown::allocation(find(app.cluster()?, &caller, &id).await?)))
}

/// Ends an allocation. If its job wants one, another is placed.
#[utoipa::path(post, path = "/allocations/{id}/stop", tag = "allocations", operation_id = "stop_allocation",
    params(AllocationIdPath), request_body = Option<StopAllocation>,
    responses((status = 200, body = Decided, description = "It is going to stop.")))]
pub(in crate::http) async fn stop(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
    OrNothing(request): OrNothing<StopAllocation>,
) -> Answer<Json<Decided>> {
    let cluster = app.cluster()?;
    let id = find(cluster, &caller, &id).await?.allocation.id;
    let submitted = cluster.jobs.stop_allocation(&caller.namespace, &id, request.no_shutdown_delay).await?;
    Ok(Json(Decided { evaluation: submitted.evaluation }))
}

/// Restarts tasks where they are.
#[utoipa::path(post, path = "/allocations/{id}/restart", tag = "allocations", operation_id = "restart_allocation",
    params(AllocationIdPath), request_body = Option<RestartAllocation>,
    responses((status = 200, body = Done, description = "They are going to restart.")))]
pub(in crate::http) async fn restart(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
    OrNothing(request): OrNothing<RestartAllocation>,
) -> Answer<Json<Done>> {
    let cluster = app.cluster()?;
    let place = place(cluster, &caller, &id).await?;
    Ok(Json(cluster.reach.ask(&place, AllocationVerb::Restart { task: request.task }).await?))
}

/// Sends tasks a signal.
#[utoipa::path(post, path = "/allocations/{id}/signal", tag = "allocations", operation_id = "signal_allocation",
    params(AllocationIdPath), request_body = SignalAllocation,
    responses((status = 200, body = Done, description = "It is sent.")))]
pub(in crate::http) async fn signal(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
    JsonBody(request): JsonBody<SignalAllocation>,
) -> Answer<Json<Done>> {
    let signal = Signal::parse(&request.signal);
    let signal = signal.ok_or_else(|| Failure::invalid("signal", "`SIGTERM`, `term` or `15`"))?;
    let cluster = app.cluster()?;
    let place = place(cluster, &caller, &id).await?;
    Ok(Json(cluster.reach.ask(&place, AllocationVerb::Signal { task: request.task, signal }).await?))
}

/// What an allocation uses.
#[utoipa::path(get, path = "/allocations/{id}/stats", tag = "allocations", operation_id = "allocation_stats",
    params(AllocationIdPath), responses((status = 200, body = AllocationStats, description = "Now, by task.")))]
pub(in crate::http) async fn stats(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
) -> Answer<Json<AllocationStats>> {
    let cluster = app.cluster()?;
    let place = place(cluster, &caller, &id).await?;
    Ok(Json(cluster.reach.ask(&place, AllocationVerb::Stats).await?))
}

/// How the checks of an allocation go.
#[utoipa::path(get, path = "/allocations/{id}/checks", tag = "allocations", operation_id = "allocation_checks",
    params(AllocationIdPath), responses((status = 200, body = AllocationChecks, description = "By check.")))]
pub(in crate::http) async fn checks(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
) -> Answer<Json<AllocationChecks>> {
    let status = find(app.cluster()?, &caller, &id).await?.status;
    Ok(Json(AllocationChecks { checks: status.map(|status| status.checks).unwrap_or_default() }))
}

/// What a directory of an allocation holds.
#[utoipa::path(get, path = "/allocations/{id}/fs/ls", tag = "allocations", operation_id = "list_allocation_files",
    params(AllocationIdPath, AllocationPath),
    responses((status = 200, body = AllocationFiles, description = "By name.")))]
pub(in crate::http) async fn list_files(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
    Asked(query): Asked<AllocationPath>,
) -> Answer<Json<AllocationFiles>> {
    let cluster = app.cluster()?;
    let place = place(cluster, &caller, &id).await?;
    let path = query.path.unwrap_or_else(|| "/".to_owned());
    Ok(Json(cluster.reach.ask(&place, AllocationVerb::List { path }).await?))
}

/// What is at a path of an allocation.
#[utoipa::path(get, path = "/allocations/{id}/fs/stat", tag = "allocations", operation_id = "stat_allocation_file",
    params(AllocationIdPath, AllocationPath), responses((status = 200, body = AllocationFile, description = "As it is.")))]
pub(in crate::http) async fn stat_file(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
    Asked(query): Asked<AllocationPath>,
) -> Answer<Json<AllocationFile>> {
    let cluster = app.cluster()?;
    let place = place(cluster, &caller, &id).await?;
    let path = query.path.unwrap_or_else(|| "/".to_owned());
    Ok(Json(cluster.reach.ask(&place, AllocationVerb::Stat { path }).await?))
}

fn origin(offset: Option<u64>, lines: Option<u32>, bytes: Option<u64>) -> Answer<Origin> {
    match (offset, lines, bytes) {
        (offset, None, None) => Ok(Origin::Start(offset.unwrap_or(0))),
        (None, Some(lines), None) => Ok(Origin::Lines(u64::from(lines))),
        (None, None, Some(bytes)) => Ok(Origin::End(bytes)),
        _ => Err(Failure::invalid("tail_bytes", "give one of it, `tail_lines` and `offset`")),
    }
}

/// Content of a file of an allocation.
#[utoipa::path(get, path = "/allocations/{id}/fs/cat", tag = "allocations", operation_id = "read_allocation_file",
    params(AllocationIdPath, AllocationPath),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream", description = "Bytes.")))]
pub(in crate::http) async fn read_file(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
    Asked(query): Asked<AllocationPath>,
) -> Answer<Response> {
    let from = origin(query.offset, query.tail_lines, query.tail_bytes)?;
    let path =
        query.path.ok_or_else(|| Failure::invalid("path", "which file? Relative to the allocation's directory"))?;
    let (limit, follow) = (query.length, query.follow.unwrap_or(false));
    let cluster = app.cluster()?;
    let place = place(cluster, &caller, &id).await?;
    let verb = |stream| AllocationVerb::Read { path, from, limit, follow, stream };
    let session = cluster.reach.stream(&place, verb).await?;
    Ok(bytes_of(session, app.closing.clone(), "application/octet-stream"))
}

/// What a task of an allocation wrote; also after its end, as long as the allocation is kept.
#[utoipa::path(get, path = "/allocations/{id}/logs", tag = "allocations", operation_id = "allocation_logs",
    params(AllocationIdPath, AllocationLogs),
    responses((status = 200, body = String, content_type = "text/plain; charset=utf-8", description = "As written.")))]
pub(in crate::http) async fn logs(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
    Asked(query): Asked<AllocationLogs>,
) -> Answer<Response> {
    let from = origin(None, query.tail_lines, query.tail_bytes)?;
    let (stderr, follow) = (query.stderr.unwrap_or(false), query.follow.unwrap_or(false));
    let cluster = app.cluster()?;
    let place = place(cluster, &caller, &id).await?;
    let verb = |stream| AllocationVerb::Logs { task: query.task, stderr, from, follow, stream };
    let session = cluster.reach.stream(&place, verb).await?;
    Ok(bytes_of(session, app.closing.clone(), "text/plain; charset=utf-8"))
}

/// The output of a session as a body. One that ends without an exit breaks the body off.
fn bytes_of(session: ExecSession, closing: CancellationToken, kind: &'static str) -> Response {
    let stream = futures::stream::unfold(Some((session, closing)), |state| async move {
        let (mut session, closing) = state?;
        match closing.run_until_cancelled(session.output.recv()).await? {
            Some(ExecOutput::Data(_, bytes)) => Some((Ok::<Bytes, std::io::Error>(bytes), Some((session, closing)))),
            Some(ExecOutput::Exited { .. }) => None,
            None => Some((Err(std::io::Error::other("the node that has it was lost")), None)),
        }
    });
    ([(CONTENT_TYPE, kind)], Body::from_stream(stream)).into_response()
}

/// Runs a program beside a task, over a WebSocket as with sandboxes. The first text message is `start`.
#[utoipa::path(get, path = "/allocations/{id}/exec", tag = "allocations", operation_id = "exec_in_allocation",
    params(AllocationIdPath, InTask), responses((status = 101, description = "A WebSocket.")))]
pub(in crate::http) async fn exec(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
    Asked(query): Asked<InTask>,
    axum::Extension(RequestId(request)): axum::Extension<RequestId>,
    seat: Option<axum::Extension<Seat>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer<Response> {
    // Whether it is there and theirs is told by a status, while that can still be told.
    let place = place(app.cluster()?, &caller, &id).await?;
    let upgrade = sockets::ready(upgrade)?;
    let bare_host = caller.scope == Scope::Admin;
    let held = Held::new(seat);
    let sockets = app.sockets.clone();
    Ok(upgrade.on_upgrade(move |socket| {
        sockets.track_future(async move {
            attend(socket, &app, &place, query.task, bare_host, &request).await;
            drop(held);
        })
    }))
}

async fn attend(mut socket: WebSocket, app: &App, place: &Place, task: Option<String>, bare_host: bool, request: &str) {
    let begun = match app.closing.run_until_cancelled(begin(&mut socket, app, place, task, bare_host, request)).await {
        None => Err(Failure::closing()),
        Some(begun) => begun,
    };
    match begun {
        Ok((telling, pty)) => Talk::new(socket, telling, pty).carry(app).await,
        Err(failure) => sockets::refuse(socket, &failure, request).await,
    }
}

async fn begin(
    socket: &mut WebSocket,
    app: &App,
    place: &Place,
    task: Option<String>,
    bare_host: bool,
    request: &str,
) -> Answer<(Telling, bool)> {
    let (spec, stdin) = sockets::first(socket).await?;
    let started = Instant::now();
    let pty = spec.pty.is_some();
    let verb = |stream| AllocationVerb::Exec { task, spec, bare_host, stream };
    let session = app.cluster()?.reach.stream(place, verb).await?;
    let pid = session.pid;
    let running = Running::started(session, stdin.as_ref());
    Ok((Telling::new(running, pid, Some(started), Presence::of_task(), request.to_owned()), pty))
}
