//! Programs in a sandbox: one answer at the end, or lines as it goes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use data_encoding::BASE64;
use futures::Stream;
use moat_agent::protocol::StreamName;
use moat_api::rest::exec::{Exec, ExecEvent, ExecResult, MAX_OUTPUT_DEFAULT, MAX_OUTPUT_MAX};
use moat_model::{ErrorKind, Exit};
use tokio_util::sync::CancellationToken;

use super::IdPath;
use crate::http::App;
use crate::http::answer::{Answer, Failure};
use crate::http::auth::Caller;
use crate::http::body::{Json as JsonBody, SandboxPath};
use crate::http::lines::{self, QUIET_MAX};
use crate::http::meter::RequestId;
use crate::http::presence::Presence;
use crate::http::process::{Heard, Running, Way, asked};
use crate::http::transcript::Transcript;

/// Runs a program and answers when it has ended. A client that goes away ends it.
#[utoipa::path(post, path = "/sandboxes/{id}/exec", tag = "exec", operation_id = "exec", params(IdPath),
    request_body = Exec, responses((status = 200, body = ExecResult, description = "It ran, well or not.")))]
pub(in crate::http) async fn exec(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    JsonBody(exec): JsonBody<Exec>,
) -> Answer<Json<ExecResult>> {
    let limit = exec.max_output.unwrap_or(MAX_OUTPUT_DEFAULT);
    if limit > MAX_OUTPUT_MAX {
        return Err(Failure::invalid("max_output", format!("at most {MAX_OUTPUT_MAX}; a stream has no limit")));
    }
    let (spec, stdin) = asked(exec, Way::Buffered)?;
    let started = Instant::now();
    let session = app.services.sandboxes.exec(&caller.namespace, &id, &spec).await?;
    let mut running = Running::started(session, stdin.as_ref());
    let presence = Presence::new(&app, &id);
    let collected = app.closing.run_until_cancelled(collect(&mut running, &presence, limit)).await;
    let (stdout, stderr, exit, timed_out) = collected.ok_or_else(Failure::closing)??;
    Ok(Json(result(stdout, stderr, exit, timed_out, started.elapsed())))
}

/// What is kept of one stream.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    written: u64,
}

impl Kept {
    fn take(&mut self, bytes: &[u8], limit: u64) {
        self.written += bytes.len() as u64;
        let room = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }

    fn cut(&self) -> bool {
        self.written > self.bytes.len() as u64
    }

    /// As text, and whole if that is not what it is.
    fn into_text(self) -> (String, Option<String>) {
        match String::from_utf8(self.bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let bytes = error.into_bytes();
                (String::from_utf8_lossy(&bytes).into_owned(), Some(BASE64.encode(&bytes)))
            }
        }
    }
}

async fn collect(running: &mut Running, presence: &Presence, limit: u64) -> Answer<(Kept, Kept, Exit, bool)> {
    let (mut stdout, mut stderr) = (Kept::default(), Kept::default());
    loop {
        let heard = tokio::select! {
            heard = running.next() => heard,
            () = presence.keep(QUIET_MAX) => continue,
        };
        match heard {
            Some(Heard::Data { stream: StreamName::Stdout, bytes, .. }) => stdout.take(&bytes, limit),
            Some(Heard::Data { stream: StreamName::Stderr, bytes, .. }) => stderr.take(&bytes, limit),
            Some(Heard::Skipped { .. }) => {}
            Some(Heard::Exited { exit, timed_out }) => return Ok((stdout, stderr, exit, timed_out)),
            None => return Err(lost()),
        }
    }
}

fn result(stdout: Kept, stderr: Kept, exit: Exit, timed_out: bool, took: Duration) -> ExecResult {
    let (stdout_bytes, stderr_bytes) = (stdout.written, stderr.written);
    let truncated = stdout.cut() || stderr.cut();
    let ((stdout, stdout_base64), (stderr, stderr_base64)) = (stdout.into_text(), stderr.into_text());
    let (exit_code, signal, duration_ms) = (exit.code, exit.signal, milliseconds(took));
    ExecResult {
        exit_code,
        signal,
        stdout,
        stderr,
        stdout_base64,
        stderr_base64,
        duration_ms,
        timed_out,
        truncated,
        stdout_bytes,
        stderr_bytes,
    }
}

