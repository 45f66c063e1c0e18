//! Checks of services: what is tried, how it went, and when a failing one restarts its task.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use moat_engine::guest::{Channel, ExecOutput};
use moat_model::job::allocation::{CheckResult, PortMapping};
use moat_model::job::{Check, CheckKind, ServiceSpec, Task, TaskDriver, TaskGroup};
use moat_model::spec::ExecSpec;
use moat_model::{ProcessSpec, SandboxId, Timestamp};
use tokio::net::TcpStream;

use super::ground::{Ground, owners};
use crate::clock;

/// Bytes of an answer that are kept.
pub(super) const OUTPUT_MAX: usize = 3 << 10;

/// One check of an allocation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    /// `service/check`.
    pub name: String,
    /// The task it is about.
    pub task: String,
    pub check: Check,
    /// Label, or number, of the port that is tried.
    pub port: Option<String>,
}

/// All checks of a group.
pub(super) fn planned(group: &TaskGroup) -> Vec<Planned> {
    let owners = owners(group).unwrap_or_default();
    let mains = || group.tasks.iter().find(|task| task.lifecycle.is_none());
    let mut all = Vec::new();
    let mut add = |service: &ServiceSpec, task: Option<&str>| {
        let of_port = service.port.as_ref().and_then(|label| owners.get(label)).map(String::as_str);
        let task = task.or(service.task.as_deref()).or(of_port).or_else(|| mains().map(|t| t.name.as_str()));
        for check in &service.checks {
            all.push(Planned {
                name: format!("{}/{}", service.name, check.name),
                task: task.unwrap_or_default().to_owned(),
                check: check.clone(),
                port: check.port.clone().or_else(|| service.port.clone()),
            });
        }
    };
    for service in &group.services {
        add(service, None);
    }
    for task in &group.tasks {
        for service in &task.services {
            add(service, Some(&task.name));
        }
    }
    all
}

/// Counts failures in a row since a start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counter {
    failures: u32,
}

