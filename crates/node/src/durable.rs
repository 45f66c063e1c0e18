//! Small files that survive the power: written beside, synced and renamed, so that a reader finds the old or the new.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Ending of a file that is being written. What has it when a directory is read was never finished.
pub const UNFINISHED: &str = "new";

/// Replaces a file. After an error the old one is there, and nothing beside it.
pub fn replace(path: &Path, body: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(UNFINISHED);
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(body)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        sync_parent(path)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&beside)))
}

/// Removes a file for good. One that is not there is removed already.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// The files `<stem>.json` of a directory with their stems; what was never finished is removed.
pub fn list(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let ending = path.extension().and_then(|e| e.to_str());
        if ending == Some(UNFINISHED) {
            std::fs::remove_file(&path)?;
        } else if ending == Some("json")
            && let Some(stem) = path.file_stem().and_then(|s| s.to_str())
        {
            found.push((stem.to_owned(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        replace(&path, b"1").unwrap();
        replace(&path, b"2").unwrap();
        std::fs::write(dir.path().join("b.new"), "half").unwrap();
        assert_eq!(list(dir.path()).unwrap(), [("a".to_owned(), path.clone())]);
        assert_eq!(std::fs::read(&path).unwrap(), b"2");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(replace(&dir.path().join("none/a.json"), b"").is_err());
    }
}
