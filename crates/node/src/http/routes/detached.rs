//! Processes that outlive the request that started them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use moat_agent::protocol::{MainState, Offsets};
use moat_api::rest::Done;
use moat_api::rest::exec::{DetachedExec, DetachedList, Exec, ExecEvent, Process, ProcessList, SignalProcess};
use moat_engine::Guest;
use moat_engine::guest::{ExecInput, Spawned};
use moat_model::spec::Signal;
use moat_model::{ErrorKind, Timestamp};

use super::exec::{Telling, events};
use super::sockets::From;
use super::{IdPath, PidPath, with_status};
use crate::http::App;
use crate::http::answer::{Answer, Failure};
use crate::http::auth::Caller;
use crate::http::body::{Asked, Json as JsonBody, PROGRESS_MAX, ProcessPath, SandboxPath};
use crate::http::files::rfc3339;
use crate::http::lines;
use crate::http::meter::RequestId;
use crate::http::presence::Presence;
use crate::http::process::{Running, Way, asked};

/// Starts a program and answers at once. Nobody need stay for it.
#[utoipa::path(post, path = "/sandboxes/{id}/execs", tag = "exec", operation_id = "start_exec", params(IdPath),
    request_body = Exec, responses((status = 201, body = DetachedExec, description = "It runs.")))]
pub(super) async fn start(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    JsonBody(exec): JsonBody<Exec>,
) -> Answer<(StatusCode, Json<DetachedExec>)> {
    let (mut spec, stdin) = asked(exec, Way::Detached)?;
    let sandboxes = &app.services.sandboxes;
    let guest = sandboxes.guest(&caller.namespace, &id).await?;
    spec.process = sandboxes.with_defaults(&caller.namespace, &id, &spec.process)?;
    let pid = guest.spawn(&spec).await?;
    if let Some(stdin) = stdin {
        feed(&*guest, pid, &stdin).await?;
    }
    let process = find(&*guest, pid).await?;
    Ok(with_status(StatusCode::CREATED, view(process)))
}

/// Gives a process its whole standard input. One that ends without reading it is no failure.
async fn feed(guest: &dyn Guest, pid: u32, stdin: &Bytes) -> Answer<()> {
    let end = Offsets { stdout: u64::MAX, stderr: u64::MAX };
    let mut running = Running::followed(guest.attach(pid, end).await?);
    running.feed_all(Some(stdin));
    let late = |_| Failure::new(ErrorKind::Deadline, "stdin: the process does not read it; `keep_stdin` lets it wait");
    let fed = async {
        while !running.fed() {
            if matches!(running.next().await, None | Some(crate::http::process::Heard::Exited { .. })) {
                return;
            }
        }
    };
    tokio::time::timeout(PROGRESS_MAX, fed).await.map_err(late)
}

/// Lists detached processes: those that run, and the last of those that ended.
#[utoipa::path(get, path = "/sandboxes/{id}/execs", tag = "exec", operation_id = "list_execs", params(IdPath),
    responses((status = 200, body = DetachedList, description = "Oldest first.")))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
) -> Answer<Json<DetachedList>> {
    let guest = app.services.sandboxes.guest(&caller.namespace, &id).await?;
    Ok(Json(DetachedList { execs: guest.spawned().await?.into_iter().map(view).collect() }))
}

/// One detached process.
#[utoipa::path(get, path = "/sandboxes/{id}/execs/{pid}", tag = "exec", operation_id = "get_exec", params(PidPath),
    responses((status = 200, body = DetachedExec, description = "As it is.")))]
pub(super) async fn get(
    State(app): State<App>,
    caller: Caller,
    ProcessPath(id, pid): ProcessPath,
) -> Answer<Json<DetachedExec>> {
    let guest = app.services.sandboxes.guest(&caller.namespace, &id).await?;
    Ok(Json(view(find(&*guest, pid).await?)))
}

