//! The daemon's side of the guest protocol: a [`Guest`] over whatever carries bytes to an agent.
//!
//! One task per sandbox owns the connection ([`session`]); it opens streams for whoever asks and connects again when the
//! connection breaks, until the [`Endpoint`] says the agent is gone. The agent is treated as hostile: every frame and
//! every wait is bounded, what it may open is fixed by configuration, and a protocol error ends the session.

mod attach;
mod connection;
mod exec;
mod files;
mod forward;
mod machine;
mod output;
mod session;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moat_agent::protocol::frame::{AgentFrame, DaemonFrame};
use moat_agent::protocol::mux::{
    ATTACHES_MAX, CONNECTS_MAX, EXECS_MAX, OpenReply, Stream, TRANSFERS_MAX, VERBS_MAX, WATCHES_MAX,
};
use moat_agent::protocol::stream::{FrameReader, StreamError, write_header};
use moat_agent::protocol::{GuestProcess, GuestStats, Hello, Offsets, Reply, Request, Spawned};
use moat_model::file::{FileReply, FileRequest, Transfer, WatchEvent};
use moat_model::spec::{ExecSpec, Forward, Signal};
use moat_model::{ErrorKind, Exit, ProcessSpec};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{Attachment, BytesIn, BytesOut, Channel, ExecSession, Guest, OutputReader};
use crate::error::{Error, Result};
use crate::leash::Leash;

/// Between the daemon's beats: what is late is said again with the next.
const LEASH_DEADLINE: Duration = Duration::from_secs(1);
/// An answer that needs no work. Long enough for a machine under a burst of creates; a frozen sandbox runs into it.
const REPLY_DEADLINE: Duration = Duration::from_secs(10);
/// Starting a program: on top of the above, the kernel may have to read it from a slow disk.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Connecting to a port inside: the agent gives up after ten seconds and then has to say so.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
/// A question about files may be about very many of them.
const FILE_DEADLINE: Duration = Duration::from_secs(60);
/// Killing everything inside and saying so.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(15);
/// Between attempts over a connection that just broke; the session has its own, longer back-off.
const PAUSE: Duration = Duration::from_millis(20);
/// Callers that may queue for a stream while the connection is being made; more wait in line, within their deadlines.
const OPENS_QUEUED_MAX: usize = 16;
/// Longest error message believed of an agent.
const MESSAGE_LEN_MAX: usize = 1024;

/// How an agent is reached, and how its end is noticed.
#[async_trait]
pub trait Endpoint: Send + Sync + std::fmt::Debug {
    /// Connects once. The agent gives up any older connection.
    async fn connect(&self) -> io::Result<Box<dyn Channel>>;

    /// Resolves, with what was observed, when the agent is gone for good. May be dropped and called again.
    async fn gone(&self) -> String;
}

/// A guest reached through its agent.
#[derive(Debug)]
pub struct AgentGuest {
    endpoint: Arc<dyn Endpoint>,
    opens: mpsc::Sender<OpenReply>,
    /// Told when the agent broke the protocol: the session is dropped and made anew.
    broken: Arc<Notify>,
    execs: Arc<Semaphore>,
    verbs: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    attaches: Arc<Semaphore>,
    connects: Arc<Semaphore>,
    driver: JoinHandle<()>,
}

impl Drop for AgentGuest {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A stream, and the permission to have it open.
#[derive(Debug)]
struct Opened {
    reader: FrameReader<ReadHalf<Stream>, AgentFrame>,
    writer: WriteHalf<Stream>,
    permit: OwnedSemaphorePermit,
}

impl AgentGuest {
    /// Connects to the agent and greets it. `forwards` are the only addresses it may ever have us connect to.
    pub async fn connect(endpoint: Arc<dyn Endpoint>, forwards: Vec<Forward>) -> Result<Arc<Self>> {
        let guest = Self::unconnected(endpoint, forwards);
        machine::speaks_ours(&guest.hello().await?)?;
        Ok(guest)
    }

    fn unconnected(endpoint: Arc<dyn Endpoint>, forwards: Vec<Forward>) -> Arc<Self> {
        let (opens, opens_rx) = mpsc::channel(OPENS_QUEUED_MAX);
        let broken = Arc::new(Notify::new());
        let session = session::Session::new(endpoint.clone(), forwards, broken.clone());
        Arc::new(Self {
            endpoint,
            opens,
            broken,
            execs: Arc::new(Semaphore::new(EXECS_MAX)),
            verbs: Arc::new(Semaphore::new(VERBS_MAX)),
            transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            attaches: Arc::new(Semaphore::new(ATTACHES_MAX)),
            connects: Arc::new(Semaphore::new(CONNECTS_MAX)),
            driver: tokio::spawn(session.run(opens_rx)),
        })
    }

