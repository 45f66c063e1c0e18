//! The keys a command line signs and seals with.
//!
//! Without `--issuer` and `--xkey`, two keys of our own are used, made once and kept in the user's configuration
//! directory (0600): whoever starts a workload can then stop and enter it, from the same account on the same machine.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nkeys::{KeyPair, XKey};

use crate::failure::Failure;

const ISSUER_FILE: &str = "issuer.nk";
const SENDER_FILE: &str = "publisher.xk";

/// The key claims are signed with.
pub fn issuer(file: Option<&Path>) -> Result<KeyPair, Failure> {
    let seed = seed(file, ISSUER_FILE, || KeyPair::new_account().seed())?;
    let (path, seed) = seed;
    KeyPair::from_seed(&seed)
        .map_err(|e| Failure::invalid(format!("{}: not the seed of an nkey (S...): {e}", path.display())))
}

/// The key environments are sealed with.
pub fn sender(file: Option<&Path>) -> Result<XKey, Failure> {
    let (path, seed) = seed(file, SENDER_FILE, || XKey::new().seed())?;
    XKey::from_seed(&seed)
        .map_err(|e| Failure::invalid(format!("{}: not the seed of an xkey (SX...): {e}", path.display())))
}

fn seed(
    file: Option<&Path>,
    own: &str,
    make: impl FnOnce() -> Result<String, nkeys::error::Error>,
) -> Result<(PathBuf, String), Failure> {
    if let Some(path) = file {
        return Ok((path.to_owned(), read(path)?));
    }
    let dir = config_dir()?;
    let path = dir.join(own);
    if !path.exists() {
        let seed = make().map_err(|e| Failure::internal("make a key", e))?;
        create(&dir, &path, &seed)?;
    }
    let seed = read(&path)?;
    Ok((path, seed))
}

fn config_dir() -> Result<PathBuf, Failure> {
    directories::BaseDirs::new()
        .map(|dirs| dirs.config_dir().join("moat"))
        .ok_or_else(|| Failure::invalid("no home directory to keep keys in: set HOME, or give --issuer and --xkey"))
}

/// The first line that is a seed: tools that write such files put comments around it.
fn read(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read key", path, &e))?;
    let seed = text.lines().map(str::trim).find(|line| line.starts_with('S'));
    seed.map(str::to_owned).ok_or_else(|| Failure::invalid(format!("{}: holds no seed (S...)", path.display())))
}

/// Writes a new key whole or not at all; another process that was first wins.
fn create(dir: &Path, path: &Path, seed: &str) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::file("write key", path, &e);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed)?;
    let written = file.write_all(format!("{seed}\n").as_bytes()).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| match std::fs::hard_link(&draft, path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    // The draft is of no use either way; if it cannot be removed the key is still right.
    let _ = std::fs::remove_file(&draft);
    linked.map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_private() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("moat");
        let path = dir.join(ISSUER_FILE);
        create(&dir, &path, "SAFIRST").unwrap();
        create(&dir, &path, "SASECOND").unwrap();
        assert_eq!(read(&path).unwrap(), "SAFIRST");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn files_of_other_tools_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let pair = KeyPair::new_account();
        std::fs::write(file.path(), format!("-----BEGIN\n  {}\n-----END\n", pair.seed().unwrap())).unwrap();
        assert_eq!(issuer(Some(file.path())).unwrap().public_key(), pair.public_key());
        assert!(sender(Some(file.path())).is_err(), "an account key seals nothing");
        std::fs::write(file.path(), "").unwrap();
        assert!(issuer(Some(file.path())).is_err());
    }
}
