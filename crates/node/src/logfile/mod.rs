//! Log files of workloads: what programs wrote, kept in bounded rotating files beside the live subjects.
//!
//! A workload has two streams; each is a run of files `<name>.stdout.0`, `<name>.stdout.1`, … that are only ever appended
//! to and never renamed. All attempts (sandboxes) of a workload append to the same files. A *position* is a number of
//! bytes since the first byte the workload ever wrote to that stream; it stays meaningful when old files are deleted.
//!
//! **Why a position survives `kill -9` at any point.** Each stream has a small index, replaced by write-and-rename, that
//! says at which position every file begins and at which position the sandbox that writes now began. A file is named in
//! the index before it is created and forgotten there before it is deleted. How much is safe is then never recorded, it
//! is *observed*: the last file's beginning plus its length. A write that was torn by the kill has the length that the
//! kernel gave it, so the sandbox's position after a restart is exactly what is in the file, and the agent, which keeps
//! everything unacknowledged, sends the rest.
//!
//! Start at [`WorkloadLog`].

mod index;
mod reader;
mod rotation;
mod stream_log;
mod task_log;
#[cfg(test)]
mod tests;
mod workload_log;

pub use reader::{Piece, Reader, TAIL_LINES_MAX, tail_position};
pub use rotation::Rotation;
pub use stream_log::{Progress, StreamLog};
pub use task_log::TaskLog;
pub(crate) use workload_log::inspect;
pub use workload_log::{Cursor, WorkloadLog, WorkloadRef};

/// The part of a file's name that names its stream.
pub fn stream_text(stream: moat_agent::protocol::StreamName) -> &'static str {
    match stream {
        moat_agent::protocol::StreamName::Stdout => "stdout",
        moat_agent::protocol::StreamName::Stderr => "stderr",
    }
}

/// Writes a small file so that a reader sees the old text or the new, never a part.
pub(crate) fn replace_file(path: &std::path::Path, text: &[u8], mode: u32) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = std::path::PathBuf::from(temporary);
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(text)?;
    std::fs::rename(&temporary, path)
}
