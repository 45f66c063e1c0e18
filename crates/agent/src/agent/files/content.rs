//! The bytes of one file, out and in.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use moat_agent::protocol::frame::AgentFrame;
use moat_agent::protocol::{CONTENT_LEN_MAX, Reply};
use moat_model::ErrorKind;
use rustix::fs::{Mode, OFlags};

use super::line::{Line, Outward, Stop};
use super::path::{absolute, permissions, refused};
use super::target::Target;
use crate::agent::failure::Failure;

/// Opens a regular file. A pipe or a device in its place neither holds this up nor is touched.
pub fn open_regular(path: &Path) -> Result<File, Failure> {
    let failed = |error: io::Error| refused("read", path.display(), error);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?);
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::Error::from_raw_os_error(libc::EISDIR)));
    }
    if !metadata.is_file() {
        return Err(Failure::new(ErrorKind::Conflict, format!("read {}: it is not a regular file", path.display())));
    }
    Ok(file)
}

/// Sends a file from an offset on.
pub fn read(line: &mut Line, path: &str, offset: u64, length: Option<u64>) -> Result<(), Stop> {
    let path = absolute("path", path)?;
    let mut file = open_regular(path)?;
    if offset > 0 {
        file.seek(SeekFrom::Start(offset)).map_err(|e| refused("read", path.display(), e))?;
    }
    line.reply(&Reply::Content)?;
    let mut file = file.take(length.unwrap_or(u64::MAX));
    let mut buffer = vec![0; CONTENT_LEN_MAX];
    let mut out = Outward::new(line);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return out.finish(1),
            Ok(n) => out.put(buffer.get(..n).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(refused("read", path.display(), error).into()),
        }
    }
}

/// Replaces a file with what comes.
pub fn write(line: &mut Line, path: &str, mode: Option<u32>) -> Result<(), Stop> {
    let path = absolute("path", path)?;
    let mode = mode.map(permissions).transpose()?;
    let mut writing = Target::find(path)?.begin()?;
    line.reply(&Reply::Content)?;
    while let Some(piece) = line.content()? {
        writing.put(&piece)?;
    }
    let bytes = writing.finish(mode)?;
    line.say(&AgentFrame::Done { bytes, entries: 1 })
}
