//! Programs in a sandbox: to their end in one answer, as a stream, or left alone.

use std::time::Duration;

use reqwest::Method;

use super::{Lines, RestClient, Result};
use crate::rest::Done;
use crate::rest::exec::{DetachedExec, DetachedList, Exec, ExecEvent, ExecResult, ProcessList, SignalProcess};

/// A buffered exec without a time limit may take this long: a day.
const EXEC_MAX: Duration = Duration::from_secs(24 * 3600);

impl RestClient {
    /// Runs a program and waits for its end.
    pub async fn run(&self, id: &str, exec: &Exec) -> Result<ExecResult> {
        let limit = exec.timeout_ms.map_or(EXEC_MAX, Duration::from_millis);
        let within = limit.saturating_add(self.options.quick);
        let doing = format!("exec in {id}");
        let request = self.request(Method::POST, &["sandboxes", id, "exec"], &[]).json(exec);
        let answer = async { self.answer(&doing, self.send(&doing, request, within).await?).await };
        self.bounded(&doing, within, answer).await
    }

    /// Runs a program and follows what it writes. Hanging up ends it.
    pub async fn run_streaming(&self, id: &str, exec: &Exec) -> Result<Lines<ExecEvent>> {
        let request = self.request(Method::POST, &["sandboxes", id, "exec", "stream"], &[]).json(exec);
        self.lines(&format!("exec in {id}"), request).await
    }

    /// Starts a program and leaves it to itself.
    pub async fn run_detached(&self, id: &str, exec: &Exec) -> Result<DetachedExec> {
        self.post(&format!("exec in {id}"), &["sandboxes", id, "execs"], exec).await
    }

    /// Those that were started so.
    pub async fn detached(&self, id: &str) -> Result<DetachedList> {
        self.get(&format!("list programs of {id}"), &["sandboxes", id, "execs"], &[]).await
    }

    /// What one of them writes, from the beginning as far as that is kept.
    pub async fn follow_detached(&self, id: &str, pid: u32) -> Result<Lines<ExecEvent>> {
        let pid = pid.to_string();
        let request = self.request(Method::GET, &["sandboxes", id, "execs", &pid, "stream"], &[]);
        self.lines(&format!("follow process {pid} of {id}"), request).await
    }

    /// Every process in it.
    pub async fn processes(&self, id: &str) -> Result<ProcessList> {
        self.get(&format!("list processes of {id}"), &["sandboxes", id, "processes"], &[]).await
    }

    /// Signals one of them.
    pub async fn signal(&self, id: &str, pid: u32, signal: &str) -> Result<Done> {
        let body = SignalProcess { signal: signal.to_owned() };
        let pid = pid.to_string();
        self.post(&format!("signal process {pid} of {id}"), &["sandboxes", id, "processes", &pid, "signal"], &body)
            .await
    }
}
