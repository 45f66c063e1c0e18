//! Running a process in a workload's sandbox, from anywhere NATS reaches.
//!
//! One task owns the stream. It alone counts credit and numbers frames; what the caller holds are bounded channels.

use std::collections::VecDeque;

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use moat_model::spec::{ExecSpec, PtySize, Signal};
use moat_model::{ErrorKind, NodeId, WorkloadId, WorkloadName};
use nkeys::KeyPair;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::operate::control_claims;
use super::{Client, Error, Result, encode, random};
use crate::sandbox::{ExecRequest, ExecResponse, SandboxRequest};
use crate::stream::frame::{ExecExit, headers, read_headers};
use crate::stream::{
    CHUNK_LEN_MAX, InFrame, OutFrame, PING_EVERY, ReceiveCredit, SILENCE_MAX, SendCredit, Sequence, StreamId,
};

/// Pieces a channel between the caller and the stream's task holds: with pieces of 32 KiB, a window's worth.
const CHANNEL_LEN: usize = 8;

/// What to run, and where.
#[derive(Debug)]
pub struct Exec<'a> {
    /// Node of the workload.
    pub node: &'a NodeId,
    /// The workload.
    pub workload: &'a WorkloadId,
    /// Its name.
    pub name: &'a WorkloadName,
    /// Whoever signed its start.
    pub issuer: &'a KeyPair,
    /// What to run.
    pub spec: ExecSpec,
}

/// What a process says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// Standard output, or its terminal.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// It ended; nothing comes after.
    Exited(ExecExit),
}

/// What is done to a process besides writing to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecControl {
    /// Its terminal has a new size.
    Resize(PtySize),
    /// It and its group get a signal.
    Signal(Signal),
}

/// A process that runs. Dropping `output` hangs up, which ends it.
#[derive(Debug)]
pub struct ExecSession {
    /// Its id inside the sandbox.
    pub pid: u32,
    /// Its standard input; dropping it is the end of it.
    pub stdin: mpsc::Sender<Bytes>,
    /// Everything else that is done to it.
    pub control: mpsc::Sender<ExecControl>,
    /// What it says. An error, or `Exited`, is the last.
    pub output: mpsc::Receiver<Result<ExecOutput>>,
}

impl Client {
    /// Runs a process in a workload's sandbox.
    pub async fn exec(&self, exec: Exec<'_>) -> Result<ExecSession> {
        let subject = self.options.subjects.sandbox(&self.options.namespace, exec.node);
        let request = |stream| {
            Ok(SandboxRequest::Exec(ExecRequest {
                workload: exec.workload.clone(),
                claims: control_claims(exec.name, exec.issuer)?,
                stream,
                spec: exec.spec,
            }))
        };
        self.stream(format!("exec in {}", exec.name), subject, request, |reply: &ExecResponse| reply.pid).await
    }

    /// Sends a request that names a stream, and serves that stream once the request is granted.
    pub(super) async fn stream<Q: Serialize, A: DeserializeOwned>(
        &self,
        doing: String,
        to: String,
        request: impl FnOnce(StreamId) -> Result<Q>,
        pid: impl FnOnce(&A) -> u32,
    ) -> Result<ExecSession> {
        let stream = StreamId::from_random(random()?);
        // Before the request, so that not even the first frame can be missed.
        let frames = self.listen(&doing, self.options.subjects.stream_out(&stream)).await?;
        let request = encode(&doing, &request(stream.clone())?)?;
        let reply: A = self.request(&doing, to, request, self.options.timeouts.request).await?;

        let (stdin, stdin_rx) = mpsc::channel(CHANNEL_LEN);
        let (control, control_rx) = mpsc::channel(CHANNEL_LEN);
        let (output_tx, output) = mpsc::channel(CHANNEL_LEN);
        let pump = Pump {
            nats: self.nats.clone(),
            subject: self.options.subjects.stream_in(&stream),
            doing,
            sent: Sequence::default(),
            seen: Sequence::default(),
            send_credit: SendCredit::default(),
            receive_credit: ReceiveCredit::default(),
            unsent: Bytes::new(),
            unread: VecDeque::new(),
        };
        tokio::spawn(pump.run(frames, stdin_rx, control_rx, output_tx));
        Ok(ExecSession { pid: pid(&reply), stdin, control, output })
    }
}

/// The task behind a session.
struct Pump {
    nats: async_nats::Client,
    subject: String,
    doing: String,
    sent: Sequence,
    seen: Sequence,
    send_credit: SendCredit,
    receive_credit: ReceiveCredit,
    /// Input taken from the caller that has no credit yet.
    unsent: Bytes,
    /// Output not yet taken by the caller; the node's credit bounds it.
    unread: VecDeque<ExecOutput>,
}