    /// Opens a stream, waiting for a connection if there is none.
    async fn open(&self, permit: OwnedSemaphorePermit) -> Result<Opened> {
        loop {
            let (reply, stream) = oneshot::channel();
            if self.opens.send(reply).await.is_err() {
                return Err(gone());
            }
            // An error means that the session ended while we waited in it: ask the next one.
            if let Ok(stream) = stream.await {
                let (reader, writer) = tokio::io::split(stream);
                return Ok(Opened { reader: FrameReader::new(reader), writer, permit });
            }
        }
    }

    /// Opens a stream and sends its request.
    async fn request(&self, permit: OwnedSemaphorePermit, request: &Request, doing: &str) -> Result<Opened> {
        let mut opened = self.open(permit).await?;
        write_header::<DaemonFrame>(&mut opened.writer, request).await.map_err(|e| self.stream_error(doing, e))?;
        Ok(opened)
    }

    /// Reads the one reply header; a refusal becomes an error.
    async fn reply(&self, opened: &mut Opened, doing: &str) -> Result<Reply> {
        match opened.reader.header::<Reply>().await.map_err(|e| self.stream_error(doing, e))? {
            Reply::Failed { kind, message } => Err(Error::caused_by(kind, doing, shorten(message))),
            reply => Ok(reply),
        }
    }

    async fn verb_permit(&self) -> Result<OwnedSemaphorePermit> {
        self.verbs.clone().acquire_owned().await.map_err(|_| gone())
    }

    /// One request, one reply, within a deadline.
    async fn call(&self, request: &Request, doing: &str, deadline: Duration) -> Result<Reply> {
        let once = async || {
            let permit = self.verb_permit().await?;
            let mut opened = self.request(permit, request, doing).await?;
            self.reply(&mut opened, doing).await
        };
        within(deadline, doing, async {
            loop {
                match once().await {
                    Err(error) if repeatable(request) && self.may_come_back(&error) => sleep(PAUSE).await,
                    result => return result,
                }
            }
        })
        .await
    }

    /// Whether a request failed only because its connection broke, while the agent may still be there.
    fn may_come_back(&self, error: &Error) -> bool {
        error.kind == ErrorKind::Unavailable && !self.opens.is_closed()
    }

    /// Turns a stream's failure into ours, and drops the session of an agent that breaks the protocol.
    fn stream_error(&self, doing: &str, error: StreamError) -> Error {
        stream_error(&self.broken, doing, error)
    }

    /// The agent answered something that does not belong to the question.
    fn wrong_reply(&self, doing: &str) -> Error {
        self.stream_error(doing, StreamError::Unexpected)
    }

    /// Opens a stream for content, in either direction.
    async fn transfer(&self, request: &Request, doing: &str) -> Result<Opened> {
        let permit = at_once(&self.transfers, TRANSFERS_MAX, "files are already being read or written")?;
        within(START_DEADLINE, doing, async {
            let mut opened = self.request(permit, request, doing).await?;
            match self.reply(&mut opened, doing).await? {
                Reply::Content => Ok(opened),
                _ => Err(self.wrong_reply(doing)),
            }
        })
        .await
    }

