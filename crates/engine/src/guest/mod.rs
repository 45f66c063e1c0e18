//! The inside of a sandbox, as the engine sees it: the agent's verbs without its wire.

pub mod agent;
mod artifact;

use async_trait::async_trait;
use bytes::Bytes;
pub use moat_agent::protocol::Spawned;
use moat_agent::protocol::{GuestProcess, GuestStats, Hello, Offsets, StreamName};
use moat_model::file::{FileReply, FileRequest, Transfer, WatchEvent};
use moat_model::spec::{ExecSpec, PtySize, Signal};
use moat_model::{Exit, ProcessSpec};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub use artifact::put_artifact;

use crate::error::Result;
use crate::leash::Leash;

/// A live agent. Methods may be called concurrently and their futures dropped at any point.
#[async_trait]
pub trait Guest: Send + Sync + std::fmt::Debug {
    /// Versions, abilities and what the main process is doing.
    async fn hello(&self) -> Result<Hello>;

    /// Starts the main process. At most once in a sandbox's life; a second call is a `Conflict`.
    async fn start_main(&self, process: &ProcessSpec) -> Result<u32>;

    /// Resolves when the main process has ended, at once if it already has. May be dropped and called again.
    async fn wait_main(&self) -> Result<Exit>;

    /// Resolves, with what was observed, when the agent itself is gone for good. May be dropped and called again.
    async fn lost(&self) -> String;

    /// Reads the main process's output from an offset. The agent keeps what was not acknowledged, so nothing is lost or
    /// doubled when the reader dies; it stops reading the program's pipe when its bounded buffer is full.
    async fn output(&self, from: Offsets) -> Result<Box<dyn OutputReader>>;

    /// Runs another process.
    async fn exec(&self, spec: &ExecSpec) -> Result<ExecSession>;

    /// Sends a signal to the main process.
    async fn signal_main(&self, signal: Signal) -> Result<()>;

    /// Lets what is inside run until that moment; then it stands still, whether a daemon lives or not, until this is said again. An earlier moment than the last changes nothing.
    async fn leash(&self, leash: Leash) -> Result<()>;

    /// Lists the processes inside.
    async fn processes(&self) -> Result<Vec<GuestProcess>>;

    /// Measures from inside.
    async fn stats(&self) -> Result<GuestStats>;

    /// Asks the agent to end everything and then itself.
    async fn shutdown(&self) -> Result<()>;

    /// One question about files, answered by `user` (the driver's default if absent) inside the sandbox.
    async fn file(&self, user: Option<&str>, request: &FileRequest) -> Result<FileReply>;

    /// Opens a stream of bytes out of the sandbox: [`Transfer::Read`] or [`Transfer::TarOut`]. `NotFound`, `Denied` and the
    /// like come from here; a failure later ends the stream with an error, never with a short success.
    async fn pull(&self, user: Option<&str>, transfer: &Transfer) -> Result<BytesOut>;

    /// Opens a stream of bytes into the sandbox: [`Transfer::Write`] or [`Transfer::TarIn`].
    async fn push(&self, user: Option<&str>, transfer: &Transfer) -> Result<BytesIn>;

    /// Tells what happens to files below `path` until the receiver is dropped.
    async fn watch(&self, user: Option<&str>, path: &str, recursive: bool) -> Result<mpsc::Receiver<WatchEvent>>;

    /// Runs a process that outlives every connection: it ends by itself, by a signal, by its time limit or with the
    /// sandbox. Its last output is kept, bounded, for whoever attaches. Returns its process id inside, which names it.
    async fn spawn(&self, spec: &ExecSpec) -> Result<u32>;

    /// What was spawned: those that run, and the last of those that ended, oldest first.
    async fn spawned(&self) -> Result<Vec<Spawned>>;

    /// Follows a spawned process: kept output from `from` on (what is no longer kept is skipped, which the offsets of the
    /// chunks show), then live output, then its exit. Any number may follow; one that reads too slowly loses its place
    /// ([`AttachOutput::Skipped`]) and holds up neither the process nor the others. Dropping it changes nothing.
    async fn attach(&self, pid: u32, from: Offsets) -> Result<Attachment>;

    /// Connects to a TCP port of the sandbox's own loopback, whatever its network. `NotFound` if nothing listens there,
    /// `Denied` for a port that is the agent's. Shutting the channel down closes one direction, dropping it both; reading
    /// an end means that the program ended its side, and a connection that broke is an error.
    async fn connect_port(&self, port: u16) -> Result<Box<dyn Channel>>;
}

/// A byte channel.
pub trait Channel: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Channel for T {}

/// Bytes coming out of a sandbox; pieces of at most 64 KiB. Ends without an error only if everything was delivered.
pub type BytesOut = mpsc::Receiver<Result<Bytes>>;

/// Bytes going into a sandbox. A file that is dropped before [`PushSink::finish`] leaves no trace there; of an archive what
/// was unpacked until then stays.
#[async_trait]
pub trait PushSink: Send {
    /// Takes a piece; returns when there is room for the next.
    async fn send(&mut self, bytes: Bytes) -> Result<()>;
    /// All was sent: returns when it is in place.
    async fn finish(self: Box<Self>) -> Result<Pushed>;
}

/// A boxed [`PushSink`].
pub type BytesIn = Box<dyn PushSink>;

/// What a push came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Bytes of content.
    pub bytes: u64,
    /// Files, directories and links made.
    pub entries: u64,
}

/// A follower of a spawned process.
#[derive(Debug)]
pub struct Attachment {
    /// What is sent to the process.
    pub input: mpsc::Sender<ExecInput>,
    /// What comes from it.
    pub output: mpsc::Receiver<AttachOutput>,
}

/// Something a spawned process says to one follower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachOutput {
    /// Bytes it wrote.
    Data(Chunk),
    /// This follower was too slow, or came too late: bytes of this stream up to the offset are gone for it.
    Skipped {
        /// Which stream.
        stream: StreamName,
        /// Where it goes on.
        to: u64,
    },
    /// It ended; everything kept was delivered before this.
    Exited {
        /// How.
        exit: Exit,
        /// Because its time was up.
        timed_out: bool,
    },
}

/// Output of a main process, in order, with its place in the stream.
#[async_trait]
pub trait OutputReader: Send {
    /// The next piece, or `None` when both streams have ended and everything was delivered.
    async fn next(&mut self) -> Result<Option<Chunk>>;
    /// Tells the agent that everything before these offsets is safe and may be forgotten.
    async fn acknowledge(&mut self, upto: Offsets) -> Result<()>;
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Which stream.
    pub stream: StreamName,
    /// Bytes of this stream that came before it.
    pub offset: u64,
    /// At most 64 KiB.
    pub bytes: Bytes,
}

/// A running exec. Dropping it hangs up: the process and everything it started is ended.
#[derive(Debug)]
pub struct ExecSession {
    /// Process id inside the sandbox.
    pub pid: u32,
    /// What is sent to it; the bound of the channel is the flow control.
    pub input: mpsc::Sender<ExecInput>,
    /// What comes from it; ends after `Exited`.
    pub output: mpsc::Receiver<ExecOutput>,
}

/// Something sent to a running exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecInput {
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// End of its standard input.
    CloseStdin,
    /// New size of its terminal.
    Resize(PtySize),
    /// A signal for it and its process group.
    Signal(Signal),
}

/// Something a running exec says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// Bytes it wrote.
    Data(StreamName, Bytes),
    /// It ended; all output was delivered before this.
    Exited {
        /// How.
        exit: Exit,
        /// Because its time was up.
        timed_out: bool,
    },
}
