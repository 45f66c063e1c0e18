//! Who this node is: a signing key (nkey) and a sealing key (xkey), kept on disk.
//!
//! Nex makes new keys at every start; a node that keeps them can be addressed again after a restart, and environments
//! sealed to it stay readable. Clients see no difference.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use moat_model::{ErrorKind, NodeId};
use nkeys::{KeyPair, KeyPairType, XKey};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Name of the file with the server seed (`SN…`).
const NKEY_FILE: &str = "node.nk";
/// Name of the file with the curve seed (`SX…`).
const XKEY_FILE: &str = "node.xk";

/// The two keys of a node.
pub struct Identity {
    id: NodeId,
    nkey: KeyPair,
    xkey: XKey,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the keys below `dir`, or makes them.
    pub fn load_or_create(dir: &Path) -> Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("create directory {}", dir.display()), e))?;
        let nkey_path = dir.join(NKEY_FILE);
        let nkey = match read_seed(&nkey_path)? {
            Some(seed) => KeyPair::from_seed(&seed).map_err(|e| broken(&nkey_path, e))?,
            None => {
                let pair = KeyPair::new_server();
                write_seed(&nkey_path, &pair.seed().map_err(|e| broken(&nkey_path, e))?)?;
                pair
            }
        };
        if nkey.key_pair_type() != KeyPairType::Server {
            return Err(Error::new(
                ErrorKind::InvalidSpec,
                format!("{}: not a server seed (SN…); remove the file to get a new identity", nkey_path.display()),
            ));
        }
        let xkey_path = dir.join(XKEY_FILE);
        let xkey = match read_seed(&xkey_path)? {
            Some(seed) => XKey::from_seed(&seed).map_err(|e| broken(&xkey_path, e))?,
            None => {
                let pair = XKey::new();
                write_seed(&xkey_path, &pair.seed().map_err(|e| broken(&xkey_path, e))?)?;
                pair
            }
        };
        let id = NodeId::parse(&nkey.public_key()).map_err(|e| broken(&nkey_path, e))?;
        Ok(Self { id, nkey, xkey })
    }

    /// The node's id: its public nkey.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Signs as the node.
    pub fn nkey(&self) -> &KeyPair {
        &self.nkey
    }

    /// Opens what was sealed to the node.
    pub fn xkey(&self) -> &XKey {
        &self.xkey
    }

    /// A name for people that stays the same as long as the key does.
    pub fn nickname(&self) -> String {
        // The first characters of a public key are constant; the last hold a checksum: the middle is as good as random.
        let bytes = self.id.as_str().as_bytes();
        let sum =
            |from: usize| bytes.iter().skip(from).take(6).fold(0usize, |a, b| a.wrapping_mul(31) + usize::from(*b));
        let pick = |words: &[&'static str], n: usize| words.get(n % words.len().max(1)).copied().unwrap_or("node");
        format!("{}-{}", pick(&ADJECTIVES, sum(8)), pick(&ANIMALS, sum(20)))
    }
}

const ADJECTIVES: [&str; 16] = [
    "amber", "brisk", "calm", "dusty", "eager", "frosty", "gentle", "hardy", "ivory", "jolly", "keen", "lucky",
    "mossy", "nimble", "quiet", "rusty",
];
const ANIMALS: [&str; 16] = [
    "badger", "crane", "dormouse", "egret", "ferret", "grouse", "heron", "ibis", "jackdaw", "kestrel", "lynx",
    "marten", "newt", "otter", "pike", "raven",
];

fn broken(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::caused_by(
        ErrorKind::Internal,
        format!("{}: unusable key; remove the file to get a new one", path.display()),
        source,
    )
}

pub(crate) fn read_seed(path: &Path) -> Result<Option<Zeroizing<String>>> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let text = Zeroizing::new(text);
            let mode = std::fs::metadata(path).map(|m| m.permissions().mode()).unwrap_or(0);
            if mode & 0o077 != 0 {
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!("{}: readable by others; chmod 600 it", path.display()),
                ));
            }
            Ok(Some(Zeroizing::new(text.trim().to_owned())))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::caused_by(ErrorKind::Internal, format!("read {}", path.display()), e)),
    }
}

/// Written beside, synced and renamed: a node killed in between has either no key or a whole one.
pub(crate) fn write_seed(path: &Path, seed: &str) -> Result<()> {
    let beside: PathBuf = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(seed.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        std::fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(|e| Error::caused_by(ErrorKind::Internal, format!("write {}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("identity");
        let first = Identity::load_or_create(&place).unwrap();
        let second = Identity::load_or_create(&place).unwrap();
        assert_eq!(first.id(), second.id());
        assert_eq!(first.xkey().public_key(), second.xkey().public_key());
        assert!(first.xkey().public_key().starts_with('X'));
        assert_eq!(first.nickname(), second.nickname());
        for file in [NKEY_FILE, XKEY_FILE] {
            let mode = std::fs::metadata(place.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_key_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(NKEY_FILE);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Identity::load_or_create(dir.path()).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write_seed(&dir.path().join(NKEY_FILE), &KeyPair::new_user().seed().unwrap()).unwrap();
        assert!(Identity::load_or_create(dir.path()).unwrap_err().to_string().contains("not a server seed"));
    }
}