    async fn wait_once(&self) -> Result<Exit> {
        const DOING: &str = "wait for the main process";
        let permit = self.verb_permit().await?;
        let mut opened = self.request(permit, &Request::Wait, DOING).await?;
        match self.reply(&mut opened, DOING).await? {
            Reply::Exited(exit) => Ok(exit),
            _ => Err(self.wrong_reply(DOING)),
        }
    }
}

fn stream_error(broken: &Notify, doing: &str, error: StreamError) -> Error {
    let kind = if error.is_protocol() {
        broken.notify_one();
        ErrorKind::Internal
    } else {
        ErrorKind::Unavailable
    };
    Error::caused_by(kind, doing, error)
}

/// Asking twice is as good as asking once.
fn repeatable(request: &Request) -> bool {
    let looks = |request: &FileRequest| matches!(request, FileRequest::Stat { .. } | FileRequest::List { .. });
    match request {
        Request::Hello | Request::Processes | Request::Stats | Request::Spawned | Request::Shutdown => true,
        Request::File { request, .. } => looks(request),
        _ => false,
    }
}

/// A permit for something that may last, so that waiting for one could last too.
fn at_once(permits: &Arc<Semaphore>, max: usize, what: &str) -> Result<OwnedSemaphorePermit> {
    let refused = |_| Error::new(ErrorKind::Exhausted, format!("{max} {what} in this sandbox"));
    permits.clone().try_acquire_owned().map_err(refused)
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the agent is gone")
}

fn shorten(mut message: String) -> String {
    let end = (0..=MESSAGE_LEN_MAX).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    if message.len() > end {
        message.truncate(end);
        message.push('…');
    }
    message
}

async fn within<T>(deadline: Duration, doing: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(deadline, work).await {
        Ok(result) => result,
        Err(_) => {
            let waited = format!("{doing}: the agent did not answer within {} s", deadline.as_secs());
            Err(Error::new(ErrorKind::Deadline, waited))
        }
    }
}

#[async_trait]
impl Guest for AgentGuest {
    async fn hello(&self) -> Result<Hello> {
        const DOING: &str = "greet the agent";
        match self.call(&Request::Hello, DOING, REPLY_DEADLINE).await? {
            Reply::Hello(hello) => Ok(hello),
            _ => Err(self.wrong_reply(DOING)),
        }
    }

    async fn start_main(&self, process: &ProcessSpec) -> Result<u32> {
        const DOING: &str = "start the main process";
        let request = Request::Start { process: process.clone() };
        match self.call(&request, DOING, START_DEADLINE).await? {
            Reply::Started { pid } => Ok(pid),
            _ => Err(self.wrong_reply(DOING)),
        }
    }

    async fn wait_main(&self) -> Result<Exit> {
        loop {
            match self.wait_once().await {
                Err(error) if self.may_come_back(&error) => sleep(PAUSE).await,
                result => return result,
            }
        }
    }

    async fn lost(&self) -> String {
        self.endpoint.gone().await
    }

    async fn output(&self, from: Offsets) -> Result<Box<dyn OutputReader>> {
        const DOING: &str = "read the main process's output";
        within(REPLY_DEADLINE, DOING, async {
            let permit = self.verb_permit().await?;
            let mut opened = self.request(permit, &Request::Output { from }, DOING).await?;
            match self.reply(&mut opened, DOING).await? {
                Reply::Output => {
                    Ok(Box::new(output::Output::new(opened, from, self.broken.clone())) as Box<dyn OutputReader>)
                }
                _ => Err(self.wrong_reply(DOING)),
            }
        })
        .await
    }

    async fn exec(&self, spec: &ExecSpec) -> Result<ExecSession> {
        const DOING: &str = "execute in the sandbox";
        let permit = at_once(&self.execs, EXECS_MAX, "processes are already being executed")?;
        within(START_DEADLINE, DOING, async {
            let mut opened = self.request(permit, &Request::Exec { spec: spec.clone() }, DOING).await?;
            match self.reply(&mut opened, DOING).await? {
                Reply::Started { pid } => Ok(exec::start(opened, pid, self.broken.clone())),
                _ => Err(self.wrong_reply(DOING)),
            }
        })
        .await
    }

    async fn signal_main(&self, signal: Signal) -> Result<()> {
        const DOING: &str = "signal the main process";
        match self.call(&Request::Signal { signal }, DOING, REPLY_DEADLINE).await? {
            Reply::Done => Ok(()),
            _ => Err(self.wrong_reply(DOING)),
        }
    }

    async fn leash(&self, leash: Leash) -> Result<()> {
        const DOING: &str = "lengthen the leash";
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Leash { until_ms: millis(leash.until), within_ms: millis(leash.left()) };
        match self.call(&request, DOING, LEASH_DEADLINE).await? {
            Reply::Done => Ok(()),
            _ => Err(self.wrong_reply(DOING)),
        }
    }

    async fn processes(&self) -> Result<Vec<GuestProcess>> {
        const DOING: &str = "list processes";
        match self.call(&Request::Processes, DOING, REPLY_DEADLINE).await? {
            Reply::Processes { processes } => Ok(processes),
            _ => Err(self.wrong_reply(DOING)),
        }
    }

