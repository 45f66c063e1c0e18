//! A program that is written to while it runs: over a WebSocket, behind the same channels as an exec over NATS.
//!
//! Reading and writing are two futures that never wait for each other: a node that waits for us to take output would
//! otherwise wait for ever for us to finish writing input.

use bytes::Bytes;
use data_encoding::BASE64;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use moat_model::{ErrorKind, Exit};
use reqwest::{Method, header};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::{Error, Query, RestClient, Result, SILENCE_MAX, told};
use crate::client::{ExecControl, ExecOutput, ExecSession};
use crate::rest::exec::{Exec, ExecControl as Input, ExecEvent};
use crate::stream::PING_EVERY;
use crate::stream::frame::ExecExit;

/// Pieces a channel between the caller and the task holds.
const CHANNEL_LEN: usize = 8;
/// Largest message taken; a node sends pieces of 64 KiB at most.
const MESSAGE_MAX: usize = 4 << 20;

type Socket = WebSocketStream<reqwest::Upgraded>;

impl RestClient {
    /// Runs a program that can be written to, resized and signalled. Dropping the session's `output` hangs up.
    pub async fn session(&self, id: &str, exec: Exec) -> Result<ExecSession> {
        self.session_at(format!("exec in {id}"), &["sandboxes", id, "exec", "ws"], &[], exec).await
    }

    /// The same at any path that speaks so.
    pub(super) async fn session_at(
        &self,
        doing: String,
        path: &[&str],
        query: Query<'_>,
        exec: Exec,
    ) -> Result<ExecSession> {
        let mut socket = self.socket(&doing, path, query).await?;
        let start = encode(&doing, &Input::Start { exec })?;
        socket.send(start).await.map_err(|e| broken(&doing, e))?;
        self.attended(doing, socket).await
    }

    /// Joins a program that was started detached: what it wrote is told again as far as it is kept.
    pub async fn attach(&self, id: &str, pid: u32) -> Result<ExecSession> {
        let doing = format!("attach to process {pid} of {id}");
        let pid = pid.to_string();
        let socket = self.socket(&doing, &["sandboxes", id, "execs", &pid, "ws"], &[]).await?;
        self.attended(doing, socket).await
    }

    /// A WebSocket, through the same connections, certificates and keys as everything else.
    async fn socket(&self, doing: &str, path: &[&str], query: Query<'_>) -> Result<Socket> {
        let key = generate_key();
        let request = self
            .request(Method::GET, path, query)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key);
        let response = self.send(doing, request, self.options.quick).await?;
        let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        if accepted.is_none_or(|accepted| accepted.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err(Error::new(ErrorKind::Unavailable, doing, "whoever answers does not speak WebSocket")
                .with_hint("is a proxy in between that does not let upgrades through?"));
        }
        let upgraded = response.upgrade().await.map_err(|e| Error::new(ErrorKind::Unavailable, doing, e))?;
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await)
    }

    /// Waits for the first word, then leaves the socket to a task.
    async fn attended(&self, doing: String, socket: Socket) -> Result<ExecSession> {
        let (sink, stream) = socket.split();
        let mut reader = Reader { doing, stream };
        let pid = loop {
            match reader.event().await? {
                Said::Event(ExecEvent::Started { pid }) => break pid,
                Said::Event(ExecEvent::Failed { error }) => return Err(told(&reader.doing, error)),
                Said::Event(ExecEvent::Keepalive) => {}
                Said::Event(_) | Said::Terminal(_) => {
                    return Err(Error::new(
                        ErrorKind::Internal,
                        &reader.doing,
                        "the node did not begin with `started`",
                    ));
                }
            }
        };
        let (stdin, stdin_rx) = mpsc::channel(CHANNEL_LEN);
        let (control, control_rx) = mpsc::channel(CHANNEL_LEN);
        let (output_tx, output) = mpsc::channel(CHANNEL_LEN);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = output_tx.closed() => {}
                () = reader.run(&output_tx) => {}
                () = write(sink, stdin_rx, control_rx) => {}
            }
        });
        Ok(ExecSession { pid, stdin, control, output })
    }
}

/// One message.
enum Said {
    Event(ExecEvent),
    /// Bytes of a terminal.
    Terminal(Bytes),
}

struct Reader {
    doing: String,
    stream: SplitStream<Socket>,
}