impl Pump {
    async fn run(
        mut self,
        mut frames: Subscriber,
        mut stdin: mpsc::Receiver<Bytes>,
        mut control: mpsc::Receiver<ExecControl>,
        output: mpsc::Sender<Result<ExecOutput>>,
    ) {
        if let Err(error) = self.pump(&mut frames, &mut stdin, &mut control, &output).await {
            // The caller may have gone: then nobody is left to tell.
            let _ = output.send(Err(error)).await;
        }
        // Whatever ended it here, the process must not go on over there; after its exit nobody listens.
        let _ = self.send(&InFrame::Hangup).await;
        let _ = self.nats.flush().await;
    }

    async fn pump(
        &mut self,
        frames: &mut Subscriber,
        stdin: &mut mpsc::Receiver<Bytes>,
        control: &mut mpsc::Receiver<ExecControl>,
        output: &mpsc::Sender<Result<ExecOutput>>,
    ) -> Result<()> {
        let mut ping = pings();
        let mut silent_until = Instant::now() + SILENCE_MAX;
        let (mut stdin_open, mut control_open, mut finished) = (true, true, false);
        loop {
            if finished && self.unread.is_empty() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = output.closed() => return Ok(()),
                permit = output.reserve(), if !self.unread.is_empty() => {
                    let (Ok(permit), Some(piece)) = (permit, self.unread.pop_front()) else { return Ok(()) };
                    let bytes = piece.len();
                    permit.send(Ok(piece));
                    if let Some(grant) = self.receive_credit.consumed(bytes) {
                        self.send(&InFrame::Credit(grant)).await?;
                    }
                }
                frame = frames.next(), if !finished => {
                    let frame = frame.ok_or_else(|| self.broken(ErrorKind::Unavailable, "the connection was closed"))?;
                    silent_until = Instant::now() + SILENCE_MAX;
                    finished = self.take_frame(frame)?;
                }
                change = control.recv(), if control_open && !finished => match change {
                    Some(ExecControl::Resize(size)) => self.send(&InFrame::Resize(size)).await?,
                    Some(ExecControl::Signal(signal)) => self.send(&InFrame::Signal(signal)).await?,
                    None => control_open = false,
                },
                bytes = stdin.recv(), if stdin_open && !finished && self.unsent.is_empty() => match bytes {
                    Some(bytes) => self.unsent = bytes,
                    None => {
                        stdin_open = false;
                        self.send(&InFrame::Eof).await?;
                    }
                },
                _ = ping.tick(), if !finished => self.send(&InFrame::Ping).await?,
                () = tokio::time::sleep_until(silent_until), if !finished => {
                    return Err(self.broken(ErrorKind::Unavailable, "the node has been silent for 30 s"));
                }
            }
            self.send_input().await?;
        }
    }

    /// Takes one frame; says whether it was the last.
    fn take_frame(&mut self, message: Message) -> Result<bool> {
        let (kind, number) = read_headers(message.headers.as_ref()).map_err(|e| self.broken(ErrorKind::Internal, e))?;
        self.seen.arrived(number).map_err(|e| self.broken(ErrorKind::Unavailable, e))?;
        let frame = OutFrame::decode(kind, message.payload.clone()).map_err(|e| self.broken(ErrorKind::Internal, e))?;
        let piece = match frame {
            OutFrame::Stdout(bytes) => ExecOutput::Stdout(bytes),
            OutFrame::Stderr(bytes) => ExecOutput::Stderr(bytes),
            OutFrame::Exit(exit) => ExecOutput::Exited(exit),
            OutFrame::Error(error) => return Err(Error::refused(&self.doing, error)),
            OutFrame::Credit(bytes) => {
                self.send_credit.grant(bytes);
                return Ok(false);
            }
            OutFrame::Ping => return Ok(false),
        };
        self.receive_credit.received(piece.len()).map_err(|e| self.broken(ErrorKind::Internal, e))?;
        let last = matches!(piece, ExecOutput::Exited(_));
        // An empty piece costs no credit: kept, it could pile up without bound.
        if last || piece.len() > 0 {
            self.unread.push_back(piece);
        }
        Ok(last)
    }

    /// Sends as much of the input as there is credit for.
    async fn send_input(&mut self) -> Result<()> {
        while !self.unsent.is_empty() {
            let taken = self.send_credit.take(self.unsent.len().min(CHUNK_LEN_MAX));
            if taken == 0 {
                break;
            }
            let piece = self.unsent.split_to(taken);
            self.send(&InFrame::Stdin(piece)).await?;
        }
        Ok(())
    }

    async fn send(&mut self, frame: &InFrame) -> Result<()> {
        let (kind, payload) = frame.encode();
        let headers = headers(kind, self.sent.next());
        self.nats
            .publish_with_headers(self.subject.clone(), headers, payload)
            .await
            .map_err(|e| self.broken(ErrorKind::Unavailable, e))
    }

    fn broken(&self, kind: ErrorKind, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::new(kind, &self.doing, why)
    }
}

impl ExecOutput {
    /// Bytes that needed credit.
    fn len(&self) -> usize {
        match self {
            Self::Stdout(bytes) | Self::Stderr(bytes) => bytes.len(),
            Self::Exited(_) => 0,
        }
    }
}

fn pings() -> Interval {
    let mut interval = tokio::time::interval(PING_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
