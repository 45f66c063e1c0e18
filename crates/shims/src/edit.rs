//! Files that are replaced as a whole: whoever reads one sees the old or the new text, and a crash leaves one of them.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// Puts `text` into the file at `path`. Owner and permissions are those of the old file, or `mode`. A link is followed.
pub fn replace(path: &Path, text: &[u8], mode: u32) -> Result<(), String> {
    let failed = |e: io::Error| format!("{}: {e}", path.display());
    let place = target(path).map_err(failed)?;
    let dir = place.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(failed)?;
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let new = dir.join(format!(".{name}.{}", std::process::id()));
    let written = write(&new, &place, text, mode).and_then(|()| fs::rename(&new, &place));
    if let Err(e) = written {
        // The error is what counts; the remainder is a dot file with this process' number.
        let _ = fs::remove_file(&new);
        return Err(failed(e));
    }
    // The name must last as well. A file system that cannot sync directories has it already.
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
    Ok(())
}

/// Where a path leads in the end. What does not exist yet is where it says.
fn target(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
            // A link to nothing: the file is made where it leads, as a shell would.
            Ok(to) => Ok(path.parent().unwrap_or(Path::new("/")).join(to)),
            Err(_) => Ok(path.to_owned()),
        },
        found => found,
    }
}

fn write(new: &Path, old: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    // Nobody may read a new shadow file before it has its permissions.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    file.write_all(text)?;
    match fs::metadata(old) {
        Ok(old) => {
            let ours = file.metadata()?;
            if (ours.uid(), ours.gid()) != (old.uid(), old.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        }
        Err(_) => file.set_permissions(Permissions::from_mode(mode))?,
    }
    file.sync_all()
}

/// What a file holds; nothing if it is not there.
pub fn read(path: &Path) -> Result<String, String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_and_links_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("shadow"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("shadow", &link).unwrap();
        replace(&link, b"new", 0o644).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        replace(&dir.path().join("a/b"), b"x", 0o600).unwrap();
        assert_eq!(fs::metadata(dir.path().join("a/b")).unwrap().mode() & 0o7777, 0o600);
    }
}
