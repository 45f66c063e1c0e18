//! One exec over NATS. One task owns it: it counts credit, numbers frames and holds at most a window each way.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use moat_agent::protocol::StreamName;
use moat_api::WireError;
use moat_api::stream::frame::{ExecExit, headers, read_headers};
use moat_api::stream::{
    CHUNK_LEN_MAX, InFrame, OutFrame, PING_EVERY, ReceiveCredit, SILENCE_MAX, SendCredit, Sequence,
};
use moat_engine::guest::{ExecInput, ExecOutput, ExecSession};
use moat_model::ErrorKind;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Frames without bytes (resize, signal, end of input) waiting for the process. Nobody types faster.
const CONTROLS_MAX: usize = 64;

/// A frame that cannot be handed to the connection in this time will not be: NATS is away.
const SEND_MAX: Duration = Duration::from_secs(10);

/// A session that was answered and now runs.
pub(crate) struct Session {
    frames: Subscriber,
    process: ExecSession,
    flow: Flow,
    _permit: OwnedSemaphorePermit,
}

/// What is under way, and the way out.
struct Flow {
    client: Client,
    subject: String,
    sent: Sequence,
    seen: Sequence,
    send_credit: SendCredit,
    receive_credit: ReceiveCredit,
    /// Output of the process that has no credit yet.
    unsent: Option<(StreamName, Bytes)>,
    /// Input the process has not taken yet. Its bytes are bounded by the client's credit, the rest by [`CONTROLS_MAX`].
    untaken: VecDeque<ExecInput>,
}

/// How a session ended.
enum End {
    Exited(ExecExit),
    HungUp,
    Failed(WireError),
}

impl Session {
    pub(crate) fn new(
        client: Client,
        subject: String,
        frames: Subscriber,
        process: ExecSession,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let flow = Flow {
            client,
            subject,
            sent: Sequence::default(),
            seen: Sequence::default(),
            send_credit: SendCredit::default(),
            receive_credit: ReceiveCredit::default(),
            unsent: None,
            untaken: VecDeque::new(),
        };
        Self { frames, process, flow, _permit: permit }
    }

    /// Carries frames until it ends. Dropping the process ends it, whatever the reason.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let ended = cancel
            .run_until_cancelled(self.flow.carry(&mut self.frames, &mut self.process))
            .await
            .unwrap_or_else(|| End::Failed(WireError::new(ErrorKind::Unavailable, "the node is shutting down")));
        let (outcome, last) = match ended {
            End::Exited(exit) => ("exited", Some(OutFrame::Exit(exit))),
            End::HungUp => ("hung_up", None),
            End::Failed(error) => ("failed", Some(OutFrame::Error(error))),
        };
        metrics::counter!("moat_exec_sessions_total", "outcome" => outcome).increment(1);
        if let Some(last) = last {
            // A client that is gone cannot be told.
            let _ = self.flow.send(&last).await;
        }
        let _ = self.frames.unsubscribe().await;
    }
}

