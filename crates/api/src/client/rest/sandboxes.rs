//! Sandboxes, snapshots and nodes.

use reqwest::Method;

use super::{ByteStream, RestClient, Result, bytes_of};
use crate::rest::node::{NodeList, SandboxStats, Stats, Version};
use crate::rest::sandbox::{
    CreateSandbox, Explanation, Fork, Forked, Keepalive, ListSandboxes, Pause, Resume, Sandbox, SandboxList, Snapshot,
    SnapshotList, TakeSnapshot,
};

impl RestClient {
    /// Creates a sandbox; resolves when it can be used.
    pub async fn create(&self, request: &CreateSandbox) -> Result<Sandbox> {
        self.post("create a sandbox", &["sandboxes"], request).await
    }

    /// One, also if it has ended and is remembered.
    pub async fn sandbox(&self, id: &str) -> Result<Sandbox> {
        self.get(&format!("look at {id}"), &["sandboxes", id], &[]).await
    }

    /// A page of them.
    pub async fn sandboxes(&self, query: &ListSandboxes) -> Result<SandboxList> {
        let pairs = [
            ("state", query.state.clone()),
            ("template", query.template.clone()),
            ("metadata", query.metadata.clone()),
            ("limit", query.limit.map(|n| n.to_string())),
            ("after", query.after.clone()),
        ];
        self.get("list sandboxes", &["sandboxes"], &pairs).await
    }

    /// Ends one; resolves when nothing of it is left.
    pub async fn delete(&self, id: &str) -> Result<()> {
        self.done(&format!("delete {id}"), self.request(Method::DELETE, &["sandboxes", id], &[])).await
    }

    /// Gives one a new life span.
    pub async fn keepalive(&self, id: &str, request: &Keepalive) -> Result<Sandbox> {
        self.post(&format!("keep {id} alive"), &["sandboxes", id, "keepalive"], request).await
    }

    /// Pauses one.
    pub async fn pause(&self, id: &str, request: &Pause) -> Result<Sandbox> {
        self.post(&format!("pause {id}"), &["sandboxes", id, "pause"], request).await
    }

    /// Lets one go on.
    pub async fn resume(&self, id: &str, request: &Resume) -> Result<Sandbox> {
        self.post(&format!("resume {id}"), &["sandboxes", id, "resume"], request).await
    }

    /// Makes children of one.
    pub async fn fork(&self, id: &str, request: &Fork) -> Result<Forked> {
        self.post(&format!("fork {id}"), &["sandboxes", id, "fork"], request).await
    }

    /// Keeps one, with its memory if that can be.
    pub async fn snapshot(&self, id: &str, request: &TakeSnapshot) -> Result<Snapshot> {
        self.post(&format!("take a snapshot of {id}"), &["sandboxes", id, "snapshots"], request).await
    }

    /// All snapshots.
    pub async fn snapshots(&self) -> Result<SnapshotList> {
        self.get("list snapshots", &["snapshots"], &[]).await
    }

    /// Removes a snapshot by id or name.
    pub async fn delete_snapshot(&self, name: &str) -> Result<()> {
        let request = self.request(Method::DELETE, &["snapshots", name], &[]);
        self.done(&format!("remove snapshot {name}"), request).await
    }

    /// What happened to one; also after it is gone.
    pub async fn explain(&self, id: &str) -> Result<Explanation> {
        self.get(&format!("explain {id}"), &["sandboxes", id, "explain"], &[]).await
    }

    /// What one uses.
    pub async fn sandbox_stats(&self, id: &str) -> Result<SandboxStats> {
        self.get(&format!("measure {id}"), &["sandboxes", id, "stats"], &[]).await
    }

    /// Lines its main process wrote, the last `tail` or all that are kept; with `follow`, until it ends.
    pub async fn sandbox_logs(&self, id: &str, follow: bool, tail: Option<u32>) -> Result<ByteStream> {
        let query = [("follow", follow.then(|| "true".to_owned())), ("tail", tail.map(|n| n.to_string()))];
        let request = self.request(Method::GET, &["sandboxes", id, "logs"], &query);
        Ok(bytes_of(self.send(&format!("read the log of {id}"), request, self.options.quick).await?))
    }

    /// The nodes this one knows.
    pub async fn nodes(&self) -> Result<NodeList> {
        self.get("list nodes", &["nodes"], &[]).await
    }

    /// Sums over what the caller may see.
    pub async fn stats(&self) -> Result<Stats> {
        self.get("read statistics", &["stats"], &[]).await
    }

    /// What answers there.
    pub async fn version(&self) -> Result<Version> {
        self.get("ask for the version", &["version"], &[]).await
    }
}
