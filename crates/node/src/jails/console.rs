//! What the main program of a jail wrote: kept over its starts, in files that are rotated.

use std::sync::Arc;
use std::time::Duration;

use moat_agent::protocol::StreamName;
use moat_model::ErrorKind;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::logfile::TaskLog;

use super::front::{ConsolePieces, ConsoleWanted};
use super::life;
use super::table::{Key, Shared};

/// Bytes read at once.
const PIECE: usize = 64 << 10;
/// Pieces that wait for a reader: a quarter of a MiB.
const WAITING_MAX: usize = 4;
/// How often a followed log is looked at without news, to see whether its jail is there still.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Most lines asked for.
const LINES_MAX: u64 = 100_000;
const STREAMS: [StreamName; 2] = [StreamName::Stdout, StreamName::Stderr];

pub(super) async fn read(
    shared: &Arc<Shared>,
    key: &Key,
    wanted: ConsoleWanted,
    follow: bool,
) -> Result<ConsolePieces> {
    shared.record(key)?;
    let log = shared.base.outlet.task_log(life::console(shared, key)).await?;
    let (tell, pieces) = mpsc::channel(WAITING_MAX);
    let (this, key, closed) = (Arc::clone(shared), key.clone(), shared.closed.clone());
    shared.tasks.spawn(async move {
        closed.run_until_cancelled(carry(this, key, log, wanted, follow, tell)).await;
    });
    Ok(pieces)
}

async fn carry(
    shared: Arc<Shared>,
    key: Key,
    log: Arc<TaskLog>,
    wanted: ConsoleWanted,
    follow: bool,
    tell: mpsc::Sender<Result<bytes::Bytes>>,
) {
    let mut grown = STREAMS.map(|stream| log.watch_end(stream));
    let mut places = match begin(&log, wanted).await {
        Ok(places) => places,
        Err(error) => return drop(tell.send(Err(error)).await),
    };
    loop {
        let [out, err] = &mut grown;
        out.borrow_and_update();
        err.borrow_and_update();
        let mut quiet = true;
        for (stream, place) in STREAMS.into_iter().zip(&mut places) {
            let (reader, at) = (Arc::clone(&log), *place);
            let read = tokio::task::spawn_blocking(move || reader.read(stream, at, PIECE)).await;
            match read.map_err(std::io::Error::other).and_then(|piece| piece) {
                Ok(piece) if piece.bytes.is_empty() => {}
                Ok(piece) => {
                    quiet = false;
                    *place = piece.at + piece.bytes.len() as u64;
                    if tell.send(Ok(piece.bytes)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let error = Error::caused_by(ErrorKind::Unavailable, "read a console log", error);
                    return drop(tell.send(Err(error)).await);
                }
            }
        }
        if quiet && (!follow || shared.record(&key).is_err()) {
            return;
        }
        if quiet {
            tokio::select! {
                () = tell.closed() => return,
                _ = out.changed() => {}
                _ = err.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

async fn begin(log: &Arc<TaskLog>, wanted: ConsoleWanted) -> Result<[u64; 2]> {
    let ConsoleWanted::Lines(lines) = wanted else { return Ok(STREAMS.map(|stream| log.bounds(stream).0)) };
    let lines = u64::try_from(lines).unwrap_or(LINES_MAX).min(LINES_MAX);
    let reader = Arc::clone(log);
    let found = tokio::task::spawn_blocking(move || {
        let [out, err] = STREAMS.map(|stream| reader.tail(stream, lines));
        Ok::<_, std::io::Error>([out?, err?])
    });
    let failed =
        |e: std::io::Error| Error::caused_by(ErrorKind::Unavailable, "find the last lines of a console log", e);
    found.await.map_err(std::io::Error::other).and_then(|places| places).map_err(failed)
}
