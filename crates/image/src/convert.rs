//! From layers to a root file: each is fed to the builder by a thread of its own, which gives up when nobody waits.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use moat_model::ErrorKind;
use sha2::Digest as _;

use crate::Digest;
use crate::disk;
use crate::erofs::{Compression, RootBuilder};
use crate::error::{Error, Result};
use crate::source::Part;

/// Tells the threads of a conversion to stop when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// What a thread looks at.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One layer to feed.
pub(crate) struct Feed {
    pub index: usize,
    pub part: Part,
    pub compression: Compression,
    /// Of the compressed bytes, if they were not verified before.
    pub verify: Option<Digest>,
    /// Of the uncompressed bytes, if the configuration says it.
    pub diff_id: Option<Digest>,
    pub stop: Arc<AtomicBool>,
    /// Told how many compressed bytes were just read.
    pub on_bytes: Box<dyn Fn(u64) + Send>,
}

impl Feed {
    /// Feeds it. Blocks.
    pub fn run(self, builder: &RootBuilder) -> Result<()> {
        let (index, len, file) = (self.index, self.part.len, self.part.file.clone());
        let read_failed = |e| disk::failed("read", &file, e);
        let mut source = Source {
            inner: self.part.open()?,
            hash: self.verify.map(|_| sha2::Sha256::new()),
            stop: self.stop,
            on_bytes: self.on_bytes,
        };
        let uncompressed = builder
            .add_layer(index, self.compression, len, &mut source)
            .map_err(|e| Error { doing: format!("layer {index}: {}", e.doing), ..e })?
            .diff_id;
        // Whatever stands behind the end of the archive belongs to the digest too.
        io::copy(&mut source, &mut io::sink()).map_err(read_failed)?;
        let compressed = source.hash.map(|hash| Digest::from_bytes(hash.finalize().into()));
        differs(index, self.verify, compressed, "its digest")?;
        differs(index, self.diff_id, Some(uncompressed), "the diff_id in the configuration")
    }
}

fn differs(index: usize, expected: Option<Digest>, is: Option<Digest>, what: &str) -> Result<()> {
    match (expected, is) {
        (Some(expected), Some(is)) if expected != is => {
            let text = format!("layer {index}: its bytes are not what {what} says: expected {expected}, got {is}");
            Err(Error::new(ErrorKind::InvalidSpec, text))
        }
        _ => Ok(()),
    }
}

struct Source<R> {
    inner: R,
    hash: Option<sha2::Sha256>,
    stop: Arc<AtomicBool>,
    on_bytes: Box<dyn Fn(u64) + Send>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        let n = self.inner.read(buffer)?;
        if let Some(hash) = &mut self.hash {
            hash.update(buffer.get(..n).unwrap_or_default());
        }
        (self.on_bytes)(n as u64);
        Ok(n)
    }
}

/// Feeds a directory of the host as the only layer. Blocks.
pub(crate) fn feed_directory(builder: &RootBuilder, dir: &Path) -> Result<()> {
    let opened = File::open(dir).map_err(|e| disk::failed("open", dir, e))?;
    if !opened.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(Error::invalid("path", format!("{} is not a directory", dir.display())));
    }
    builder.add_directory(0, opened.as_fd(), 0, false)
}
