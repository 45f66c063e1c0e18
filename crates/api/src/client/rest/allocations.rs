//! Allocations: wherever they run, through whichever node is asked.

use reqwest::Method;

use super::{ByteStream, RestClient, Result, bytes_of};
use crate::client::ExecSession;
use crate::rest::Done;
use crate::rest::allocation::{
    AllocationChecks, AllocationFile, AllocationFiles, AllocationList, AllocationLogs, AllocationPath, AllocationStats,
    AllocationView, ListAllocations, RestartAllocation, SignalAllocation, StopAllocation,
};
use crate::rest::exec::Exec;
use crate::rest::job::Decided;

impl RestClient {
    /// Allocations of the namespace.
    pub async fn allocations(&self, query: &ListAllocations) -> Result<AllocationList> {
        let pairs = [("prefix", query.prefix.clone()), ("node", query.node.clone())];
        self.get("list allocations", &["allocations"], &pairs).await
    }

    /// One.
    pub async fn allocation(&self, id: &str) -> Result<AllocationView> {
        self.get(&format!("look at allocation {id}"), &["allocations", id], &[]).await
    }

    /// Ends one; another is placed for it.
    pub async fn stop_allocation(&self, id: &str, request: &StopAllocation) -> Result<Decided> {
        self.post(&format!("stop allocation {id}"), &["allocations", id, "stop"], request).await
    }

    /// Restarts its tasks where they are.
    pub async fn restart_allocation(&self, id: &str, request: &RestartAllocation) -> Result<Done> {
        self.order(&format!("restart allocation {id}"), id, "restart", request).await
    }

    /// Sends its tasks a signal.
    pub async fn signal_allocation(&self, id: &str, request: &SignalAllocation) -> Result<Done> {
        self.order(&format!("signal allocation {id}"), id, "signal", request).await
    }

    /// What it uses.
    pub async fn allocation_stats(&self, id: &str) -> Result<AllocationStats> {
        self.get(&format!("measure allocation {id}"), &["allocations", id, "stats"], &[]).await
    }

    /// How its checks go.
    pub async fn allocation_checks(&self, id: &str) -> Result<AllocationChecks> {
        self.get(&format!("look at checks of allocation {id}"), &["allocations", id, "checks"], &[]).await
    }

    /// What a task wrote, and writes.
    pub async fn allocation_logs(&self, id: &str, query: &AllocationLogs) -> Result<ByteStream> {
        let pairs = [
            ("task", query.task.clone()),
            ("stderr", query.stderr.map(|yes| yes.to_string())),
            ("follow", query.follow.map(|yes| yes.to_string())),
            ("tail_lines", query.tail_lines.map(|n| n.to_string())),
            ("tail_bytes", query.tail_bytes.map(|n| n.to_string())),
        ];
        let request = self.request(Method::GET, &["allocations", id, "logs"], &pairs);
        let doing = format!("read the log of allocation {id}");
        Ok(bytes_of(self.send(&doing, request, self.options.quick).await?))
    }

    /// What a directory of it holds.
    pub async fn allocation_files(&self, id: &str, path: &str) -> Result<AllocationFiles> {
        let pairs = [("path", Some(path.to_owned()))];
        self.get(&format!("list {path} of allocation {id}"), &["allocations", id, "fs", "ls"], &pairs).await
    }

    /// What is at a path of it.
    pub async fn allocation_stat(&self, id: &str, path: &str) -> Result<AllocationFile> {
        let pairs = [("path", Some(path.to_owned()))];
        self.get(&format!("look at {path} of allocation {id}"), &["allocations", id, "fs", "stat"], &pairs).await
    }

    /// Content of a file of it.
    pub async fn allocation_file(&self, id: &str, query: &AllocationPath) -> Result<ByteStream> {
        let pairs = [
            ("path", query.path.clone()),
            ("offset", query.offset.map(|n| n.to_string())),
            ("length", query.length.map(|n| n.to_string())),
            ("tail_lines", query.tail_lines.map(|n| n.to_string())),
            ("tail_bytes", query.tail_bytes.map(|n| n.to_string())),
            ("follow", query.follow.map(|yes| yes.to_string())),
        ];
        let request = self.request(Method::GET, &["allocations", id, "fs", "cat"], &pairs);
        let doing = format!("read {} of allocation {id}", query.path.as_deref().unwrap_or("/"));
        Ok(bytes_of(self.send(&doing, request, self.options.quick).await?))
    }

    /// Runs a program in a task that can be written to, resized and signalled. Dropping `output` hangs up.
    pub async fn allocation_session(&self, id: &str, task: Option<&str>, exec: Exec) -> Result<ExecSession> {
        let doing = format!("exec in allocation {id}");
        self.session_at(doing, &["allocations", id, "exec"], &[("task", task.map(str::to_owned))], exec).await
    }
}
