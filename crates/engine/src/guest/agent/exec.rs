//! A running exec, as seen from the daemon: frames on one side, two bounded channels on the other.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use moat_agent::protocol::frame::{AgentFrame, DaemonFrame};
use moat_agent::protocol::mux::Stream;
use moat_agent::protocol::stream::{FrameReader, StreamError, write_frame};
use moat_agent::protocol::{DATA_LEN_MAX, STDIN_WINDOW, StreamName};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, watch};

use super::{Opened, stream_error};
use crate::guest::{ExecInput, ExecOutput, ExecSession};

/// Pieces (of at most 64 KiB) on their way in either direction: enough to keep both ends busy, little enough to keep.
pub(super) const PIECES_MAX: usize = 16;

/// Standard input accepted from the caller before the process takes it; signals behind it still pass.
const STDIN_QUEUED_MAX: usize = 256 << 10;

/// Starts the task that carries frames. It ends when the exec does, or when the session is dropped.
pub fn start(opened: Opened, pid: u32, broken: Arc<Notify>) -> ExecSession {
    let (input, input_rx) = mpsc::channel(PIECES_MAX);
    let (output_tx, output) = mpsc::channel(PIECES_MAX);
    tokio::spawn(carry(opened, input_rx, output_tx, broken));
    ExecSession { pid, input, output }
}

async fn carry(
    opened: Opened,
    input: mpsc::Receiver<ExecInput>,
    output: mpsc::Sender<ExecOutput>,
    broken: Arc<Notify>,
) {
    let Opened { reader, writer, permit } = opened;
    let (taken_tx, taken) = watch::channel(0);
    let writing = async {
        // A failed write shows on the reading side too, and that side says how it ended.
        let _ = Stdin::new(writer, taken, true).run(input).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = read(reader, &output, &taken_tx) => if let Err(error) = result {
            let error = stream_error(&broken, "carry an exec", error);
            tracing::debug!(error = error.chain(), "an exec was lost");
        },
        () = writing => {}
        // Nobody listens: dropping the stream hangs up.
        () = output.closed() => {}
    }
    drop(permit);
}

/// Passes output on until the exit frame.
async fn read(
    mut reader: FrameReader<ReadHalf<Stream>, AgentFrame>,
    output: &mpsc::Sender<ExecOutput>,
    taken: &watch::Sender<u64>,
) -> Result<(), StreamError> {
    let (mut stdout, mut stderr) = (0_u64, 0_u64);
    while let Some(frame) = reader.next().await? {
        let said = match frame {
            AgentFrame::Data { stream, offset, bytes } => {
                let next = if stream == StreamName::Stdout { &mut stdout } else { &mut stderr };
                if *next != offset {
                    return Err(StreamError::Unexpected);
                }
                *next = next.saturating_add(bytes.len() as u64);
                ExecOutput::Data(stream, bytes)
            }
            AgentFrame::StdinTaken(upto) => {
                taken.send_replace(upto);
                continue;
            }
            AgentFrame::Exit { exit, timed_out } => ExecOutput::Exited { exit, timed_out },
            _ => return Err(StreamError::Unexpected),
        };
        let last = matches!(said, ExecOutput::Exited { .. });
        if output.send(said).await.is_err() || last {
            return Ok(());
        }
    }
    Err(StreamError::Ended)
}

/// What goes to the process.
pub(super) struct Stdin {
    writer: WriteHalf<Stream>,
    /// Bytes the process has taken, as the agent says.
    taken: watch::Receiver<u64>,
    sent: u64,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// The caller will send no more input; said once the queue is empty.
    closed: bool,
    end_sent: bool,
    /// A caller that goes away has sent the last of the process's input.
    owned: bool,
}

impl Stdin {
    pub fn new(writer: WriteHalf<Stream>, taken: watch::Receiver<u64>, owned: bool) -> Self {
        Self { writer, taken, sent: 0, queue: VecDeque::new(), queued: 0, closed: false, end_sent: false, owned }
    }

    pub async fn run(mut self, mut input: mpsc::Receiver<ExecInput>) -> Result<(), StreamError> {
        let mut open = true;
        while open || (self.closed && !self.end_sent) || !self.queue.is_empty() {
            tokio::select! {
                item = input.recv(), if open && self.queued < STDIN_QUEUED_MAX => match item {
                    Some(ExecInput::Stdin(bytes)) if !self.closed => {
                        self.queued += bytes.len();
                        self.queue.push_back(bytes);
                    }
                    Some(ExecInput::Stdin(_)) => {}
                    Some(ExecInput::CloseStdin) => self.closed = true,
                    Some(ExecInput::Resize(size)) => write_frame(&mut self.writer, &DaemonFrame::Resize(size)).await?,
                    Some(ExecInput::Signal(signal)) => {
                        write_frame(&mut self.writer, &DaemonFrame::Signal(signal)).await?;
                    }
                    None => {
                        open = false;
                        self.closed |= self.owned;
                    }
                },
                changed = self.taken.changed() => if changed.is_err() {
                    return Ok(());
                },
            }
            self.send().await?;
        }
        Ok(())
    }

    /// Sends what the window allows.
    async fn send(&mut self) -> Result<(), StreamError> {
        loop {
            let taken = (*self.taken.borrow_and_update()).min(self.sent);
            let room = usize::try_from(STDIN_WINDOW.saturating_sub(self.sent - taken)).unwrap_or(0);
            let Some(front) = self.queue.front_mut() else { break };
            let piece = front.split_to(front.len().min(room).min(DATA_LEN_MAX));
            if front.is_empty() {
                self.queue.pop_front();
            }
            if piece.is_empty() {
                if room == 0 {
                    return Ok(());
                }
                continue;
            }
            self.queued -= piece.len();
            self.sent += piece.len() as u64;
            write_frame(&mut self.writer, &DaemonFrame::Stdin(piece)).await?;
        }
        if self.closed && !self.end_sent {
            self.end_sent = true;
            write_frame(&mut self.writer, &DaemonFrame::StdinEnd).await?;
        }
        Ok(())
    }
}
