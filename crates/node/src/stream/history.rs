//! The `logs` verb: a piece of a workload's history, from its files.

use std::io;
use std::sync::Arc;

use moat_agent::protocol::StreamName::{self, Stderr, Stdout};
use moat_api::WireError;
use moat_api::nex::{Level, LogCursor};
use moat_api::sandbox::{HistoryLine, LOG_BYTES_MAX, LogsRequest, LogsResponse};

use super::encode;
use crate::error::Result;
use crate::logfile::{Reader, WorkloadLog, tail_position};
use crate::outlet::blocking;

/// Largest answer. NATS carries 1 MiB by default.
const ANSWER_MAX: usize = 1_000_000;

/// Longest line in an answer: as long as a live one.
const LINE_MAX: usize = 64 << 10;

/// The next piece.
pub(crate) async fn read(log: Arc<WorkloadLog>, request: LogPlace) -> Result<LogsResponse> {
    let work = move || piece(&log, start(&log, request)?, LOG_BYTES_MAX / 2);
    blocking("read the log", work).await
}

/// Where to begin.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogPlace {
    /// Only so many lines before the end. Ignored with `after`.
    pub tail: Option<u32>,
    /// Only what comes after this place.
    pub after: Option<LogCursor>,
}

/// Answers with the next piece.
pub(super) async fn answer(log: Arc<WorkloadLog>, request: LogsRequest) -> std::result::Result<Vec<u8>, WireError> {
    let work = move || {
        let from = start(&log, LogPlace { tail: request.tail, after: request.after })?;
        // Control characters take six bytes each in JSON: then the piece is made smaller until it fits.
        let mut budget = LOG_BYTES_MAX / 2;
        loop {
            let answer = encode(&piece(&log, from, budget)?);
            if answer.len() <= ANSWER_MAX || budget < 1024 {
                return Ok(answer);
            }
            budget /= 2;
        }
    };
    blocking("read the log", work).await.map_err(|error| WireError::new(error.kind, error.chain()))
}

fn start(log: &Arc<WorkloadLog>, request: LogPlace) -> io::Result<LogCursor> {
    match (request.after, request.tail) {
        (Some(after), _) => Ok(after),
        (None, Some(lines)) => Ok(LogCursor {
            stdout: tail_position(log, Stdout, u64::from(lines))?,
            stderr: tail_position(log, Stderr, u64::from(lines))?,
        }),
        (None, None) => Ok(log.begin()),
    }
}

/// At most `budget` bytes of each stream. The streams are not interleaved: files do not say which byte came first.
fn piece(log: &Arc<WorkloadLog>, from: LogCursor, budget: usize) -> io::Result<LogsResponse> {
    let mut lines = Vec::new();
    let end = log.end();
    let cursor = LogCursor {
        stdout: take(log, Stdout, from.stdout, budget, &mut lines)?,
        stderr: take(log, Stderr, from.stderr, budget, &mut lines)?,
    };
    Ok(LogsResponse { lines, cursor, more: !cursor.covers(end) })
}

fn take(
    log: &Arc<WorkloadLog>,
    stream: StreamName,
    from: u64,
    budget: usize,
    lines: &mut Vec<HistoryLine>,
) -> io::Result<u64> {
    let level = match stream {
        Stdout => Level::INFO,
        Stderr => Level::ERROR,
    };
    let piece = Reader::new(Arc::clone(log), stream).read_through(from, budget)?;
    let mut rest: &[u8] = &piece.bytes;
    let whole = piece.bytes.len() == budget;
    let line_max = LINE_MAX.min(budget);
    while !rest.is_empty() {
        let (text, taken) = match memchr::memchr(b'\n', rest) {
            Some(at) if at <= line_max => (rest.get(..at), at + 1),
            // Cut off by the budget: the next piece begins with it.
            None if whole && rest.len() < line_max => break,
            _ => {
                let at = line_max.min(rest.len());
                (rest.get(..at), at)
            }
        };
        let text = String::from_utf8_lossy(text.unwrap_or_default()).into_owned();
        lines.push(HistoryLine { text, level });
        rest = rest.get(taken..).unwrap_or_default();
    }
    Ok(piece.at + (piece.bytes.len() - rest.len()) as u64)
}
