//! Downloads kept by their checksum. What goes in is hashed here: a child's word would let one job poison another's.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::SystemTime;

use crate::origin::{Algorithm, Checksum};

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// A bounded directory of files named by their digests; the longest unused go first.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    most: u64,
    /// One writer at a time, so that the bound is one.
    writing: Mutex<()>,
}

impl Cache {
    pub(super) fn open(dir: PathBuf, most: u64) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)?.flatten() {
            // Begun by a daemon that died.
            if entry.file_name().to_string_lossy().ends_with(".partial") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { dir, most, writing: Mutex::new(()) })
    }

    /// Where bytes with this checksum are kept. Of types that can be forged nothing is: another could have the same.
    fn path(&self, checksum: &Checksum) -> Option<PathBuf> {
        match checksum.algorithm {
            Algorithm::Sha256 | Algorithm::Sha512 => {
                Some(self.dir.join(format!("{}-{}", checksum.algorithm.name(), checksum.hex())))
            }
            Algorithm::Md5 | Algorithm::Sha1 => None,
        }
    }

    /// The bytes, if they are here.
    pub(super) fn find(&self, checksum: &Checksum) -> Option<File> {
        let file = File::open(self.path(checksum)?).ok()?;
        // Only used to choose what goes first.
        let _ = file.set_modified(SystemTime::now());
        Some(file)
    }

    /// Keeps a copy of what `from` holds if it has this checksum.
    pub(super) fn keep(&self, checksum: &Checksum, mut from: File) -> io::Result<()> {
        let Some(path) = self.path(checksum) else { return Ok(()) };
        let size = from.metadata()?.len();
        // One artifact must not drive out all others.
        if size > self.most / 2 || path.exists() {
            return Ok(());
        }
        let _writing = self.writing.lock().map_err(|_| io::Error::other("a writer died"))?;
        self.make_room(size)?;
        let partial = path.with_extension("partial");
        let kept = copy_hashed(&mut from, &mut File::create(&partial)?, checksum, size);
        match kept.and_then(|()| fs::rename(&partial, &path)) {
            Ok(()) => Ok(()),
            Err(error) => {
                let _ = fs::remove_file(&partial);
                Err(error)
            }
        }
    }

    fn make_room(&self, size: u64) -> io::Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let about = entry.metadata()?;
            kept.push((about.modified()?, about.len(), entry.path()));
        }
        kept.sort();
        let mut bytes: u64 = kept.iter().map(|(_, size, _)| size).sum();
        for (_, freed, path) in kept {
            if bytes.saturating_add(size) <= self.most {
                break;
            }
            fs::remove_file(path)?;
            bytes = bytes.saturating_sub(freed);
        }
        Ok(())
    }
}

fn copy_hashed(from: &mut File, to: &mut File, checksum: &Checksum, size: u64) -> io::Result<()> {
    let mut hasher = checksum.hasher();
    let mut chunk = vec![0; CHUNK];
    let mut from = from.take(size);
    loop {
        let got = from.read(&mut chunk)?;
        let Some(bytes) = chunk.get(..got).filter(|bytes| !bytes.is_empty()) else { break };
        hasher.update(bytes);
        to.write_all(bytes)?;
    }
    checksum.compare(&hasher.finish()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn sum(bytes: &[u8]) -> Checksum {
        Checksum::parse(&format!("sha256:{}", hex::encode(Sha256::digest(bytes)))).unwrap()
    }

    fn file(bytes: &[u8]) -> File {
        let temp = tempfile::NamedTempFile::new().unwrap();
        fs::write(temp.path(), bytes).unwrap();
        temp.reopen().unwrap()
    }

    #[test]
    fn only_what_has_the_checksum_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cache"), 100).unwrap();
        assert!(cache.find(&sum(b"good")).is_none());
        assert!(cache.keep(&sum(b"good"), file(b"evil")).is_err());
        assert!(cache.find(&sum(b"good")).is_none());
        cache.keep(&sum(b"good"), file(b"good")).unwrap();
        let mut text = String::new();
        cache.find(&sum(b"good")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "good");
        let md5 = Checksum::parse("md5:900150983cd24fb0d6963f7d28e17f72").unwrap();
        cache.keep(&md5, file(b"abc")).unwrap();
        assert!(cache.find(&md5).is_none());
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().to_owned(), 100).unwrap();
        let bodies: Vec<Vec<u8>> = (0..3u8).map(|n| vec![n; 40]).collect();
        let old = |path: PathBuf, seconds| {
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        for (body, seconds) in bodies.iter().zip([1, 2]) {
            cache.keep(&sum(body), file(body)).unwrap();
            old(cache.path(&sum(body)).unwrap(), seconds);
        }
        // Used: the other one is older now.
        assert!(cache.find(&sum(&bodies[0])).is_some());
        cache.keep(&sum(&bodies[2]), file(&bodies[2])).unwrap();
        assert!(cache.find(&sum(&bodies[0])).is_some());
        assert!(cache.find(&sum(&bodies[1])).is_none());
        assert!(cache.find(&sum(&bodies[2])).is_some());
        cache.keep(&sum(&[9; 60]), file(&[9; 60])).unwrap();
        assert!(cache.find(&sum(&[9; 60])).is_none(), "larger than half of it");
    }
}
