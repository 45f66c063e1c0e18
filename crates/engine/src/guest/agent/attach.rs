//! A follower of a spawned process, as seen from the daemon.

use std::sync::Arc;

use moat_agent::protocol::frame::AgentFrame;
use moat_agent::protocol::mux::Stream;
use moat_agent::protocol::stream::{FrameReader, StreamError};
use moat_agent::protocol::{Offsets, StreamName};
use tokio::io::ReadHalf;
use tokio::sync::{Notify, mpsc, watch};

use super::exec::{PIECES_MAX, Stdin};
use super::{Opened, stream_error};
use crate::guest::{AttachOutput, Attachment, Chunk, ExecInput};

/// Starts the task that carries frames. It ends with the process, or when nobody listens.
pub fn start(opened: Opened, from: Offsets, broken: Arc<Notify>) -> Attachment {
    let (input, input_rx) = mpsc::channel(PIECES_MAX);
    let (output_tx, output) = mpsc::channel(PIECES_MAX);
    tokio::spawn(carry(opened, from, input_rx, output_tx, broken));
    Attachment { input, output }
}

async fn carry(
    opened: Opened,
    from: Offsets,
    input: mpsc::Receiver<ExecInput>,
    output: mpsc::Sender<AttachOutput>,
    broken: Arc<Notify>,
) {
    let Opened { reader, writer, permit } = opened;
    let (taken_tx, taken) = watch::channel(0);
    let writing = async {
        // Its end says nothing: the process, and other followers, go on.
        let _ = Stdin::new(writer, taken, false).run(input).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = read(reader, from, &output, &taken_tx) => if let Err(error) = result {
            let error = stream_error(&broken, "follow a spawned process", error);
            tracing::debug!(error = error.chain(), "a follower was lost");
        },
        () = writing => {}
        () = output.closed() => {}
    }
    drop(permit);
}

/// Passes on what is said until the exit, if the places fit together.
async fn read(
    mut reader: FrameReader<ReadHalf<Stream>, AgentFrame>,
    from: Offsets,
    output: &mpsc::Sender<AttachOutput>,
    taken: &watch::Sender<u64>,
) -> Result<(), StreamError> {
    let Offsets { mut stdout, mut stderr } = from;
    while let Some(frame) = reader.next().await? {
        let said = match frame {
            AgentFrame::Data { stream, offset, bytes } => {
                let next = if stream == StreamName::Stdout { &mut stdout } else { &mut stderr };
                if *next != offset {
                    return Err(StreamError::Unexpected);
                }
                *next = next.saturating_add(bytes.len() as u64);
                AttachOutput::Data(Chunk { stream, offset, bytes })
            }
            AgentFrame::Skipped { stream, to } => {
                let next = if stream == StreamName::Stdout { &mut stdout } else { &mut stderr };
                if to <= *next {
                    return Err(StreamError::Unexpected);
                }
                *next = to;
                AttachOutput::Skipped { stream, to }
            }
            AgentFrame::StdinTaken(upto) => {
                taken.send_replace(upto);
                continue;
            }
            AgentFrame::Exit { exit, timed_out } => AttachOutput::Exited { exit, timed_out },
            _ => return Err(StreamError::Unexpected),
        };
        let last = matches!(said, AttachOutput::Exited { .. });
        if output.send(said).await.is_err() || last {
            return Ok(());
        }
    }
    Err(StreamError::Ended)
}
