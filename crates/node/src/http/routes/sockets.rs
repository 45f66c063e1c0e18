//! WebSockets to processes. Text messages are JSON: `ExecControl` from the client, `ExecEvent` to it. Binary messages
//! are standard input to the process, and what a terminal shows from it.

use std::time::Instant;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::Bytes;
use moat_agent::protocol::Offsets;
use moat_api::rest::exec::{Exec, ExecControl, ExecEvent, PtySize};
use moat_engine::guest::ExecInput;
use moat_model::spec::{ExecSpec, PtySize as Size, Signal};
use moat_model::{ErrorKind, Namespace, SandboxId};
use serde::Deserialize;
use utoipa::IntoParams;

use super::exec::Telling;
use super::{IdPath, PidPath};
use crate::http::App;
use crate::http::answer::{Answer, Failure};
use crate::http::auth::Caller;
use crate::http::body::{Asked, JSON_BYTES_MAX, PROGRESS_MAX, ProcessPath, SandboxPath};
use crate::http::lines::QUIET_MAX;
use crate::http::meter::RequestId;
use crate::http::presence::Presence;
use crate::http::process::{Heard, Running, Way, asked};
use crate::http::server::Place;

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// Runs a program over a WebSocket. The first text message is `start`.
#[utoipa::path(get, path = "/sandboxes/{id}/exec/ws", tag = "exec", operation_id = "exec_socket", params(IdPath),
    responses((status = 101, description = "A WebSocket.")))]
pub(in crate::http) async fn exec_ws(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    axum::Extension(RequestId(request)): axum::Extension<RequestId>,
    place: Option<axum::Extension<Place>>,
    upgrade: Upgrade,
) -> Answer<Response> {
    // Whether it is there and theirs is told by a status, while that can still be told.
    app.services.sandboxes.get(&caller.namespace, &id)?;
    let upgrade = ready(upgrade)?;
    let place = Held::new(place);
    let sockets = app.sockets.clone();
    Ok(upgrade.on_upgrade(move |socket| {
        sockets.track_future(started_by_client(socket, app, caller.namespace, id, request, place))
    }))
}

/// What a terminal runs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct TerminalQuery {
    /// Program; absent: `/bin/sh`.
    #[serde(default)]
    cmd: Option<String>,
    /// User; absent: the sandbox's.
    #[serde(default)]
    user: Option<String>,
    /// Working directory; absent: the sandbox's.
    #[serde(default)]
    cwd: Option<String>,
    /// Lines; 24 if absent.
    #[serde(default)]
    rows: Option<u16>,
    /// Columns; 80 if absent.
    #[serde(default)]
    cols: Option<u16>,
}

/// A shell on a terminal, over a WebSocket.
#[utoipa::path(get, path = "/sandboxes/{id}/terminal", tag = "exec", operation_id = "terminal",
    params(IdPath, TerminalQuery), responses((status = 101, description = "A WebSocket.")))]
pub(in crate::http) async fn terminal(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Asked(query): Asked<TerminalQuery>,
    axum::Extension(RequestId(request)): axum::Extension<RequestId>,
    place: Option<axum::Extension<Place>>,
    upgrade: Upgrade,
) -> Answer<Response> {
    let exec = Exec {
        command: query.cmd.unwrap_or_else(|| "/bin/sh".to_owned()),
        env: [("TERM".to_owned(), "xterm-256color".to_owned())].into(),
        cwd: query.cwd,
        user: query.user,
        pty: Some(PtySize { rows: query.rows.unwrap_or(24), cols: query.cols.unwrap_or(80) }),
        ..Exec::default()
    };
    let (spec, _) = asked(exec, Way::Socket)?;
    app.services.sandboxes.get(&caller.namespace, &id)?;
    let upgrade = ready(upgrade)?;
    let started = Instant::now();
    let session = app.services.sandboxes.exec(&caller.namespace, &id, &spec).await?;
    let pid = session.pid;
    let telling = Telling::new(Running::started(session, None), pid, Some(started), Presence::new(&app, &id), request);
    Ok(carried(upgrade, app, telling, true, place))
}

