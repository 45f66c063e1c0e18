//! The two output streams of one task of an allocation, across all its starts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use moat_agent::protocol::{Offsets, StreamName};
use moat_model::SandboxId;
use tokio::sync::watch;

use super::reader::Piece;
use super::rotation::Rotation;
use super::stream_log::StreamLog;
use super::stream_text;

/// How far back a search for lines reads at a time.
const TAIL_STEP: u64 = 64 << 10;

/// Files `<task>.stdout.N` and `<task>.stderr.N` in one directory.
#[derive(Debug)]
pub struct TaskLog {
    stdout: Stream,
    stderr: Stream,
}

#[derive(Debug)]
struct Stream {
    log: Mutex<StreamLog>,
    end: watch::Sender<u64>,
}

impl Stream {
    fn open(dir: &Path, prefix: &str, rotation: Rotation) -> io::Result<Self> {
        let log = StreamLog::open(dir, prefix, rotation)?;
        let end = watch::Sender::new(log.end());
        Ok(Self { log: Mutex::new(log), end })
    }

    fn with<T>(&self, f: impl FnOnce(&mut StreamLog) -> T) -> T {
        f(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl TaskLog {
    /// Opens the files as they were left. Blocking.
    pub fn open(dir: &Path, task: &str, rotation: Rotation) -> io::Result<Arc<Self>> {
        let open = |stream| Stream::open(dir, &format!("{task}.{}", stream_text(stream)), rotation);
        Ok(Arc::new(Self { stdout: open(StreamName::Stdout)?, stderr: open(StreamName::Stderr)? }))
    }

    fn stream(&self, stream: StreamName) -> &Stream {
        match stream {
            StreamName::Stdout => &self.stdout,
            StreamName::Stderr => &self.stderr,
        }
    }

    /// Bytes of a sandbox's output that are safe.
    pub fn written(&self, sandbox: &SandboxId) -> Offsets {
        let of = |stream| self.stream(stream).with(|log| log.written(sandbox));
        Offsets { stdout: of(StreamName::Stdout), stderr: of(StreamName::Stderr) }
    }

    /// Appends output of one start of the task; what is known already is skipped. Blocking.
    pub fn append(&self, sandbox: &SandboxId, stream: StreamName, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let stream = self.stream(stream);
        let outcome = stream.with(|log| log.append(sandbox, offset, bytes, None));
        let end = stream.with(|log| log.end());
        stream.end.send_replace(end);
        outcome.map(drop)
    }

    /// Where a stream begins, the oldest byte still kept, and where it ends.
    pub fn bounds(&self, stream: StreamName) -> (u64, u64) {
        self.stream(stream).with(|log| (log.begin(), log.end()))
    }

    /// Changes when a stream grows.
    pub fn watch_end(&self, stream: StreamName) -> watch::Receiver<u64> {
        self.stream(stream).end.subscribe()
    }

    /// Bytes from a position on, at most `max`, and where they lie: later than asked if that is no longer kept. Empty at the
    /// end. Blocking.
    pub fn read(&self, stream: StreamName, position: u64, max: usize) -> io::Result<Piece> {
        let stream = self.stream(stream);
        loop {
            let found =
                stream.with(|log| (log.locate(position).map(|place| (place, log.path(place.number))), log.end()));
            let (Some((place, path)), _) = found else {
                return Ok(Piece { at: position.min(found.1), bytes: Bytes::new() });
            };
            let file = match File::open(path) {
                Ok(file) => file,
                // Deleted between the two looks: the stream begins later now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let begins = stream.with(|log| log.locate(position).map(|place| place.number));
                    if begins.is_some_and(|number| number > place.number) {
                        continue;
                    }
                    return Err(error);
                }
                Err(error) => return Err(error),
            };
            let len = usize::try_from(place.available).unwrap_or(usize::MAX).min(max);
            let mut bytes = vec![0u8; len];
            file.read_exact_at(&mut bytes, place.offset)?;
            return Ok(Piece { at: place.at, bytes: bytes.into() });
        }
    }

    /// Where the last `lines` lines begin. Blocking.
    pub fn tail(&self, stream: StreamName, lines: u64) -> io::Result<u64> {
        let (begin, end) = self.bounds(stream);
        let mut left = lines;
        let mut upto = end;
        while upto > begin && left > 0 {
            let from = upto.saturating_sub(TAIL_STEP).max(begin);
            let mut bytes = Vec::new();
            while from + (bytes.len() as u64) < upto {
                let at = from + bytes.len() as u64;
                let piece = self.read(stream, at, usize::try_from(upto - at).unwrap_or(usize::MAX))?;
                if piece.at != at || piece.bytes.is_empty() {
                    // Deleted meanwhile: what is gone has no lines to count.
                    return Ok(piece.at);
                }
                bytes.extend_from_slice(&piece.bytes);
            }
            for at in memchr::memrchr_iter(b'\n', &bytes) {
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
        Ok(if lines == 0 { end } else { begin })
    }
}