/// Runs a program and tells what it writes as JSON lines. A client that goes away ends it.
#[utoipa::path(post, path = "/sandboxes/{id}/exec/stream", tag = "exec", operation_id = "exec_stream", params(IdPath),
    request_body = Exec,
    responses((status = 200, body = ExecEvent, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `exited` or `failed`.")))]
pub(in crate::http) async fn exec_stream(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    axum::Extension(RequestId(request)): axum::Extension<RequestId>,
    JsonBody(exec): JsonBody<Exec>,
) -> Answer<Response> {
    let (spec, stdin) = asked(exec, Way::Lines)?;
    let started = Instant::now();
    let session = app.services.sandboxes.exec(&caller.namespace, &id, &spec).await?;
    let pid = session.pid;
    let running = Running::started(session, stdin.as_ref());
    Ok(lines::respond(events(
        Telling::new(running, pid, Some(started), Presence::new(&app, &id), request),
        app.closing.clone(),
    )))
}

/// A process whose life is being told.
#[derive(Debug)]
pub(super) struct Telling {
    pub running: Running,
    started: Option<Instant>,
    pub presence: Presence,
    request: String,
    transcript: Transcript,
    pub events: VecDeque<ExecEvent>,
    pub ended: bool,
}

impl Telling {
    pub fn new(running: Running, pid: u32, started: Option<Instant>, presence: Presence, request: String) -> Self {
        let events = VecDeque::from([ExecEvent::Started { pid }]);
        Self { running, started, presence, request, transcript: Transcript::default(), events, ended: false }
    }

    /// Makes events of what was heard.
    pub fn heard(&mut self, heard: Option<Heard>) {
        match heard {
            Some(Heard::Data { stream, offset, bytes }) => {
                self.transcript.take(stream, offset, bytes, &mut self.events);
            }
            Some(Heard::Skipped { stream, to }) => {
                let stream = match stream {
                    StreamName::Stdout => "stdout",
                    StreamName::Stderr => "stderr",
                };
                self.events.push_back(ExecEvent::Skipped { stream: stream.to_owned(), to });
            }
            Some(Heard::Exited { exit, timed_out }) => self.exited(exit, timed_out),
            None => self.fail(&lost()),
        }
    }

    fn exited(&mut self, exit: Exit, timed_out: bool) {
        self.transcript.end(&mut self.events);
        let duration_ms = self.started.map(|started| milliseconds(started.elapsed()));
        let (exit_code, signal) = (exit.code, exit.signal);
        self.events.push_back(ExecEvent::Exited { exit_code, signal, timed_out, duration_ms });
        self.ended = true;
    }

    pub fn fail(&mut self, failure: &Failure) {
        self.transcript.end(&mut self.events);
        self.events.push_back(ExecEvent::Failed { error: failure.body(&self.request) });
        self.ended = true;
    }

    /// The next event, with a sign of life in a long silence.
    async fn next(&mut self, closing: &CancellationToken) -> Option<ExecEvent> {
        while self.events.is_empty() && !self.ended {
            tokio::select! {
                heard = self.running.next() => {
                    self.presence.note();
                    self.heard(heard);
                }
                () = closing.cancelled() => self.fail(&Failure::closing()),
                () = self.presence.keep(QUIET_MAX) => self.events.push_back(ExecEvent::Keepalive),
            }
        }
        self.events.pop_front()
    }
}

/// The whole telling; dropping it drops the process.
pub(super) fn events(telling: Telling, closing: CancellationToken) -> impl Stream<Item = ExecEvent> + Send {
    futures::stream::unfold((telling, closing), |(mut telling, closing)| async move {
        let event = telling.next(&closing).await?;
        Some((event, (telling, closing)))
    })
}

fn lost() -> Failure {
    Failure::new(ErrorKind::Unavailable, "the process was lost: its sandbox ended, or its agent did")
}

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
