//! What a monitor says of itself, bounded.
//!
//! A guest can make its monitor complain as often as it likes. So log and metrics go to pipes: what nobody reads in time is lost,
//! to the monitor's knowledge, and takes no more than a pipe holds, also while no daemon is there. The daemon reads them into
//! files of a bounded size in the machine's run directory, for the operator and for the cause of an end.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::jail::{Jail, LOG, METRICS};
use crate::linux::readiness;

/// Where a log is begun anew; the one before is kept beside it.
const LOG_LEN_MAX: u64 = 256 << 10;
/// Longest line of metrics: five times what a monitor with thirty devices writes.
const METRICS_LEN_MAX: usize = 256 << 10;
/// What is remembered of it for the cause of an end: some lines.
const LAST_LEN: usize = 4 << 10;
/// One read: what a pipe holds.
const READ_LEN: usize = 64 << 10;
/// Name of the metrics in the run directory: the last ones written, one JSON object.
pub const METRICS_FILE: &str = "metrics.json";

/// Reads log and metrics for as long as the monitor lives, and ends soon after it with what it said last.
pub fn start(jail: &Jail, pidfd: OwnedFd, log: PathBuf, run_dir: &Path) -> io::Result<JoinHandle<String>> {
    let process = readiness::register(pidfd)?;
    let (log_pipe, metrics_pipe) =
        (readiness::register(jail.open_pipe(LOG)?)?, readiness::register(jail.open_pipe(METRICS)?)?);
    let mut log = LogFile { path: log, last: Vec::new() };
    let mut metrics = MetricsFile { path: run_dir.join(METRICS_FILE), line: Vec::new(), skipping: false };
    Ok(tokio::spawn(async move {
        let ended = async {
            // If it cannot be watched, it is taken for ended: nothing depends on this but what is written down.
            let _ = process.readable().await;
        };
        tokio::select! {
            () = ended => {}
            () = carry(&log_pipe, |bytes| log.write(bytes)) => {}
            () = carry(&metrics_pipe, |bytes| metrics.write(bytes)) => {}
        }
        // What it said last is in the pipes still.
        let mut rest = Vec::new();
        if read_now(log_pipe.get_ref(), &mut rest).is_ok() {
            log.write(&rest);
        }
        if read_now(metrics_pipe.get_ref(), &mut rest).is_ok() {
            metrics.write(&rest);
        }
        String::from_utf8_lossy(&log.last).into_owned()
    }))
}

/// Ends only if the pipe fails.
async fn carry(pipe: &AsyncFd<OwnedFd>, mut to: impl FnMut(&[u8])) {
    let mut piece = Vec::new();
    while let Ok(mut ready) = pipe.readable().await {
        match ready.try_io(|pipe| read_now(pipe.get_ref(), &mut piece)) {
            Ok(Ok(())) => to(&piece),
            Ok(Err(_)) => return,
            Err(_) => {}
        }
    }
}

fn read_now(pipe: &OwnedFd, into: &mut Vec<u8>) -> io::Result<()> {
    into.resize(READ_LEN, 0);
    let read = rustix::io::read(pipe, &mut *into)?;
    into.truncate(read);
    Ok(())
}

/// What is in the log's pipe now, for a monitor that ended before it was watched. Most of a pipe is read.
pub fn drain(jail: &Jail) -> String {
    let mut text = Vec::new();
    if let Ok(pipe) = jail.open_pipe(LOG) {
        let mut file = File::from(pipe).take(READ_LEN as u64);
        // It ends with "would block": the pipe is open for writing, by this descriptor.
        let _ = file.read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    /// The end of it.
    last: Vec<u8>,
}

impl LogFile {
    /// Losing some of a log must not end what is logged.
    fn write(&mut self, bytes: &[u8]) {
        // One line may come in several pieces.
        self.last.extend_from_slice(bytes.get(bytes.len().saturating_sub(LAST_LEN)..).unwrap_or_default());
        self.last.drain(..self.last.len().saturating_sub(LAST_LEN));
        if let Err(error) = self.append(bytes) {
            tracing::debug!(path = %self.path.display(), %error, "the log of a machine's monitor cannot be written");
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let open = || File::options().append(true).create(true).mode(0o600).open(&self.path);
        let mut file = open()?;
        if file.metadata()?.len() + bytes.len() as u64 > LOG_LEN_MAX {
            fs::rename(&self.path, self.path.with_extension("log.old"))?;
            file = open()?;
        }
        file.write_all(bytes)
    }
}

/// Keeps the last whole line.
#[derive(Debug)]
struct MetricsFile {
    path: PathBuf,
    line: Vec<u8>,
    /// The line that comes is too long, or was begun before.
    skipping: bool,
}

impl MetricsFile {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() > METRICS_LEN_MAX {
                self.skipping = true;
                self.line.clear();
            }
            if part.ends_with(b"\n") {
                if !self.skipping && serde_json::from_slice::<serde::de::IgnoredAny>(&self.line).is_ok() {
                    self.keep();
                }
                self.skipping = false;
                self.line.clear();
            }
        }
    }

    fn keep(&self) {
        let next = self.path.with_extension("json.tmp");
        let kept = fs::write(&next, &self.line).and_then(|()| fs::rename(&next, &self.path));
        if let Err(error) = kept {
            tracing::debug!(path = %self.path.display(), %error, "metrics of a machine's monitor cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_two_files_of_a_bounded_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmm.log");
        let mut log = LogFile { path: path.clone(), last: Vec::new() };
        for n in 0..200 {
            log.write(&vec![b'x'; 60 << 10]);
            log.write(format!("\nline {n}\n").as_bytes());
        }
        let total: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(total <= 2 * LOG_LEN_MAX, "{total}");
        assert_eq!(crate::vm::process::last_line(&path).unwrap(), "line 199");
    }

    #[test]
    fn the_last_whole_line_of_metrics_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.json");
        let mut metrics = MetricsFile { path: path.clone(), line: Vec::new(), skipping: false };
        metrics.write(b"{\"a\":1}\n{\"a\"");
        metrics.write(b":2}\nnot json\n{\"a\":3");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":2}\n");
        metrics.write(&vec![b'x'; 2 * METRICS_LEN_MAX]);
        assert!(metrics.line.is_empty());
        metrics.write(b"\n{\"a\":4}\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":4}\n");
    }
}