impl Flow {
    async fn carry(&mut self, frames: &mut Subscriber, process: &mut ExecSession) -> End {
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_until = Instant::now() + SILENCE_MAX;
        loop {
            let step = tokio::select! {
                frame = frames.next() => match frame {
                    Some(frame) => {
                        silent_until = Instant::now() + SILENCE_MAX;
                        self.take_frame(frame)
                    }
                    None => Err(failed(ErrorKind::Unavailable, "the connection to NATS was closed")),
                },
                permit = process.input.reserve(), if !self.untaken.is_empty() => match (permit, self.untaken.pop_front()) {
                    (Ok(permit), Some(input)) => {
                        let bytes = stdin_len(&input);
                        permit.send(input);
                        self.consumed(bytes).await
                    }
                    // It has ended; its exit comes.
                    (Err(_), Some(input)) => self.consumed(stdin_len(&input)).await,
                    (_, None) => Ok(()),
                },
                output = process.output.recv(), if self.unsent.is_none() => match output {
                    Some(ExecOutput::Data(stream, bytes)) => {
                        self.unsent = Some((stream, bytes));
                        Ok(())
                    }
                    Some(ExecOutput::Exited { exit, timed_out }) => Err(End::Exited(ExecExit { exit, timed_out })),
                    None => Err(failed(ErrorKind::Unavailable, "the sandbox ended, or its agent was lost")),
                },
                _ = ping.tick() => self.send(&OutFrame::Ping).await,
                () = tokio::time::sleep_until(silent_until) => {
                    Err(failed(ErrorKind::Deadline, "the client has been silent for 30 s"))
                }
            };
            let step = match step {
                Ok(()) => self.send_output().await,
                Err(end) => Err(end),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    fn take_frame(&mut self, message: Message) -> Result<(), End> {
        let refuse = |error: &dyn std::fmt::Display| failed(ErrorKind::InvalidSpec, &error.to_string());
        let (kind, number) = read_headers(message.headers.as_ref()).map_err(|e| refuse(&e))?;
        self.seen.arrived(number).map_err(|e| failed(ErrorKind::Unavailable, &e.to_string()))?;
        let input = match InFrame::decode(kind, message.payload.clone()).map_err(|e| refuse(&e))? {
            InFrame::Stdin(bytes) => {
                self.receive_credit.received(bytes.len()).map_err(|e| refuse(&e))?;
                // Empty pieces need no credit; kept, they could pile up without bound.
                if bytes.is_empty() {
                    return Ok(());
                }
                ExecInput::Stdin(bytes)
            }
            InFrame::Eof => ExecInput::CloseStdin,
            InFrame::Resize(size) => ExecInput::Resize(size),
            InFrame::Signal(signal) => ExecInput::Signal(signal),
            InFrame::Credit(bytes) => {
                self.send_credit.grant(bytes);
                return Ok(());
            }
            InFrame::Hangup => return Err(End::HungUp),
            InFrame::Ping => return Ok(()),
        };
        if stdin_len(&input) == 0 && self.untaken.iter().filter(|i| stdin_len(i) == 0).count() >= CONTROLS_MAX {
            return Err(failed(ErrorKind::Exhausted, "too many resizes and signals at once"));
        }
        self.untaken.push_back(input);
        Ok(())
    }

    async fn consumed(&mut self, bytes: usize) -> Result<(), End> {
        match self.receive_credit.consumed(bytes) {
            Some(grant) => self.send(&OutFrame::Credit(grant)).await,
            None => Ok(()),
        }
    }

    /// Sends as much of the output as there is credit for.
    async fn send_output(&mut self) -> Result<(), End> {
        while let Some((stream, mut bytes)) = self.unsent.take() {
            let taken = self.send_credit.take(bytes.len().min(CHUNK_LEN_MAX));
            let piece = bytes.split_to(taken);
            if !bytes.is_empty() {
                self.unsent = Some((stream, bytes));
            }
            if piece.is_empty() {
                break;
            }
            let frame = match stream {
                StreamName::Stdout => OutFrame::Stdout(piece),
                StreamName::Stderr => OutFrame::Stderr(piece),
            };
            self.send(&frame).await?;
        }
        Ok(())
    }

    async fn send(&mut self, frame: &OutFrame) -> Result<(), End> {
        let (kind, payload) = frame.encode();
        let headers = headers(kind, self.sent.next());
        let publish = self.client.publish_with_headers(self.subject.clone(), headers, payload);
        match tokio::time::timeout(SEND_MAX, publish).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(ErrorKind::Unavailable, &error.to_string())),
            Err(_) => Err(failed(ErrorKind::Unavailable, "NATS is away")),
        }
    }
}

fn failed(kind: ErrorKind, why: &str) -> End {
    End::Failed(WireError::new(kind, format!("exec session: {why}")))
}

fn stdin_len(input: &ExecInput) -> usize {
    match input {
        ExecInput::Stdin(bytes) => bytes.len(),
        _ => 0,
    }
}
