//! Reading log files by position, while they grow and rotate.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use moat_agent::protocol::StreamName;

use super::workload_log::WorkloadLog;

/// Most lines a reader may ask for from the end: with lines of usual length, about what the files hold.
pub const TAIL_LINES_MAX: u64 = 1_000_000;

/// Bytes looked at in one step when counting lines backwards.
const TAIL_STEP: u64 = 64 << 10;

/// Bytes at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Position of the first byte. Later than asked if what was asked for is gone.
    pub at: u64,
    /// The bytes; empty at the end.
    pub bytes: Bytes,
}

/// Reads one stream of a workload. Rotation does not concern it: it asks by position.
#[derive(Debug)]
pub struct Reader {
    log: Arc<WorkloadLog>,
    stream: StreamName,
    open: Option<(u64, File)>,
}

impl Reader {
    /// A reader of `stream`.
    pub fn new(log: Arc<WorkloadLog>, stream: StreamName) -> Self {
        Self { log, stream, open: None }
    }

    /// At most `max` bytes from `position` on. Blocking.
    pub fn read(&mut self, position: u64, max: usize) -> io::Result<Piece> {
        // A file may be deleted between finding and opening it; what was oldest then is older now, so this ends.
        loop {
            let Some(place) = self.log.with(self.stream, |log| log.locate(position)) else {
                let end = self.log.with(self.stream, |log| log.end());
                return Ok(Piece { at: position.min(end), bytes: Bytes::new() });
            };
            let file = match &self.open {
                Some((number, file)) if *number == place.number => file,
                _ => {
                    let path = self.log.with(self.stream, |log| log.path(place.number));
                    match File::open(path) {
                        Ok(file) => &self.open.insert((place.number, file)).1,
                        Err(error) if error.kind() == io::ErrorKind::NotFound && self.moved_on(place.number) => {
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            let len = usize::try_from(place.available).unwrap_or(usize::MAX).min(max);
            let mut bytes = vec![0u8; len];
            file.read_exact_at(&mut bytes, place.offset)?;
            return Ok(Piece { at: place.at, bytes: bytes.into() });
        }
    }

    /// At most `max` bytes from `position` on, through as many files as it takes. Blocking.
    pub fn read_through(&mut self, position: u64, max: usize) -> io::Result<Piece> {
        let first = self.read(position, max)?;
        let mut bytes = match first.bytes.len() {
            0 => return Ok(first),
            len if len == max => return Ok(first),
            _ => first.bytes.to_vec(),
        };
        loop {
            let at = first.at + bytes.len() as u64;
            let piece = self.read(at, max - bytes.len())?;
            // Anything else is a gap, or the end.
            if piece.bytes.is_empty() || piece.at != at {
                return Ok(Piece { at: first.at, bytes: bytes.into() });
            }
            bytes.extend_from_slice(&piece.bytes);
            if bytes.len() >= max {
                return Ok(Piece { at: first.at, bytes: bytes.into() });
            }
        }
    }

    fn moved_on(&self, number: u64) -> bool {
        let oldest = self.log.with(self.stream, |log| log.locate(0).map(|place| place.number));
        oldest.is_some_and(|oldest| oldest > number)
    }
}

/// Position from which the last `lines` lines of a stream begin. An unfinished last line counts as one. Blocking.
pub fn tail_position(log: &Arc<WorkloadLog>, stream: StreamName, lines: u64) -> io::Result<u64> {
    let (begin, end) = log.with(stream, |log| (log.begin(), log.end()));
    if lines == 0 {
        return Ok(end);
    }
    let mut reader = Reader::new(Arc::clone(log), stream);
    let mut left = lines.min(TAIL_LINES_MAX);
    let mut upto = end;
    while upto > begin {
        let from = upto.saturating_sub(TAIL_STEP).max(begin);
        let piece = reader.read_through(from, usize::try_from(upto - from).unwrap_or(usize::MAX))?;
        if piece.at != from {
            return Ok(piece.at); // deleted meanwhile: what is gone has no lines to count
        }
        for at in memchr::memrchr_iter(b'\n', &piece.bytes) {
            let after = from + at as u64 + 1;
            if after == end {
                continue; // the newline that ends the last line begins none
            }
            left -= 1;
            if left == 0 {
                return Ok(after);
            }
        }
        upto = from;
    }
    Ok(begin)
}
