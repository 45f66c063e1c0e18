//! Compressed layers by digest: written under a partial name that the next pull goes on with, verified, then named.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use moat_model::ErrorKind;
use sha2::Digest as _;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::Digest;
use crate::disk;
use crate::error::{Error, Result};
use crate::manifest::Descriptor;
use crate::registry::Sink;

/// Pieces between the network and the disk. A piece is one read of a socket, some 16 KiB: enough to keep both busy, and
/// less than a megabyte for each layer under way.
const PIECES: usize = 64;

/// Buffer for hashing what is there already.
const READ_AT_ONCE: usize = 256 << 10;

/// Where blobs lie.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    /// Whole ones, by their hex digits.
    pub dir: PathBuf,
    /// The others.
    pub partial: PathBuf,
}

impl Blobs {
    /// A whole one.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// One under way.
    pub fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.partial.join(digest.hex())
    }

    /// Whether it is there with this size. Its content was verified before it got its name.
    pub fn has(&self, blob: &Descriptor) -> bool {
        std::fs::metadata(self.path(&blob.digest)).is_ok_and(|meta| meta.len() == blob.size)
    }

    /// Begins to write one, or goes on. The lock is held by the thread that writes, until it has really ended: a dropped
    /// transfer and the next one never write at once.
    pub async fn receive(&self, blob: &Descriptor, lock: OwnedMutexGuard<()>) -> Result<Receiving> {
        let (pieces, queue) = mpsc::channel(PIECES);
        let (begun, begin) = oneshot::channel();
        let place =
            Place { partial: self.partial_path(&blob.digest), whole: self.path(&blob.digest), blob: blob.clone() };
        let writer = tokio::task::spawn_blocking(move || {
            let _lock = lock;
            write(&place, queue, begun)
        });
        match begin.await {
            Ok(have) => Ok(Receiving { have, resumed: have, pieces, writer: Some(writer) }),
            Err(_) => match writer.await.map_err(disk::lost)? {
                Err(error) => Err(error),
                Ok(_) => Err(Error::new(ErrorKind::Internal, "a writer ended before it began")),
            },
        }
    }
}

enum Piece {
    More(Bytes),
    Restart,
    End,
}

/// How a blob ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// Verified, and under its name.
    Whole,
    /// Other bytes than asked for; they are gone.
    Other(Digest),
    /// Left as it was for the next pull.
    Partial,
}

/// A blob being written.
#[derive(Debug)]
pub(crate) struct Receiving {
    have: u64,
    /// How many bytes were there before.
    pub resumed: u64,
    pieces: mpsc::Sender<Piece>,
    /// Until it was seen to end.
    writer: Option<JoinHandle<Result<Received>>>,
}

impl Receiving {
    /// All is sent: verify and name it.
    pub async fn end(mut self) -> Result<Received> {
        // If the writer is gone, it says below why.
        let _ = self.pieces.send(Piece::End).await;
        self.ended().await
    }

    /// Nothing more will come: keep what there is.
    pub async fn leave(self) -> Result<()> {
        let Self { pieces, writer, .. } = self;
        drop(pieces);
        match writer {
            Some(writer) => writer.await.map_err(disk::lost)?.map(drop),
            // It had failed, and whoever sent to it was told.
            None => Ok(()),
        }
    }

    async fn send(&mut self, piece: Piece) -> Result<()> {
        if self.pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        self.ended().await?;
        Err(Error::new(ErrorKind::Internal, "a writer ended too early"))
    }

    /// How the writer ended: once.
    async fn ended(&mut self) -> Result<Received> {
        let Some(writer) = &mut self.writer else {
            return Err(Error::new(ErrorKind::Internal, "a writer that had ended was asked again"));
        };
        let ended = writer.await;
        self.writer = None;
        ended.map_err(disk::lost)?
    }
}

impl Sink for Receiving {
    fn have(&self) -> u64 {
        self.have
    }

    async fn put(&mut self, piece: Bytes) -> Result<()> {
        let len = piece.len() as u64;
        self.send(Piece::More(piece)).await?;
        self.have += len;
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        self.send(Piece::Restart).await?;
        self.have = 0;
        self.resumed = 0;
        Ok(())
    }
}

struct Place {
    partial: PathBuf,
    whole: PathBuf,
    blob: Descriptor,
}

fn write(place: &Place, mut queue: mpsc::Receiver<Piece>, begun: oneshot::Sender<u64>) -> Result<Received> {
    let failed = |e| disk::failed("write", &place.partial, e);
    let mut options = File::options();
    let mut file = options.read(true).write(true).create(true).truncate(false).open(&place.partial).map_err(failed)?;
    let (mut hash, have) = hash_of_start(&mut file, place.blob.size).map_err(failed)?;
    if begun.send(have).is_err() {
        return Ok(Received::Partial);
    }
    loop {
        match queue.blocking_recv() {
            Some(Piece::More(bytes)) => {
                file.write_all(&bytes).map_err(failed)?;
                hash.update(&bytes);
            }
            Some(Piece::Restart) => {
                hash = sha2::Sha256::new();
                file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
            }
            Some(Piece::End) => break,
            None => return Ok(Received::Partial),
        }
    }
    let is = Digest::from_bytes(hash.finalize().into());
    if is != place.blob.digest {
        disk::remove(&place.partial)?;
        return Ok(Received::Other(is));
    }
    file.sync_all().map_err(failed)?;
    disk::publish(&place.partial, &place.whole)?;
    Ok(Received::Whole)
}

/// Hashes what an earlier transfer left. More than there should be is of no use.
fn hash_of_start(file: &mut File, size: u64) -> std::io::Result<(sha2::Sha256, u64)> {
    let mut hash = sha2::Sha256::new();
    let len = file.metadata()?.len();
    if len >= size {
        file.set_len(0)?;
        return Ok((hash, 0));
    }
    let mut buffer = vec![0; READ_AT_ONCE];
    let mut have = 0_u64;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => {
                hash.update(buffer.get(..n).unwrap_or_default());
                have += n as u64;
            }
        }
    }
    file.seek(SeekFrom::Start(have))?;
    Ok((hash, have))
}

/// The digest of a whole file, for what comes without one.
pub(crate) fn digest_of_file(path: &Path) -> Result<Digest> {
    let failed = |e| disk::failed("read", path, e);
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; READ_AT_ONCE];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(Digest::from_bytes(hash.finalize().into())),
            n => hash.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}