impl Counter {
    /// Takes a result; whether the task is to be restarted for it.
    pub(super) fn take(&mut self, check: &Check, passed: bool, started: Timestamp, now: Timestamp) -> bool {
        let Some(rule) = check.restart else { return false };
        if passed || now < started.plus(rule.grace) {
            self.failures = 0;
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        if rule.limit == 0 || self.failures < rule.limit {
            return false;
        }
        self.failures = 0;
        true
    }
}

/// Tries once.
pub(super) async fn attempt(ground: &Ground, planned: &Planned, sandbox: &SandboxId) -> CheckResult {
    let tried = tokio::time::timeout(planned.check.timeout, one(ground, planned, sandbox)).await;
    let (passed, output) = match tried {
        Ok(Ok(output)) => (true, output),
        Ok(Err(output)) => (false, output),
        Err(_) => (false, format!("no answer within {}s", planned.check.timeout.as_secs_f32())),
    };
    let status = if passed { "success" } else { "failure" };
    CheckResult { status: status.to_owned(), output: cut(output), at: clock::now() }
}

fn cut(mut text: String) -> String {
    let mut at = OUTPUT_MAX.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text.truncate(at);
    text
}

async fn one(ground: &Ground, planned: &Planned, sandbox: &SandboxId) -> Result<String, String> {
    let task = ground.task(&planned.task).map_err(|e| e.chain())?;
    let env = ground.env(task, &BTreeMap::new()).map_err(|e| e.chain())?;
    match &planned.check.kind {
        CheckKind::Tcp => connect(ground, task, planned, sandbox).await.map(|_| "connected".to_owned()),
        CheckKind::Http { tls: true, .. } => Err("protocol https: is not checked by this node; use http".to_owned()),
        CheckKind::Http { path, method, headers, body, .. } => {
            let text = |text: &String| ground.replaced(&env, text);
            let stream = connect(ground, task, planned, sandbox).await?;
            let mut request = hyper::Request::builder().method(method.as_str()).uri(text(path));
            if !headers.keys().any(|name| name.eq_ignore_ascii_case("host")) {
                request = request.header("host", "localhost");
            }
            for (name, values) in headers {
                for value in values {
                    request = request.header(name, text(value));
                }
            }
            let body = Bytes::from(body.as_ref().map(text).unwrap_or_default());
            let request = request.body(axum::body::Body::from(body)).map_err(|e| e.to_string())?;
            http(stream, request).await
        }
        CheckKind::Script { command, args } => {
            let process = ProcessSpec {
                command: ground.replaced(&env, command),
                args: args.iter().map(|arg| ground.replaced(&env, arg)).collect(),
                env: BTreeMap::new(),
                cwd: None,
                // The task's, by the defaults of its sandbox.
                user: None,
            };
            script(ground, sandbox, process, planned.check.timeout).await
        }
    }
}

/// A connection to the port inside: by the agent where there is a sandbox, over the host's network where there is none.
async fn connect(
    ground: &Ground,
    task: &Task,
    planned: &Planned,
    sandbox: &SandboxId,
) -> Result<Box<dyn Channel>, String> {
    let port = planned.port.as_ref().ok_or("the check names no port, and neither does its service")?;
    let mapped: Option<&PortMapping> = ground.ports.get(port);
    let inside = mapped.map(|m| m.to).or_else(|| port.parse().ok());
    let inside = inside.ok_or_else(|| format!("port {port:?}: the group has no such port"))?;
    if task.driver == TaskDriver::RawExec {
        let host = mapped.map_or("127.0.0.1", |m| m.host_ip.as_str());
        let stream = TcpStream::connect((host, inside)).await.map_err(|e| format!("connect {host}:{inside}: {e}"))?;
        return Ok(Box::new(stream));
    }
    let guest = ground.shared.base.engine.guest(sandbox).await.map_err(|e| e.chain())?;
    guest.connect_port(inside).await.map_err(|e| format!("connect port {inside}: {}", e.chain()))
}

async fn http(stream: Box<dyn Channel>, request: hyper::Request<axum::body::Body>) -> Result<String, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let mut body = Vec::new();
        let mut pieces = axum::body::Body::new(answer.into_body()).into_data_stream();
        // What is more is not read at all: the connection is dropped.
        while let (true, Some(piece)) = (body.len() < OUTPUT_MAX, pieces.next().await) {
            body.extend_from_slice(&piece.map_err(|e| e.to_string())?);
        }
        body.truncate(OUTPUT_MAX);
        let text = format!("{status}: {}", String::from_utf8_lossy(&body));
        if status.as_u16() < 400 {
            Ok(if status == hyper::StatusCode::OK { "200 OK".to_owned() } else { text })
        } else {
            Err(text)
        }
    };
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        outcome = &mut exchange => outcome,
        ended = &mut connection => match ended {
            // The answer may be there already.
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

/// Runs a program in the task; its output, cut. An error if it did not end with 0.
pub(super) async fn script(
    ground: &Ground,
    sandbox: &SandboxId,
    process: ProcessSpec,
    timeout: Duration,
) -> Result<String, String> {
    let spec = ExecSpec { process, pty: None, stdin: false, timeout: Some(timeout) };
    let mut session = ground.shared.base.engine.exec(sandbox, &spec).await.map_err(|e| e.chain())?;
    let mut output = Vec::new();
    while let Some(said) = session.output.recv().await {
        match said {
            ExecOutput::Data(_, bytes) => {
                let room = OUTPUT_MAX.saturating_sub(output.len());
                output.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
            }
            ExecOutput::Exited { timed_out: true, .. } => {
                return Err(format!("did not end within {}s", timeout.as_secs()));
            }
            ExecOutput::Exited { exit, .. } => {
                let text = String::from_utf8_lossy(&output).into_owned();
                return if exit.success() { Ok(text) } else { Err(format!("exit code {}: {text}", exit.code)) };
            }
        }
    }
    Err("its task ended meanwhile".to_owned())
}

#[cfg(test)]
mod tests {
    use moat_model::job::CheckRestart;

    use super::*;

    #[test]
    fn so_many_failures_in_a_row_after_the_grace_restart_the_task() {
        let check = Check {
            name: "c".to_owned(),
            kind: CheckKind::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            port: None,
            restart: Some(CheckRestart { limit: 3, grace: Duration::from_secs(10) }),
            ignored_on_update: false,
        };
        let at = |secs: i64| Timestamp::from_millis(secs * 1000);
        let mut counter = Counter::default();
        let outcomes = [
            (5, false, false),
            (9, false, false),
            (10, false, false),
            (11, false, false),
            (12, true, false),
            (13, false, false),
            (14, false, false),
            (15, false, true),
            (16, false, false),
        ];
        for (second, passed, restarts) in outcomes {
            assert_eq!(counter.take(&check, passed, at(0), at(second)), restarts, "at {second}");
        }
    }
}
