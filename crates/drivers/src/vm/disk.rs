//! The file a machine writes to: an ext4 file system, made once for each size and copied sparsely.
//!
//! The host never mounts it: whoever is in the machine can write into its structures whatever they like.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use moat_engine::driver::{Need, Requirement};
use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use rustix::fs::{Advice, SeekFrom, copy_file_range, fadvise, seek};
use rustix::io::Errno;
use tokio::process::Command;

use crate::linux::directory::make_private_dir;

/// The program that makes file systems.
const MKE2FS: &str = "mke2fs";
/// Where it is looked for: a daemon's PATH may be short.
const DIRS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"];
/// It writes a few MiB.
const MAKE_WITHIN: Duration = Duration::from_secs(60);
/// Sizes kept ready. Each takes a few MiB; other sizes are made when they are asked for.
const BLANKS_MAX: usize = 8;

/// Whether this host can make disks.
pub fn requirement() -> Requirement {
    let found = program();
    Requirement {
        name: "mke2fs".to_owned(),
        need: Need::Required,
        met: found.is_some(),
        fact: found.map_or_else(|| format!("not found in {}", DIRS.join(", ")), |path| path.display().to_string()),
        fix: program().is_none().then(|| "apt-get install e2fsprogs".to_owned()),
    }
}

fn program() -> Option<PathBuf> {
    DIRS.iter().map(|dir| Path::new(dir).join(MKE2FS)).find(|path| path.is_file())
}

/// Makes the empty disk `to` of this size. Blank ones are kept in `cache`. What is left of an earlier attempt is replaced.
pub async fn make(cache: &Path, bytes: u64, to: &Path) -> Result<()> {
    make_private_dir(cache)?;
    let blank = cache.join(format!("blank-{bytes}.ext4"));
    if !blank.exists() {
        let kept = fs::read_dir(cache).map_err(failed("look into", cache))?.count();
        if kept >= BLANKS_MAX {
            return format(bytes, to).await;
        }
        // Named after this moment and process: two that make the same size do not meet.
        let temporary = cache.join(format!("{}-{}.part", std::process::id(), super::setup::unix_nanos()));
        let made = format(bytes, &temporary).await;
        if made.is_err() {
            // It may not have come into being.
            let _ = fs::remove_file(&temporary);
            return made;
        }
        fs::rename(&temporary, &blank).map_err(failed("put in place", &blank))?;
    }
    copy(&blank, to).await
}

/// No journal: the machine dies with its disk, or is kept when everything was written.
async fn format(bytes: u64, to: &Path) -> Result<()> {
    let Some(program) = program() else {
        return Err(Error::new(ErrorKind::Unsupported, "mke2fs is not installed: apt-get install e2fsprogs"));
    };
    let file = create(to)?;
    file.set_len(bytes).map_err(failed("make", to))?;
    drop(file);
    let mut command = Command::new(program);
    command
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal,^resize_inode"])
        .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
        .arg(to)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let run = tokio::time::timeout(MAKE_WITHIN, command.output()).await;
    let output = match run {
        Ok(output) => output.map_err(failed("run mke2fs for", to))?,
        Err(_) => return Err(Error::new(ErrorKind::Deadline, format!("mke2fs took {} s", MAKE_WITHIN.as_secs()))),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.lines().next_back().unwrap_or("nothing was said").to_owned();
    Err(Error::caused_by(ErrorKind::Internal, format!("mke2fs {}: {}", to.display(), output.status), why))
}

/// Lets the host forget what it keeps of these files in memory: they were synced, and nobody reads them soon.
pub fn forget_pages(files: &[PathBuf]) {
    for path in files {
        let forgotten = File::open(path).and_then(|file| Ok(fadvise(&file, 0, None, Advice::DontNeed)?));
        if let Err(error) = forgotten {
            tracing::debug!(path = %path.display(), %error, "the host keeps pages of a file that was put away");
        }
    }
}

/// Copies a file without writing its holes. What is at `to` is replaced.
pub async fn copy(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.to_owned(), to.to_owned());
    tokio::task::spawn_blocking(move || copy_sparse(&from, &to))
        .await
        .map_err(|e| Error::caused_by(ErrorKind::Internal, "copy a disk", e))?
}

fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let source = File::open(from).map_err(failed("open", from))?;
    let length = source.metadata().map_err(failed("look at", from))?.len();
    let target = create(to)?;
    target.set_len(length).map_err(failed("make", to))?;
    let mut at = 0;
    while let Some((start, end)) = next_data(&source, at, length).map_err(failed("read", from))? {
        copy_extent(&source, &target, start, end).map_err(failed("copy to", to))?;
        at = end;
    }
    Ok(())
}

/// The next stretch that is no hole.
pub(crate) fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    Ok(Some((start, seek(file, SeekFrom::Hole(start))?)))
}

fn copy_extent(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let length = usize::try_from(end - from).unwrap_or(usize::MAX);
        match copy_file_range(source.as_fd(), Some(&mut from), target.as_fd(), Some(&mut to), length) {
            // The file became shorter while it was copied.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return copy_bytes(source, target, from, end);
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Between file systems that do not do it themselves.
fn copy_bytes(source: &File, target: &File, mut at: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut piece = vec![0; 1 << 20];
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(piece.len());
        let room = piece.get_mut(..wanted).unwrap_or_default();
        let read = source.read_at(room, at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        target.write_all_at(room.get(..read).unwrap_or_default(), at)?;
        at += read as u64;
    }
    Ok(())
}

fn create(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    options.open(path).map_err(failed("make", path))
}

fn failed<'a>(doing: &'a str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |e| {
        let kind = match e.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::StorageFull => ErrorKind::Exhausted,
            _ => ErrorKind::Internal,
        };
        Error::caused_by(kind, format!("{doing} {}", path.display()), e)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[tokio::test]
    async fn disks_are_file_systems_and_stay_sparse() {
        if program().is_none() {
            return moat_testkit::not_run("disks", "mke2fs is not installed");
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            let disk = dir.path().join(name);
            make(&dir.path().join("cache"), 64 << 20, &disk).await.unwrap();
            let found = fs::metadata(&disk).unwrap();
            assert_eq!((found.len(), found.mode() & 0o777), (64 << 20, 0o600));
            assert!(found.blocks() * 512 < 8 << 20, "{} blocks", found.blocks());
            // The magic number of ext file systems.
            assert_eq!(fs::read(&disk).unwrap()[1024 + 56..1024 + 58], [0x53, 0xef]);
        }
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), fs::read(dir.path().join("b")).unwrap());
        assert_eq!(fs::read_dir(dir.path().join("cache")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn copies_are_the_same_bytes() {
        use std::os::unix::fs::FileExt as _;
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(9 << 20).unwrap();
        file.write_all_at(b"one", 4096).unwrap();
        file.write_all_at(&[7; 5000], 3 << 20).unwrap();
        file.write_all_at(b"end", (9 << 20) - 3).unwrap();
        fs::write(&to, "what was there before").unwrap();
        copy(&from, &to).await.unwrap();
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20);
        let missing = copy(&dir.path().join("missing"), &to).await.unwrap_err();
        assert_eq!(missing.kind, ErrorKind::NotFound);
    }
}