    async fn stats(&self) -> Result<GuestStats> {
        const DOING: &str = "measure the sandbox";
        match self.call(&Request::Stats, DOING, REPLY_DEADLINE).await? {
            Reply::Stats(stats) => Ok(stats),
            _ => Err(self.wrong_reply(DOING)),
        }
    }

    async fn shutdown(&self) -> Result<()> {
        const DOING: &str = "shut the agent down";
        match self.call(&Request::Shutdown, DOING, SHUTDOWN_DEADLINE).await? {
            Reply::Done => {
                // The agent lingers until it is sure that its answer arrived: closing the connection says so.
                self.driver.abort();
                Ok(())
            }
            _ => Err(self.wrong_reply(DOING)),
        }
    }

    async fn file(&self, user: Option<&str>, request: &FileRequest) -> Result<FileReply> {
        const DOING: &str = "ask about files in the sandbox";
        let request = Request::File { user: user.map(str::to_owned), request: request.clone() };
        match self.call(&request, DOING, FILE_DEADLINE).await? {
            Reply::File { answer } => Ok(answer),
            _ => Err(self.wrong_reply(DOING)),
        }
    }

    async fn pull(&self, user: Option<&str>, transfer: &Transfer) -> Result<BytesOut> {
        let request = Request::Pull { user: user.map(str::to_owned), transfer: transfer.clone() };
        let opened = self.transfer(&request, "read from the sandbox").await?;
        Ok(files::pull(opened, self.broken.clone()))
    }

    async fn push(&self, user: Option<&str>, transfer: &Transfer) -> Result<BytesIn> {
        let request = Request::Push { user: user.map(str::to_owned), transfer: transfer.clone() };
        let opened = self.transfer(&request, "write into the sandbox").await?;
        Ok(files::Push::start(opened, self.broken.clone()))
    }

    async fn watch(&self, user: Option<&str>, path: &str, recursive: bool) -> Result<mpsc::Receiver<WatchEvent>> {
        const DOING: &str = "watch files in the sandbox";
        let permit = at_once(&self.watches, WATCHES_MAX, "watches are already open")?;
        let request = Request::Watch { user: user.map(str::to_owned), path: path.to_owned(), recursive };
        within(START_DEADLINE, DOING, async {
            let mut opened = self.request(permit, &request, DOING).await?;
            match self.reply(&mut opened, DOING).await? {
                Reply::Watching => Ok(files::watch(opened, self.broken.clone())),
                _ => Err(self.wrong_reply(DOING)),
            }
        })
        .await
    }

    async fn spawn(&self, spec: &ExecSpec) -> Result<u32> {
        const DOING: &str = "spawn in the sandbox";
        match self.call(&Request::Spawn { spec: spec.clone() }, DOING, START_DEADLINE).await? {
            Reply::Started { pid } => Ok(pid),
            _ => Err(self.wrong_reply(DOING)),
        }
    }

    async fn spawned(&self) -> Result<Vec<Spawned>> {
        const DOING: &str = "list spawned processes";
        match self.call(&Request::Spawned, DOING, REPLY_DEADLINE).await? {
            Reply::Spawned { processes } => Ok(processes),
            _ => Err(self.wrong_reply(DOING)),
        }
    }

    async fn attach(&self, pid: u32, from: Offsets) -> Result<Attachment> {
        const DOING: &str = "follow a spawned process";
        let permit = at_once(&self.attaches, ATTACHES_MAX, "followers of spawned processes are already there")?;
        within(REPLY_DEADLINE, DOING, async {
            let mut opened = self.request(permit, &Request::Attach { pid, from }, DOING).await?;
            match self.reply(&mut opened, DOING).await? {
                Reply::Attached => Ok(attach::start(opened, from, self.broken.clone())),
                _ => Err(self.wrong_reply(DOING)),
            }
        })
        .await
    }

    async fn connect_port(&self, port: u16) -> Result<Box<dyn Channel>> {
        const DOING: &str = "connect to a port in the sandbox";
        let permit = at_once(&self.connects, CONNECTS_MAX, "connections to ports are already open")?;
        within(CONNECT_DEADLINE, DOING, async {
            let mut opened = self.request(permit, &Request::Connect { port }, DOING).await?;
            match self.reply(&mut opened, DOING).await? {
                Reply::Connected => {
                    let connection = connection::Connection::new(opened, self.broken.clone());
                    Ok(Box::new(connection) as Box<dyn Channel>)
                }
                _ => Err(self.wrong_reply(DOING)),
            }
        })
        .await
    }
}
