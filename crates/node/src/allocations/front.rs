//! What the rest of the node asks of allocations, and what it is told.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use moat_agent::protocol::StreamName;
use moat_model::job::{AllocStatus, Allocation, Job, TaskGroup};
use moat_model::{Namespace, SandboxId, Timestamp};
use tokio::io::AsyncRead;

use crate::error::Result;

/// What the controller wants of one instance, and the version of the job it is an instance of.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// What is wanted.
    pub allocation: Allocation,
    /// Of what.
    pub job: Arc<Job>,
}

impl Assignment {
    /// Its group, if the job has it.
    pub fn group(&self) -> Option<&TaskGroup> {
        self.job.group(&self.allocation.group)
    }
}

/// An allocation as this node has it.
#[derive(Debug, Clone, PartialEq)]
pub struct AllocView {
    /// What is wanted.
    pub assignment: Assignment,
    /// What is.
    pub status: AllocStatus,
}

/// Which tasks are started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestartWanted {
    /// Those that run.
    Running,
    /// All, those that have ended too.
    All,
    /// One that runs.
    Task(String),
}

/// Where to begin in a log or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// So many bytes after its beginning; what is no longer kept is skipped.
    Start(u64),
    /// So many bytes before its end.
    End(u64),
    /// So many lines before its end.
    Lines(u64),
}

/// Which log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogsWanted {
    /// Whose.
    pub task: String,
    /// Which stream.
    pub stream: StreamName,
    /// Where to begin.
    pub from: Origin,
    /// Go on when it grows, until the task has ended for good.
    pub follow: bool,
}

/// A piece of a log or a file, at most 64 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where it lies in the stream.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// Pieces as they come; ends at the end. An error is the last.
pub type Pieces = tokio::sync::mpsc::Receiver<Result<Piece>>;

/// A file or directory of an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsEntry {
    /// Its name; empty for the root.
    pub name: String,
    /// A directory.
    pub is_dir: bool,
    /// A symbolic link; it is not followed when listed.
    pub is_link: bool,
    /// Bytes.
    pub size: u64,
    /// Permissions, as `ls` shows them: `-rw-r--r--`.
    pub mode: String,
    /// When it was changed.
    pub modified: Timestamp,
}

/// What a task uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskUsage {
    /// Its sandbox's.
    pub usage: moat_engine::driver::Usage,
    /// When it was measured.
    pub at: Timestamp,
}

/// An instance of a service, for templates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceInstance {
    /// Of which service.
    pub name: String,
    /// Where.
    pub address: String,
    /// Which port.
    pub port: u16,
    /// Its words.
    pub tags: Vec<String>,
    /// Of which allocation.
    pub alloc: String,
}

/// What templates may look up beyond their task. Without one, looking up fails by name.
#[async_trait]
pub trait Directory: Send + Sync + std::fmt::Debug {
    /// Instances of a service that may be used, in a fixed order.
    async fn services(&self, namespace: &Namespace, name: &str) -> Result<Vec<ServiceInstance>>;

    /// A value of the namespace's key-value bucket.
    async fn key(&self, namespace: &Namespace, key: &str) -> Result<Option<String>>;

    /// What an object of an object store holds, for artifacts `nats://bucket/key`. Its digest is checked where it ends.
    async fn object(&self, bucket: &str, key: &str) -> Result<Box<dyn AsyncRead + Send + Unpin>>;
}

/// Where a command is to be executed for a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecTarget {
    /// The task.
    pub task: String,
    /// The sandbox it runs in.
    pub sandbox: SandboxId,
}
