//! The log of one workload: both streams, who follows them, and how far they were published.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use metrics::counter;
use moat_agent::protocol::{Offsets, StreamName};
use moat_model::{ErrorKind, Namespace, NodeId, SandboxId, Timestamp, WorkloadId, WorkloadName};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::rotation::Rotation;
use super::stream_log::{Progress, StreamLog};
use super::stream_text;
use crate::error::{Error, Result};

/// First wait after a failed write; doubles up to the longest. A full disk is freed by people, in minutes.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest wait between two attempts to write.
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// How long a full log waits for a publisher that makes no progress before the oldest file goes.
const STALL_MAX: Duration = Duration::from_secs(10);

/// Which workload some output and facts belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadRef {
    /// Tenant.
    pub namespace: Namespace,
    /// Its name.
    pub name: WorkloadName,
    /// Its id.
    pub id: WorkloadId,
    /// The node it runs on.
    pub node: NodeId,
}

/// Positions in the two streams.
pub use moat_api::nex::LogCursor as Cursor;

/// What is kept beside the files of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Label {
    workload: WorkloadRef,
    /// When its last sandbox was unbound; absent while one is bound.
    ended_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Stream {
    log: Mutex<StreamLog>,
    end: watch::Sender<u64>,
    published: watch::Sender<u64>,
}

/// The log of one workload. At most one exists in the process for each workload.
#[derive(Debug)]
pub struct WorkloadLog {
    workload: WorkloadRef,
    dir: PathBuf,
    stdout: Stream,
    stderr: Stream,
    sealed: watch::Sender<bool>,
}

impl WorkloadLog {
    /// Opens the log in `dir`, creating it. Blocking.
    pub fn create(dir: &Path, workload: WorkloadRef, rotation: Rotation) -> io::Result<Arc<Self>> {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(dir)?;
        // Whatever the daemon's umask: the sandbox, another user, may look.
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
        let log = Self::with_streams(dir, workload, rotation)?;
        log.mark(None)?;
        Ok(log)
    }

    /// Opens the log in `dir`, or `None` if there is none. Blocking.
    pub fn open(dir: &Path, rotation: Rotation) -> io::Result<Option<Arc<Self>>> {
        match read_label(dir)? {
            Some(label) => Self::with_streams(dir, label.workload, rotation).map(Some),
            None => Ok(None),
        }
    }

    fn with_streams(dir: &Path, workload: WorkloadRef, rotation: Rotation) -> io::Result<Arc<Self>> {
        let open = |stream: StreamName| -> io::Result<Stream> {
            let log = StreamLog::open(dir, &format!("{}.{}", workload.name, stream_text(stream)), rotation)?;
            let end = watch::Sender::new(log.end());
            Ok(Stream { log: Mutex::new(log), end, published: watch::Sender::new(0) })
        };
        let (stdout, stderr) = (open(StreamName::Stdout)?, open(StreamName::Stderr)?);
        Ok(Arc::new(Self { workload, dir: dir.to_owned(), stdout, stderr, sealed: watch::Sender::new(true) }))
    }

    /// Whose log it is.
    pub fn workload(&self) -> &WorkloadRef {
        &self.workload
    }

