//! Logs, files and processes of other nodes in the shape of a process here: output with back pressure, then its end.

use moat_agent::protocol::StreamName;
use moat_api::client::{self, ExecControl};
use moat_engine::guest::{ExecInput, ExecOutput, ExecSession};
use moat_model::Exit;
use tokio::sync::mpsc;

use crate::allocations::Pieces;

/// Pieces between two tasks: each is at most 64 KiB.
const PIECES_MAX: usize = 4;

/// Bytes that are only read. What is sent to them is dropped.
pub(super) fn from_pieces(mut pieces: Pieces) -> ExecSession {
    let (input, mut inputs) = mpsc::channel(1);
    let (to, output) = mpsc::channel(PIECES_MAX);
    tokio::spawn(async move {
        let mut listened_to = true;
        loop {
            let piece = tokio::select! {
                () = to.closed() => return,
                sent = inputs.recv(), if listened_to => {
                    listened_to = sent.is_some();
                    continue;
                }
                piece = pieces.recv() => piece,
            };
            let said = match piece {
                Some(Ok(piece)) => ExecOutput::Data(StreamName::Stdout, piece.bytes),
                None => ExecOutput::Exited { exit: Exit::code(0), timed_out: false },
                Some(Err(error)) => {
                    // An end without an exit is what breaks the stream at its other end.
                    tracing::warn!(error = %error.chain(), "a log or file of an allocation could not be read on");
                    return;
                }
            };
            let last = matches!(said, ExecOutput::Exited { .. });
            if to.send(said).await.is_err() || last {
                return;
            }
        }
    });
    ExecSession { pid: 0, input, output }
}

/// A process of another node.
pub(super) fn from_elsewhere(mut session: client::ExecSession) -> ExecSession {
    let (input, inputs) = mpsc::channel(PIECES_MAX);
    let (to, output) = mpsc::channel(PIECES_MAX);
    let pid = session.pid;
    // Two tasks: a node that waits for us to take output must not keep input from it.
    let (stdin, control) = (session.stdin, session.control);
    tokio::spawn(feed(inputs, stdin, control));
    tokio::spawn(async move {
        loop {
            let said = tokio::select! {
                () = to.closed() => return,
                said = session.output.recv() => said,
            };
            let said = match said {
                Some(Ok(client::ExecOutput::Stdout(bytes))) => ExecOutput::Data(StreamName::Stdout, bytes),
                Some(Ok(client::ExecOutput::Stderr(bytes))) => ExecOutput::Data(StreamName::Stderr, bytes),
                Some(Ok(client::ExecOutput::Exited(end))) => {
                    ExecOutput::Exited { exit: end.exit, timed_out: end.timed_out }
                }
                Some(Err(error)) => {
                    tracing::warn!(error = %error.chain(), "a stream from another node broke");
                    return;
                }
                None => return,
            };
            let last = matches!(said, ExecOutput::Exited { .. });
            if to.send(said).await.is_err() || last {
                return;
            }
        }
    });
    ExecSession { pid, input, output }
}

async fn feed(
    mut inputs: mpsc::Receiver<ExecInput>,
    stdin: mpsc::Sender<bytes::Bytes>,
    control: mpsc::Sender<ExecControl>,
) {
    let mut stdin = Some(stdin);
    while let Some(input) = inputs.recv().await {
        let sent = match (input, &stdin) {
            (ExecInput::Stdin(bytes), Some(to)) => to.send(bytes).await.is_ok(),
            (ExecInput::Stdin(_), None) => true,
            (ExecInput::CloseStdin, _) => {
                stdin = None;
                true
            }
            (ExecInput::Resize(size), _) => control.send(ExecControl::Resize(size)).await.is_ok(),
            (ExecInput::Signal(signal), _) => control.send(ExecControl::Signal(signal)).await.is_ok(),
        };
        // It has ended: what else there is to say to it is of no use.
        if !sent {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::allocations::Piece;
    use crate::error::Error;

    #[tokio::test]
    async fn pieces_end_like_a_process_and_failures_do_not() {
        let (to, pieces) = mpsc::channel(4);
        let mut session = from_pieces(pieces);
        // Whoever sends to a file is not held up.
        for _ in 0..8 {
            session.input.send(ExecInput::CloseStdin).await.unwrap();
        }
        to.send(Ok(Piece { offset: 0, bytes: Bytes::from_static(b"x") })).await.unwrap();
        drop(to);
        let data = ExecOutput::Data(StreamName::Stdout, Bytes::from_static(b"x"));
        assert_eq!(session.output.recv().await, Some(data));
        assert_eq!(session.output.recv().await, Some(ExecOutput::Exited { exit: Exit::code(0), timed_out: false }));

        let (to, pieces) = mpsc::channel(4);
        let mut session = from_pieces(pieces);
        to.send(Err(Error::new(moat_model::ErrorKind::Internal, "a disk"))).await.unwrap();
        assert_eq!(session.output.recv().await, None, "an end without an exit");
    }
}