/// Where to go on.
#[derive(Debug, Clone, Copy, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    /// First byte of standard output; 0 if absent.
    #[serde(default)]
    stdout: Option<u64>,
    /// First byte of standard error; 0 if absent.
    #[serde(default)]
    stderr: Option<u64>,
}

impl From {
    pub fn offsets(self) -> Offsets {
        Offsets { stdout: self.stdout.unwrap_or(0), stderr: self.stderr.unwrap_or(0) }
    }
}

/// Follows a detached process over a WebSocket, and feeds it.
#[utoipa::path(get, path = "/sandboxes/{id}/execs/{pid}/ws", tag = "exec", operation_id = "attach_socket",
    params(PidPath, From), responses((status = 101, description = "A WebSocket.")))]
pub(in crate::http) async fn attach_ws(
    State(app): State<App>,
    caller: Caller,
    ProcessPath(id, pid): ProcessPath,
    Asked(from): Asked<From>,
    axum::Extension(RequestId(request)): axum::Extension<RequestId>,
    place: Option<axum::Extension<Place>>,
    upgrade: Upgrade,
) -> Answer<Response> {
    let guest = app.services.sandboxes.guest(&caller.namespace, &id).await?;
    let process = super::detached::find(&*guest, pid).await?;
    let upgrade = ready(upgrade)?;
    let attachment = guest.attach(pid, from.offsets()).await?;
    let telling = Telling::new(Running::followed(attachment), pid, None, Presence::new(&app, &id), request);
    Ok(carried(upgrade, app, telling, process.pty, place))
}

/// A connection's place, held as long as the socket lives.
pub(super) struct Held {
    _place: Option<axum::Extension<Place>>,
}

impl Held {
    pub fn new(place: Option<axum::Extension<Place>>) -> Self {
        Self { _place: place }
    }
}

pub(super) fn ready(upgrade: Upgrade) -> Answer<WebSocketUpgrade> {
    let upgrade =
        upgrade.map_err(|why| Failure::new(ErrorKind::InvalidSpec, format!("a WebSocket: {}", why.body_text())))?;
    Ok(upgrade.max_message_size(JSON_BYTES_MAX).max_frame_size(JSON_BYTES_MAX))
}

fn carried(
    upgrade: WebSocketUpgrade,
    app: App,
    telling: Telling,
    pty: bool,
    place: Option<axum::Extension<Place>>,
) -> Response {
    let (place, sockets) = (Held::new(place), app.sockets.clone());
    upgrade.on_upgrade(move |socket| {
        sockets.track_future(async move {
            Talk { socket, telling, pty }.carry(&app).await;
            drop(place);
        })
    })
}

async fn started_by_client(
    mut socket: WebSocket,
    app: App,
    namespace: Namespace,
    id: SandboxId,
    request: String,
    place: Held,
) {
    let begun = match app.closing.run_until_cancelled(begin(&mut socket, &app, &namespace, &id, &request)).await {
        None => Err(Failure::closing()),
        Some(begun) => begun,
    };
    match begun {
        Ok((telling, pty)) => Talk { socket, telling, pty }.carry(&app).await,
        Err(failure) => refuse(socket, &failure, &request).await,
    }
    drop(place);
}

/// Says why there will be nothing, and hangs up.
pub(super) async fn refuse(mut socket: WebSocket, failure: &Failure, request: &str) {
    let event = ExecEvent::Failed { error: failure.body(request) };
    // A client that is gone cannot be told.
    let _ = socket.send(text(&event)).await;
    let _ = socket.send(Message::Close(None)).await;
}

async fn begin(
    socket: &mut WebSocket,
    app: &App,
    namespace: &Namespace,
    id: &SandboxId,
    request: &str,
) -> Answer<(Telling, bool)> {
    let (spec, stdin) = first(socket).await?;
    let pty = spec.pty.is_some();
    let started = Instant::now();
    let session = app.services.sandboxes.exec(namespace, id, &spec).await?;
    let pid = session.pid;
    let running = Running::started(session, stdin.as_ref());
    Ok((Telling::new(running, pid, Some(started), Presence::new(app, id), request.to_owned()), pty))
}

