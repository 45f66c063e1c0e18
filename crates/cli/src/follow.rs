//! Following a workload's log without losing or doubling a line.
//!
//! The node's log files are the truth. Live messages, events and a clock only say when to look: each look reads from where
//! the last one ended. So a lost message, a reconnect or a daemon's restart costs at most a second of delay.

use std::time::Duration;

use futures::FutureExt;
use moat_api::client::{Client, Listed, Logs};
use moat_api::nex::{Level, LogCursor};
use moat_api::sandbox::{InspectRequest, WorkloadView};
use moat_api::subjects::LogFilter;
use moat_model::{ErrorKind, NodeId, WorkloadId};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::Output;

/// How often to look when nothing says that there is something to see.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks that may fail in a row: a node may be restarting.
const FAILURES_MAX: u32 = 30;

/// A workload whose log is read.
#[derive(Debug)]
pub struct Follower<'a> {
    client: &'a Client,
    output: &'a Output,
    node: NodeId,
    id: WorkloadId,
    cursor: Option<LogCursor>,
    level: Level,
}

/// A line as `--json` writes it.
#[derive(Debug, Serialize)]
struct JsonLine<'a> {
    id: &'a str,
    level: Level,
    text: &'a str,
}

impl<'a> Follower<'a> {
    /// The log of a workload; nothing below `level` is shown.
    pub fn new(client: &'a Client, output: &'a Output, node: NodeId, id: WorkloadId, level: Level) -> Self {
        Self { client, output, node, id, cursor: None, level }
    }

    /// The log of a listed workload, if its node keeps one that can be read.
    pub fn of(client: &'a Client, output: &'a Output, listed: &Listed, level: Level) -> Option<Self> {
        let id = listed.view.as_ref()?.id.clone();
        Some(Self::new(client, output, listed.node.clone(), id, level))
    }

    /// Shows what is there: the last `tail` lines, or all.
    pub async fn show(&mut self, tail: Option<u32>) -> Result<(), Failure> {
        let first = self.page(tail).await?;
        if first { self.catch_up().await } else { Ok(()) }
    }

    /// Shows what came since the last look.
    async fn catch_up(&mut self) -> Result<(), Failure> {
        while self.page(None).await? {}
        Ok(())
    }

    /// One answer's worth. Says whether there is more.
    async fn page(&mut self, tail: Option<u32>) -> Result<bool, Failure> {
        let page = self.client.log_history(&self.node, &self.id, tail, self.cursor).await?;
        for line in &page.lines {
            if line.level < self.level {
                continue;
            }
            show_line(self.output, self.id.as_str(), line.level, &line.text)?;
        }
        // A node that claims more and does not move would keep us here for ever.
        let moved = self.cursor != Some(page.cursor);
        self.cursor = Some(page.cursor);
        Ok(page.more && moved)
    }

    /// Something to wake this up, subscribed before the first look so that nothing falls in between.
    pub async fn listen(&self) -> Result<Logs, Failure> {
        let filter = LogFilter { node: Some(self.node.clone()), id: Some(self.id.clone()), name: None };
        Ok(self.client.logs(&filter).await?)
    }

    /// Shows what comes, until the workload has ended for good; returns how.
    pub async fn until_end(&mut self, live: &mut Logs) -> Result<WorkloadView, Failure> {
        let mut failures = 0;
        loop {
            let look = async {
                // The state is asked for first: if it has ended, then all it wrote is there to be read.
                let view = self.view().await?;
                self.catch_up().await?;
                Ok::<_, Failure>(view)
            };
            match look.await {
                Ok(view) if view.ended() => return Ok(view),
                Ok(_) => failures = 0,
                Err(failure) if failure.is_quiet() || failure.kind == ErrorKind::NotFound => return Err(failure),
                Err(failure) => {
                    failures += 1;
                    if failures >= FAILURES_MAX {
                        return Err(failure);
                    }
                }
            }
            let woken = tokio::time::timeout(LOOK_EVERY, live.next()).await;
            if matches!(woken, Ok(None)) {
                return Err(Failure::new(ErrorKind::Unavailable, "the connection to the NATS server was closed"));
            }
            // One look serves all the lines that have come meanwhile.
            while let Some(Some(_)) = live.next().now_or_never() {}
        }
    }

    async fn view(&self) -> Result<WorkloadView, Failure> {
        let request = InspectRequest { id: Some(self.id.clone()), name: None, ended: true };
        let answer = self.client.inspect(&self.node, &request).await?;
        answer.workloads.into_iter().find(|view| view.id == self.id).ok_or_else(|| {
            Failure::new(ErrorKind::NotFound, format!("node {} no longer knows workload {}", self.node, self.id))
        })
    }
}

/// A line of a program: what it wrote to standard error goes there again.
pub fn show_line(output: &Output, id: &str, level: Level, text: &str) -> Result<(), Failure> {
    if output.json {
        output.record(&JsonLine { id, level, text })
    } else if level >= Level::ERROR {
        output.error_bytes(format!("{text}\n").as_bytes())
    } else {
        output.line(text)
    }
}