impl Reader {
    async fn run(mut self, output: &mpsc::Sender<Result<ExecOutput>>) {
        loop {
            let piece = match self.event().await {
                Ok(said) => self.piece(said),
                Err(error) => Err(error),
            };
            let (piece, last) = match piece {
                Ok(None) => continue,
                Ok(Some(piece)) => {
                    let last = matches!(piece, ExecOutput::Exited(_));
                    (Ok(piece), last)
                }
                Err(error) => (Err(error), true),
            };
            // The caller may have gone: then nobody is left to tell.
            if output.send(piece).await.is_err() || last {
                return;
            }
        }
    }

    /// The next message that says something; a silent or broken connection is a failure.
    async fn event(&mut self) -> Result<Said> {
        loop {
            let message = timeout(SILENCE_MAX, self.stream.next()).await.map_err(|_| {
                let why = format!("the node was silent for {SILENCE_MAX:?}");
                Error::new(ErrorKind::Unavailable, &self.doing, why)
            })?;
            match message {
                Some(Ok(Message::Text(text))) => {
                    let event = serde_json::from_str(&text)
                        .map_err(|e| Error::new(ErrorKind::Internal, format!("{}: read a message", self.doing), e))?;
                    return Ok(Said::Event(event));
                }
                Some(Ok(Message::Binary(bytes))) => return Ok(Said::Terminal(bytes)),
                // What keeps the line alive is answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => {
                    return Err(Error::new(ErrorKind::Unavailable, &self.doing, "the node hung up"));
                }
                Some(Err(error)) => return Err(broken(&self.doing, error)),
            }
        }
    }

    fn piece(&self, said: Said) -> Result<Option<ExecOutput>> {
        let event = match said {
            Said::Terminal(bytes) => return Ok(Some(ExecOutput::Stdout(bytes))),
            Said::Event(event) => event,
        };
        Ok(match event {
            ExecEvent::Stdout { text, base64, .. } => Some(ExecOutput::Stdout(self.bytes(text, base64)?)),
            ExecEvent::Stderr { text, base64, .. } => Some(ExecOutput::Stderr(self.bytes(text, base64)?)),
            ExecEvent::Exited { exit_code, signal, timed_out, .. } => {
                let exit = Exit { code: exit_code, signal, oom_killed: false };
                Some(ExecOutput::Exited(ExecExit { exit, timed_out }))
            }
            ExecEvent::Failed { error } => return Err(told(&self.doing, error)),
            ExecEvent::Skipped { stream, to } => {
                tracing::warn!(stream, to, "output was not kept");
                None
            }
            ExecEvent::Started { .. } | ExecEvent::Keepalive => None,
        })
    }

    fn bytes(&self, text: Option<String>, base64: Option<String>) -> Result<Bytes> {
        match (text, base64) {
            (Some(text), _) => Ok(Bytes::from(text)),
            (None, Some(base64)) => BASE64
                .decode(base64.as_bytes())
                .map(Bytes::from)
                .map_err(|e| Error::new(ErrorKind::Internal, format!("{}: read output", self.doing), e)),
            (None, None) => Ok(Bytes::new()),
        }
    }
}

/// Sends what the caller hands over. It never resolves: how a session ends is told by its other side.
async fn write(
    mut sink: SplitSink<Socket, Message>,
    mut stdin: mpsc::Receiver<Bytes>,
    mut control: mpsc::Receiver<ExecControl>,
) {
    let (mut stdin_open, mut control_open) = (true, true);
    // An answer to a ping counts as a sign of life, whatever else the node has to say.
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    loop {
        let message = tokio::select! {
            change = control.recv(), if control_open => match change {
                Some(ExecControl::Resize(size)) => text(&Input::Resize { rows: size.rows, cols: size.cols }),
                Some(ExecControl::Signal(signal)) => text(&Input::Signal { signal: signal.number().to_string() }),
                None => {
                    control_open = false;
                    continue;
                }
            },
            bytes = stdin.recv(), if stdin_open => match bytes {
                Some(bytes) => Some(Message::Binary(bytes)),
                None => {
                    stdin_open = false;
                    text(&Input::CloseStdin)
                }
            },
            _ = ping.tick() => Some(Message::Ping(Bytes::new())),
        };
        if let Some(message) = message
            && sink.send(message).await.is_err()
        {
            break;
        }
    }
    std::future::pending().await
}

fn text(input: &Input) -> Option<Message> {
    serde_json::to_string(input).ok().map(Message::text)
}

fn encode(doing: &str, input: &Input) -> Result<Message> {
    serde_json::to_string(input).map(Message::text).map_err(|e| Error::new(ErrorKind::Internal, doing, e))
}

fn broken(doing: &str, error: tungstenite::Error) -> Error {
    Error::new(ErrorKind::Unavailable, doing, error)
}
