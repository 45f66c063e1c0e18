//! The kernel and the initramfs of machines, with this daemon's agent in it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use moat_engine::error::{Error, Result};
use moat_guest::{Guest, agent_cpio};
use moat_model::ErrorKind;
use sha2::{Digest as _, Sha256};

use super::setup::hex;
use crate::linux::agent_binary::AgentBinary;
use crate::linux::directory::make_private_dir;

/// What machines boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootImage {
    /// The guest it was made from.
    pub guest: Guest,
    /// Its modules and the agent. A file everybody may read: monitors run as nobody in particular.
    pub initramfs: PathBuf,
    /// SHA-256 of that, hex.
    pub initramfs_sha256: String,
}

impl BootImage {
    /// Puts the agent to a guest's modules, in `dir`. Once per daemon; the same bytes are written once.
    pub fn prepare(guest_dir: &Path, binary: &AgentBinary, dir: &Path) -> Result<Self> {
        let guest = Guest::open(guest_dir)
            .map_err(|e| Error::caused_by(ErrorKind::NotFound, format!("guest: {}", guest_dir.display()), e))?;
        guest.verify().map_err(|e| Error::caused_by(ErrorKind::Unavailable, "guest", e))?;
        let modules = fs::read(guest.modules()).map_err(failed("read", &guest.modules()))?;
        let (initramfs, initramfs_sha256) = with_agent(modules, binary, dir)?;
        Ok(Self { guest, initramfs, initramfs_sha256 })
    }
}

/// Writes an initramfs of these modules, or none, and the agent into `dir`. Returns where it is, and its SHA-256.
pub fn with_agent(modules: Vec<u8>, binary: &AgentBinary, dir: &Path) -> Result<(PathBuf, String)> {
    let agent = fs::read(binary.path()).map_err(failed("read", Path::new("the agent")))?;
    let mut initramfs = modules;
    initramfs.extend_from_slice(&agent_cpio(&agent));
    let sha256 = hex(&Sha256::digest(&initramfs));
    make_private_dir(dir)?;
    let path = dir.join(format!("initramfs-{}.cpio", sha256.get(..16).unwrap_or_default()));
    if fs::read(&path).ok().as_ref() != Some(&initramfs) {
        let temporary = dir.join(format!("initramfs-{}.part", std::process::id()));
        fs::write(&temporary, &initramfs).map_err(failed("write", &temporary))?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o444)).map_err(failed("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(failed("write", &path))?;
    }
    Ok((path, sha256))
}

fn failed<'a>(doing: &'a str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |e| Error::caused_by(ErrorKind::Internal, format!("guest: {doing} {}", path.display()), e)
}

#[cfg(test)]
mod tests {
    /// Neither crate may use the other: the agent is in no guest, and a guest builder needs no agent.
    #[test]
    fn the_agent_looks_for_the_modules_where_the_guest_has_them() {
        assert_eq!(moat_guest::MODULES_LIST, moat_agent::protocol::machine::MODULES_LIST);
    }
}
