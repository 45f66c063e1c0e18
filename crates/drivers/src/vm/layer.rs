//! What a machine says changed in its root, as a layer. Its archive is somebody else's: bounded, checked while it streams.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::{Buf as _, Bytes};
use moat_engine::driver::Captured;
use moat_engine::error::{Error, Result};
use moat_engine::guest::BytesOut;
use moat_image::erofs::{Compression, Limits, RootBuilder};
use moat_model::ErrorKind;

/// Reads an archive of an OCI layer to its end and writes what it says as one layer of an overlay to the new file `into`, synced.
/// `disk_bytes` bounds it: more cannot have changed on a disk of that size.
pub async fn write(archive: BytesOut, disk_bytes: u64, into: &Path) -> Result<Captured> {
    let into: PathBuf = into.to_owned();
    tokio::task::spawn_blocking(move || write_now(archive, disk_bytes, &into))
        .await
        .map_err(|e| Error::caused_by(ErrorKind::Internal, "capture", e))?
}

fn write_now(archive: BytesOut, disk_bytes: u64, into: &Path) -> Result<Captured> {
    let made = File::options().read(true).write(true).create_new(true).mode(0o600).open(into);
    let file = made.map_err(|e| Error::caused_by(ErrorKind::Internal, format!("make {}", into.display()), e))?;
    // Holes count for what they stand for: a sparse file may be larger than the disk it is on, within reason.
    let limits = Limits { bytes_max: disk_bytes.saturating_mul(4), ..Limits::default() };
    let builder = RootBuilder::new(file, 1, limits);
    let mut reader = Pieces { archive, piece: Bytes::new(), failure: None };
    let read = builder.add_overlay(0, Compression::None, 0, &mut reader);
    // What the guest's side says went wrong is the cause; that the archive then ends early is its consequence.
    if let Some(failure) = reader.failure.take() {
        return Err(failure);
    }
    read?;
    let written = builder.finish()?;
    Ok(Captured { bytes: written.bytes, entries: written.entries, memory: false })
}

/// Pieces as they come, for a reader that blocks.
struct Pieces {
    archive: BytesOut,
    piece: Bytes,
    failure: Option<Error>,
}

impl Read for Pieces {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.archive.blocking_recv() {
                None => return Ok(0),
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => {
                    self.failure = Some(error);
                    return Err(io::Error::other("the machine did not send all of it"));
                }
            }
        }
        let length = to.len().min(self.piece.len());
        self.piece.copy_to_slice(to.get_mut(..length).unwrap_or_default());
        Ok(length)
    }
}
