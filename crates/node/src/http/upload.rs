//! Bodies without an end in sight: into a sandbox, onto disk, and out to a client.

use std::path::{Path, PathBuf};

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use moat_api::rest::file::Uploaded;
use moat_engine::guest::{BytesIn, BytesOut};
use moat_model::ErrorKind;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Failure};
use super::body::{PROGRESS_MAX, next_piece};
use super::presence::Presence;

/// Carries a body into a sandbox. A client that breaks off leaves nothing there.
pub(super) async fn into_sandbox(body: Body, mut sink: BytesIn, mut presence: Presence) -> Answer<Uploaded> {
    let mut pieces = body.into_data_stream();
    let late =
        |_| Failure::new(ErrorKind::Deadline, format!("the sandbox took no byte for {} s", PROGRESS_MAX.as_secs()));
    while let Some(piece) = next_piece(&mut pieces).await? {
        presence.note();
        tokio::time::timeout(PROGRESS_MAX, sink.send(piece)).await.map_err(late)??;
    }
    let pushed = sink.finish().await?;
    Ok(Uploaded { bytes: pushed.bytes, entries: pushed.entries })
}

/// Carries bytes out of a sandbox. If they break off, so does the answer: it is never short and well-formed.
pub(super) fn out_of_sandbox(
    source: BytesOut,
    content_type: &'static str,
    presence: Presence,
    closing: CancellationToken,
) -> Response {
    // One piece on its way, one in the socket: what is in memory does not depend on the file.
    let (pieces, taken) = mpsc::channel(1);
    tokio::spawn(async move {
        closing.run_until_cancelled(carry(source, presence, pieces)).await;
    });
    let stream = futures::stream::unfold(Some(taken), |taken| async {
        let mut taken = taken?;
        match taken.recv().await {
            Some(Carried::Piece(bytes)) => Some((Ok(bytes), Some(taken))),
            Some(Carried::All) => None,
            Some(Carried::Broken(error)) => Some((Err(error), None)),
            None => Some((Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)), None)),
        }
    });
    ([(CONTENT_TYPE, content_type)], Body::from_stream(stream)).into_response()
}

enum Carried {
    Piece(Bytes),
    /// That was everything.
    All,
    Broken(std::io::Error),
}

/// Ends when the client takes nothing for too long: what it holds in the sandbox is let go.
async fn carry(mut source: BytesOut, mut presence: Presence, pieces: mpsc::Sender<Carried>) {
    loop {
        presence.note();
        let piece = match tokio::time::timeout(PROGRESS_MAX, source.recv()).await {
            Ok(None) => Carried::All,
            Ok(Some(Ok(bytes))) => Carried::Piece(bytes),
            Ok(Some(Err(error))) => Carried::Broken(std::io::Error::other(error.chain())),
            Err(_) => Carried::Broken(std::io::Error::from(std::io::ErrorKind::TimedOut)),
        };
        let last = !matches!(piece, Carried::Piece(_));
        let sent = tokio::time::timeout(PROGRESS_MAX, pieces.send(piece)).await;
        if last || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

/// A file that is removed when it is no longer needed.
#[derive(Debug)]
pub(super) struct Scratch(pub PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "remove a file that was sent for an import");
        }
    }
}

/// Carries a body into a new file below a directory.
pub(super) async fn onto_disk(body: Body, dir: &Path, limit: u64) -> Answer<Scratch> {
    let failed = |doing: &str, error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::Exhausted,
            _ => ErrorKind::Unavailable,
        };
        Failure::new(kind, format!("{doing} the archive on the node: {error}"))
    };
    tokio::fs::create_dir_all(dir).await.map_err(|error| failed("keep", error))?;
    let path = dir.join(format!("import-{}", uuid::Uuid::new_v4().simple()));
    let file = tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).await;
    let mut file = file.map_err(|error| failed("keep", error))?;
    let scratch = Scratch(path);
    let (mut pieces, mut bytes) = (body.into_data_stream(), 0_u64);
    while let Some(piece) = next_piece(&mut pieces).await? {
        bytes += piece.len() as u64;
        if bytes > limit {
            return Err(Failure::new(ErrorKind::InvalidSpec, format!("the archive is larger than {limit} bytes"))
                .with_status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        file.write_all(&piece).await.map_err(|error| failed("write", error))?;
    }
    file.flush().await.map_err(|error| failed("write", error))?;
    Ok(scratch)
}
