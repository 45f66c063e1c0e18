//! Directories of this machine as tar archives, and back: threads that read and write files beside a stream of bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use moat_api::client::rest::ByteStream;
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

use crate::failure::Failure;

/// Pieces between the thread and the stream.
const CHANNEL_LEN: usize = 8;
/// Bytes of a piece: many small headers make one.
const PIECE_LEN: usize = 64 << 10;

/// Whose files are in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Those they have here.
    Kept,
    /// Whoever unpacks them.
    Nobody,
}

/// A directory's content as an archive, names relative to it.
pub fn pack(dir: &Path, owners: Owners) -> ByteStream {
    let (to, from) = mpsc::channel(CHANNEL_LEN);
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut builder = Builder::new(io::BufWriter::with_capacity(PIECE_LEN, Pipe { to: to.clone() }));
        builder.follow_symlinks(false);
        let packed = append(&mut builder, &dir, Path::new(""), owners).and_then(|()| builder.into_inner()?.flush());
        if let Err(error) = packed {
            // Whoever reads sees it as the end of the archive, and an archive that ends in an error is refused.
            let _ = to.blocking_send(Err(error));
        }
    });
    futures::stream::unfold(from, async |mut from| from.recv().await.map(|piece| (piece, from))).boxed()
}

/// A file's bytes.
pub async fn read(path: &Path) -> Result<ByteStream, Failure> {
    let file = tokio::fs::File::open(path).await.map_err(|e| Failure::file("read", path, &e))?;
    Ok(tokio_util::io::ReaderStream::with_capacity(file, PIECE_LEN).boxed())
}

/// Standard input.
pub fn stdin() -> ByteStream {
    tokio_util::io::ReaderStream::with_capacity(tokio::io::stdin(), PIECE_LEN).boxed()
}

/// Unpacks an archive below a directory. Its maker is not trusted: nothing outside is touched, nobody's rights are taken
/// over, devices are left out.
pub async fn unpack(mut archive: ByteStream, dir: PathBuf) -> Result<(), Failure> {
    let (to, from) = mpsc::channel::<io::Result<Bytes>>(CHANNEL_LEN);
    let shown = dir.clone();
    let thread = tokio::task::spawn_blocking(move || {
        let mut archive = tar::Archive::new(Source { from, piece: Bytes::new() });
        archive.set_preserve_permissions(false);
        archive.set_preserve_ownerships(false);
        archive.set_unpack_xattrs(false);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let kind = entry.header().entry_type();
            if kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link() || kind.is_gnu_sparse() {
                entry.unpack_in(&dir)?;
            }
        }
        Ok::<_, io::Error>(())
    });
    while let Some(piece) = archive.next().await {
        // The thread has given up: it says why.
        if to.send(piece).await.is_err() {
            break;
        }
    }
    drop(to);
    let unpacked = thread.await.map_err(|e| Failure::internal("unpack", e))?;
    unpacked.map_err(|e| Failure::file("unpack into", &shown, &e))
}

fn append(builder: &mut Builder<impl Write>, dir: &Path, inside: &Path, owners: Owners) -> io::Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), inside.join(entry.file_name()));
        let metadata = std::fs::symlink_metadata(&path)?;
        let mut header = Header::new_gnu();
        header.set_metadata(&metadata);
        if owners == Owners::Nobody {
            header.set_uid(0);
            header.set_gid(0);
        }
        match header.entry_type() {
            EntryType::Directory => {
                builder.append_data(&mut header, &name, io::empty())?;
                append(builder, &path, &name, owners)?;
            }
            EntryType::Symlink => builder.append_link(&mut header, &name, std::fs::read_link(&path)?)?,
            EntryType::Regular => {
                // A file that grows meanwhile must not spill into the next header.
                let content = File::open(&path)?.take(metadata.len());
                builder.append_data(&mut header, &name, Exactly { content, left: metadata.len() })?;
            }
            // Sockets, pipes and devices mean nothing elsewhere.
            _ => {}
        }
    }
    Ok(())
}

/// A file of the length its header says: one that shrinks meanwhile is an error, not a shift of everything behind it.
struct Exactly<R> {
    content: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter while it was read"));
        }
        Ok(read)
    }
}

/// The writing end, for a thread.
struct Pipe {
    to: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.to.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reading end, for a thread.
struct Source {
    from: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.from.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let taken = self.piece.split_to(self.piece.len().min(buffer.len()));
        if let Some(place) = buffer.get_mut(..taken.len()) {
            place.copy_from_slice(&taken);
        }
        Ok(taken.len())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[tokio::test]
    async fn a_tree_survives_the_way_there_and_back() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("a/b")).unwrap();
        std::fs::write(from.path().join("a/b/file"), vec![7; 200_000]).unwrap();
        std::fs::write(from.path().join("tool"), "x").unwrap();
        std::fs::set_permissions(from.path().join("tool"), std::fs::Permissions::from_mode(0o755)).unwrap();
        symlink("b/file", from.path().join("a/link")).unwrap();
        unpack(pack(from.path(), Owners::Nobody), to.path().to_owned()).await.unwrap();
        assert_eq!(std::fs::read(to.path().join("a/link")).unwrap(), vec![7; 200_000]);
        let mode = std::fs::metadata(to.path().join("tool")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[tokio::test]
    async fn a_hostile_archive_stays_inside() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("dir");
        std::fs::create_dir(&dir).unwrap();
        let mut builder = Builder::new(Vec::new());
        let mut entry = |name: &str, kind: EntryType, link: &str, content: &[u8]| {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o6755);
            header.set_size(content.len() as u64);
            // As bytes: the library refuses to write such a name.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            if !link.is_empty() {
                header.set_link_name(link).unwrap();
            }
            header.set_cksum();
            builder.append(&header, content).unwrap();
        };
        entry("../above", EntryType::Regular, "", b"x");
        entry("out", EntryType::Symlink, "..", b"");
        entry("out/through", EntryType::Regular, "", b"x");
        entry("null", EntryType::Char, "", b"");
        entry("suid", EntryType::Regular, "", b"x");
        let bytes = builder.into_inner().unwrap();
        let stream = futures::stream::iter([Ok(Bytes::from(bytes))]).boxed();
        // Whether it goes on or gives up, nothing outside may be touched.
        let _ = unpack(stream, dir.clone()).await;
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
        assert!(!dir.join("null").exists());
        if let Ok(metadata) = std::fs::metadata(dir.join("suid")) {
            assert_eq!(metadata.permissions().mode() & 0o6000, 0);
        }
    }

    #[tokio::test]
    async fn a_broken_stream_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let stream =
            futures::stream::iter([Ok(Bytes::from(vec![1; 600])), Err(io::ErrorKind::BrokenPipe.into())]).boxed();
        assert!(unpack(stream, dir.path().to_owned()).await.is_err());
    }
}