    /// Runs `f` on one stream's files. Blocking, briefly.
    pub(super) fn with<T>(&self, stream: StreamName, f: impl FnOnce(&mut StreamLog) -> T) -> T {
        f(&mut self.stream(stream).log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stream(&self, stream: StreamName) -> &Stream {
        match stream {
            StreamName::Stdout => &self.stdout,
            StreamName::Stderr => &self.stderr,
        }
    }

    /// How much of a sandbox's output is safe.
    pub fn written(&self, sandbox: &SandboxId) -> Offsets {
        let of = |stream| self.with(stream, |log| log.written(sandbox));
        Offsets { stdout: of(StreamName::Stdout), stderr: of(StreamName::Stderr) }
    }

    /// Where the streams end.
    pub fn end(&self) -> Cursor {
        Cursor { stdout: *self.stdout.end.borrow(), stderr: *self.stderr.end.borrow() }
    }

    /// Positions of the oldest bytes kept.
    pub fn begin(&self) -> Cursor {
        let of = |stream| self.with(stream, |log| log.begin());
        Cursor { stdout: of(StreamName::Stdout), stderr: of(StreamName::Stderr) }
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.with(StreamName::Stdout, |log| log.bytes()) + self.with(StreamName::Stderr, |log| log.bytes())
    }

    /// Changes whenever the stream grows.
    pub fn watch_end(&self, stream: StreamName) -> watch::Receiver<u64> {
        self.stream(stream).end.subscribe()
    }

    /// Whether no sandbox is bound to the workload: nothing more will come.
    pub fn watch_sealed(&self) -> watch::Receiver<bool> {
        self.sealed.subscribe()
    }

    /// How far the streams were published and confirmed.
    pub fn published(&self) -> Cursor {
        Cursor { stdout: *self.stdout.published.borrow(), stderr: *self.stderr.published.borrow() }
    }

    /// Tells that everything before `cursor` is published and confirmed.
    pub fn set_published(&self, cursor: Cursor) {
        self.stdout.published.send_replace(cursor.stdout);
        self.stderr.published.send_replace(cursor.stderr);
    }

    /// Resolves when what is in the files now is published and confirmed.
    pub async fn caught_up(&self) {
        let end = self.end();
        for (stream, end) in [(StreamName::Stdout, end.stdout), (StreamName::Stderr, end.stderr)] {
            // The sender lives as long as this log.
            let _ = self.stream(stream).published.subscribe().wait_for(|published| *published >= end).await;
        }
    }

    /// Says whether a sandbox is bound, and since when none is. Blocking.
    pub(crate) fn seal(&self, ended_at: Option<Timestamp>) -> io::Result<()> {
        self.mark(ended_at)?;
        self.sealed.send_replace(ended_at.is_some());
        Ok(())
    }

    /// A sandbox is bound again. Blocking.
    pub(crate) fn unseal(&self) -> io::Result<()> {
        self.seal(None)
    }

    fn mark(&self, ended_at: Option<Timestamp>) -> io::Result<()> {
        let label = Label { workload: self.workload.clone(), ended_at };
        super::replace_file(&label_path(&self.dir), &serde_json::to_vec(&label)?, 0o600)
    }

    /// The locally kept cursor: how far publishing was confirmed, some moments ago. Blocking.
    pub fn load_cursor(&self) -> io::Result<Cursor> {
        match std::fs::read(self.dir.join(".published")) {
            Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Cursor::default()),
            Err(error) => Err(error),
        }
    }

    /// Keeps the cursor. Blocking.
    pub fn store_cursor(&self, cursor: Cursor) -> io::Result<()> {
        super::replace_file(&self.dir.join(".published"), &serde_json::to_vec(&cursor)?, 0o600)
    }

    /// Appends output of a sandbox; returns when it is safe.
    ///
    /// Waits, which slows the program down, in two cases: the disk refuses (retried until it does not), and a file would
    /// have to be deleted whose lines are not published although the publisher is at work (`publishing`).
    pub async fn append(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        stream: StreamName,
        offset: u64,
        bytes: Bytes,
        mut publishing: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut published = self.stream(stream).published.subscribe();
        let mut retry = RETRY_FIRST;
        let mut stalled = false;
        loop {
            let protect = (*publishing.borrow_and_update() && !stalled).then_some(*published.borrow_and_update());
            match self.append_once(sandbox, stream, offset, bytes.clone(), protect).await {
                Ok(progress) if !progress.blocked => return Ok(()),
                Ok(_) => {
                    counter!("moat_log_waits_total").increment(1);
                    tokio::select! {
                        _ = published.changed() => {}
                        _ = publishing.changed() => {}
                        () = tokio::time::sleep(STALL_MAX) => stalled = true,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    return Err(Error::caused_by(
                        ErrorKind::Conflict,
                        format!("append {}", stream_text(stream)),
                        error,
                    ));
                }
                Err(error) => {
                    counter!("moat_log_write_errors_total").increment(1);
                    tracing::warn!(workload = %self.workload.id, %error, retry_ms = retry.as_millis(), "log file cannot be written");
                    tokio::time::sleep(retry).await;
                    retry = retry.saturating_mul(2).min(RETRY_LONGEST);
                }
            }
        }
    }

    async fn append_once(
        self: &Arc<Self>,
        sandbox: &SandboxId,
        stream: StreamName,
        offset: u64,
        bytes: Bytes,
        protect: Option<u64>,
    ) -> io::Result<Progress> {
        let (this, sandbox) = (Arc::clone(self), sandbox.clone());
        let work = move || {
            let before = this.with(stream, |log| log.end());
            let outcome = this.with(stream, |log| log.append(&sandbox, offset, &bytes, protect));
            let end = this.with(stream, |log| log.end());
            counter!("moat_log_bytes_total", "stream" => stream_text(stream)).increment(end.saturating_sub(before));
            this.stream(stream).end.send_replace(end);
            outcome
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }
}

fn label_path(dir: &Path) -> PathBuf {
    dir.join(".workload")
}

fn read_label(dir: &Path) -> io::Result<Option<Label>> {
    match std::fs::read(label_path(dir)) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whose log lies in `dir` and when it ended, without opening it. Blocking.
pub(crate) fn inspect(dir: &Path) -> io::Result<Option<(WorkloadRef, Option<Timestamp>)>> {
    Ok(read_label(dir)?.map(|label| (label.workload, label.ended_at)))
}