/// The first message: what is to be run, and what it reads at once.
pub(super) async fn first(socket: &mut WebSocket) -> Answer<(ExecSpec, Option<Bytes>)> {
    let first = tokio::time::timeout(PROGRESS_MAX, socket.recv()).await;
    let Ok(Some(Ok(Message::Text(first)))) = first else {
        return Err(Failure::new(ErrorKind::InvalidSpec, "the first message is a text message: `start`"));
    };
    let ExecControl::Start { exec } = control(&first)? else {
        return Err(Failure::new(ErrorKind::InvalidSpec, "the first message is `start`"));
    };
    asked(exec, Way::Socket)
}

fn control(message: &str) -> Answer<ExecControl> {
    serde_json::from_str(message).map_err(|error| Failure::new(ErrorKind::InvalidSpec, format!("message: {error}")))
}

fn text(event: &ExecEvent) -> Message {
    Message::Text(serde_json::to_string(event).unwrap_or_default().into())
}

/// A socket and the process at its other end.
pub(super) struct Talk {
    socket: WebSocket,
    telling: Telling,
    /// Output goes out as it is.
    pty: bool,
}

impl Talk {
    pub fn new(socket: WebSocket, telling: Telling, pty: bool) -> Self {
        Self { socket, telling, pty }
    }

    /// Carries both ways until one of them ends. Dropping the process hangs up, or leaves it, as it was started.
    pub async fn carry(mut self, app: &App) {
        while self.tell().await.is_ok() {
            if self.telling.ended {
                let _ = self.socket.send(Message::Close(None)).await;
                return;
            }
            let room = self.telling.running.has_room();
            tokio::select! {
                heard = self.telling.running.next() => {
                    self.telling.presence.note();
                    if self.heard(heard).await.is_err() {
                        return;
                    }
                }
                message = self.socket.recv(), if room => match message {
                    Some(Ok(message)) => {
                        if let Err(failure) = self.take(message) {
                            self.telling.fail(&failure);
                        }
                    }
                    Some(Err(_)) | None => return,
                },
                () = app.closing.cancelled() => self.telling.fail(&Failure::closing()),
                () = self.telling.presence.keep(QUIET_MAX) => {
                    if self.socket.send(Message::Ping(Bytes::new())).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn heard(&mut self, heard: Option<Heard>) -> Result<(), axum::Error> {
        match heard {
            Some(Heard::Data { bytes, .. }) if self.pty => self.socket.send(Message::Binary(bytes)).await,
            heard => {
                self.telling.heard(heard);
                Ok(())
            }
        }
    }

    /// Sends the events there are.
    async fn tell(&mut self) -> Result<(), axum::Error> {
        while let Some(event) = self.telling.events.pop_front() {
            self.socket.send(text(&event)).await?;
        }
        Ok(())
    }

    fn take(&mut self, message: Message) -> Answer<()> {
        let running = &mut self.telling.running;
        match message {
            Message::Binary(bytes) => running.feed(&bytes),
            Message::Text(message) => match control(&message)? {
                ExecControl::Start { .. } => {
                    return Err(Failure::new(ErrorKind::Conflict, "`start` comes first, and once"));
                }
                ExecControl::Stdin { text } => running.feed(&Bytes::from(text)),
                ExecControl::CloseStdin => running.send(ExecInput::CloseStdin),
                ExecControl::Resize { rows, cols } => running.send(ExecInput::Resize(Size { rows, cols })),
                ExecControl::Signal { signal } => {
                    let signal = Signal::parse(&signal)
                        .ok_or_else(|| Failure::invalid("signal", "`SIGTERM`, `term` or `15`"))?;
                    running.send(ExecInput::Signal(signal));
                }
            },
            // The client's pings are answered by the socket; its close ends the stream after this.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => {}
        }
        Ok(())
    }
}
