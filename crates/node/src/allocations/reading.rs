//! Logs and files as streams of pieces.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moat_agent::protocol::StreamName;
use moat_model::{AllocId, ErrorKind};
use tokio::sync::mpsc;

use super::Shared;
use super::files::{self, PIECE};
use super::front::{Origin, Piece, Pieces};
use crate::error::{Error, Result};
use crate::logfile::TaskLog;

/// Pieces that wait for a reader: a quarter of a MiB.
const WAITING_MAX: usize = 4;
/// How often a followed file, or the end of a task, is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Reads a log; `over` says when nothing more can come.
pub(super) async fn log(
    shared: Arc<Shared>,
    log: Arc<TaskLog>,
    stream: StreamName,
    from: Origin,
    follow: Option<(AllocId, String)>,
) -> Result<Pieces> {
    let (begin, end) = log.bounds(stream);
    let position = match from {
        Origin::Start(offset) => offset.max(begin).min(end),
        Origin::End(back) => end.saturating_sub(back).max(begin),
        Origin::Lines(lines) => {
            let log = Arc::clone(&log);
            let tail = tokio::task::spawn_blocking(move || log.tail(stream, lines)).await;
            tail.map_err(std::io::Error::other)
                .and_then(|at| at)
                .map_err(|e| Error::caused_by(ErrorKind::Unavailable, "find the last lines of a log", e))?
        }
    };
    let (tell, pieces) = mpsc::channel(WAITING_MAX);
    let detached = shared.detached.clone();
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        let reading = read_log(shared, log, stream, position, follow, tell);
        let _ = detached.run_until_cancelled(reading).await;
    });
    Ok(pieces)
}

async fn read_log(
    shared: Arc<Shared>,
    log: Arc<TaskLog>,
    stream: StreamName,
    mut position: u64,
    follow: Option<(AllocId, String)>,
    tell: mpsc::Sender<Result<Piece>>,
) {
    let mut grown = log.watch_end(stream);
    loop {
        // Asked before it is read: what was written before the end was seen is then in what is read.
        let over = follow.as_ref().is_none_or(|(id, task)| shared.task_is_over(id, task));
        grown.borrow_and_update();
        let reader = Arc::clone(&log);
        let read = tokio::task::spawn_blocking(move || reader.read(stream, position, PIECE)).await;
        match read.map_err(std::io::Error::other).and_then(|piece| piece) {
            Ok(piece) if !piece.bytes.is_empty() => {
                position = piece.at + piece.bytes.len() as u64;
                if tell.send(Ok(Piece { offset: piece.at, bytes: piece.bytes })).await.is_err() {
                    return;
                }
            }
            Ok(_) if over => return,
            Ok(_) => tokio::select! {
                () = tell.closed() => return,
                _ = grown.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            },
            Err(error) => {
                let _ = tell.send(Err(Error::caused_by(ErrorKind::Unavailable, "read a log", error))).await;
                return;
            }
        }
    }
}

/// Reads a file.
pub(super) async fn file(
    shared: Arc<Shared>,
    root: PathBuf,
    path: PathBuf,
    from: Origin,
    limit: Option<u64>,
    follow: Option<AllocId>,
) -> Result<Pieces> {
    let opened = tokio::task::spawn_blocking(move || files::begin(&root, &path, from)).await;
    let (mut file, mut at) = opened.map_err(|e| Error::caused_by(ErrorKind::Internal, "open a file", e))??;
    let (tell, pieces) = mpsc::channel(WAITING_MAX);
    let detached = shared.detached.clone();
    let tasks = shared.tasks.clone();
    let reading = async move {
        let mut left = limit.unwrap_or(u64::MAX);
        while left > 0 {
            let over = follow.as_ref().is_none_or(|id| shared.is_over(id));
            let max = usize::try_from(left).unwrap_or(usize::MAX);
            let read = tokio::task::spawn_blocking(move || (files::piece(&mut file, at, max), file)).await;
            let bytes = match read {
                Ok((Ok(bytes), back)) => {
                    file = back;
                    bytes
                }
                Ok((Err(error), _)) => {
                    let _ = tell.send(Err(Error::caused_by(ErrorKind::Unavailable, "read a file", error))).await;
                    return;
                }
                Err(_) => return,
            };
            if bytes.is_empty() {
                if over {
                    return;
                }
                tokio::select! {
                    () = tell.closed() => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                continue;
            }
            let len = bytes.len() as u64;
            if tell.send(Ok(Piece { offset: at, bytes: bytes.into() })).await.is_err() {
                return;
            }
            at += len;
            left = left.saturating_sub(len);
        }
    };
    tasks.spawn(async move {
        let _ = detached.run_until_cancelled(reading).await;
    });
    Ok(pieces)
}