/// Follows a detached process as JSON lines: kept output from an offset on, then what comes. Leaving changes nothing.
#[utoipa::path(get, path = "/sandboxes/{id}/execs/{pid}/stream", tag = "exec", operation_id = "follow_exec",
    params(PidPath, From),
    responses((status = 200, body = ExecEvent, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `exited` or `failed`.")))]
pub(in crate::http) async fn follow(
    State(app): State<App>,
    caller: Caller,
    ProcessPath(id, pid): ProcessPath,
    Asked(from): Asked<From>,
    axum::Extension(RequestId(request)): axum::Extension<RequestId>,
) -> Answer<Response> {
    let guest = app.services.sandboxes.guest(&caller.namespace, &id).await?;
    find(&*guest, pid).await?;
    let running = Running::followed(guest.attach(pid, from.offsets()).await?);
    Ok(lines::respond(events(Telling::new(running, pid, None, Presence::new(&app, &id), request), app.closing.clone())))
}

/// Signals a detached process and its group.
#[utoipa::path(post, path = "/sandboxes/{id}/execs/{pid}/signal", tag = "exec", operation_id = "signal_exec",
    params(PidPath), request_body = SignalProcess,
    responses((status = 200, body = Done, description = "It was sent.")))]
pub(super) async fn signal(
    State(app): State<App>,
    caller: Caller,
    ProcessPath(id, pid): ProcessPath,
    JsonBody(request): JsonBody<SignalProcess>,
) -> Answer<Json<Done>> {
    let signal = parsed(&request)?;
    let guest = app.services.sandboxes.guest(&caller.namespace, &id).await?;
    let process = find(&*guest, pid).await?;
    send(&*guest, &process, signal).await?;
    Ok(Json(Done { ok: true }))
}

/// Lists the processes in a sandbox.
#[utoipa::path(get, path = "/sandboxes/{id}/processes", tag = "exec", operation_id = "list_processes", params(IdPath),
    responses((status = 200, body = ProcessList, description = "All of them.")))]
pub(super) async fn processes(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
) -> Answer<Json<ProcessList>> {
    let guest = app.services.sandboxes.guest(&caller.namespace, &id).await?;
    let processes = guest.processes().await?.into_iter().map(|process| Process {
        pid: process.pid,
        ppid: process.ppid,
        uid: process.uid,
        command: process.command,
        rss_bytes: process.rss_bytes,
        cpu_usec: process.cpu_usec,
    });
    Ok(Json(ProcessList { processes: processes.collect() }))
}

/// Signals the main process, or a detached one and its group. Others are their parents' business.
#[utoipa::path(post, path = "/sandboxes/{id}/processes/{pid}/signal", tag = "exec", operation_id = "signal_process",
    params(PidPath), request_body = SignalProcess,
    responses((status = 200, body = Done, description = "It was sent.")))]
pub(super) async fn signal_process(
    State(app): State<App>,
    caller: Caller,
    ProcessPath(id, pid): ProcessPath,
    JsonBody(request): JsonBody<SignalProcess>,
) -> Answer<Json<Done>> {
    let signal = parsed(&request)?;
    let guest = app.services.sandboxes.guest(&caller.namespace, &id).await?;
    match guest.hello().await?.main {
        MainState::Running { pid: main } if main == pid => guest.signal_main(signal).await?,
        _ => send(&*guest, &find(&*guest, pid).await?, signal).await?,
    }
    Ok(Json(Done { ok: true }))
}

fn parsed(request: &SignalProcess) -> Answer<Signal> {
    Signal::parse(&request.signal).ok_or_else(|| Failure::invalid("signal", "`SIGTERM`, `term` or `15`"))
}

async fn send(guest: &dyn Guest, process: &Spawned, signal: Signal) -> Answer<()> {
    let ended = || Failure::new(ErrorKind::Conflict, "it has ended");
    if process.exit.is_some() {
        return Err(ended());
    }
    let attachment = guest.attach(process.pid, process.written).await?;
    attachment.input.send(ExecInput::Signal(signal)).await.map_err(|_| ended())?;
    Ok(())
}

/// The detached process of this id.
pub(super) async fn find(guest: &dyn Guest, pid: u32) -> Answer<Spawned> {
    let found = guest.spawned().await?.into_iter().find(|process| process.pid == pid);
    found.ok_or_else(|| Failure::not_found("no such process among those that were started detached"))
}

fn view(process: Spawned) -> DetachedExec {
    DetachedExec {
        pid: process.pid,
        command: process.command,
        started_at: rfc3339(Timestamp::from_millis(process.started_ms)),
        pty: process.pty,
        stdout_bytes: process.written.stdout,
        stderr_bytes: process.written.stderr,
        running: process.exit.is_none(),
        exit_code: process.exit.map(|exit| exit.code),
        timed_out: process.timed_out,
    }
}
