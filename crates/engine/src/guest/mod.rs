//! The inside of a sandbox, as the engine sees it: the agent's verbs without its wire.

pub mod agent;

use async_trait::async_trait;
use bytes::Bytes;
use moat_agent::protocol::{GuestProcess, GuestStats, Hello, Offsets, StreamName};
use moat_model::spec::{ExecSpec, PtySize, Signal};
use moat_model::{Exit, ProcessSpec};
use tokio::sync::mpsc;

use crate::error::Result;

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

    /// Lists the processes inside.
    async fn processes(&self) -> Result<Vec<GuestProcess>>;

    /// Measures from inside.
    async fn stats(&self) -> Result<GuestStats>;

    /// Asks the agent to end everything and then itself.
    async fn shutdown(&self) -> Result<()>;
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
