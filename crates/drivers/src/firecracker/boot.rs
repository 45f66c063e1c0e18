//! The kernel and the initramfs: the guest's, or the operator's kernel with nothing but the agent beside it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use sha2::{Digest as _, Sha256};

use super::config::FirecrackerConfig;
use super::jail::Whose;
use crate::linux::agent_binary::AgentBinary;
use crate::vm::boot::{BootImage, with_agent};
use crate::vm::setup::hex;

/// What machines boot.
#[derive(Debug)]
pub struct Boot {
    pub kernel: PathBuf,
    pub whose: Whose,
    pub kernel_sha256: String,
    pub initramfs: PathBuf,
    pub initramfs_sha256: String,
}

impl Boot {
    /// As it is set.
    pub fn prepare(config: &FirecrackerConfig, binary: &AgentBinary) -> Result<Self> {
        let Some(kernel) = &config.kernel else {
            let image = BootImage::prepare(&config.guest_dir, binary, &config.cache_dir)?;
            return Ok(Self {
                kernel: image.guest.kernel(),
                whose: Whose::Ours,
                kernel_sha256: image.guest.image.kernel_sha256.clone(),
                initramfs: image.initramfs,
                initramfs_sha256: image.initramfs_sha256,
            });
        };
        let kernel_sha256 = digest(kernel).map_err(|e| {
            Error::caused_by(ErrorKind::NotFound, format!("firecracker.kernel: {}", kernel.display()), e)
        })?;
        // Modules are of another kernel.
        let (initramfs, initramfs_sha256) = with_agent(Vec::new(), binary, &config.cache_dir)?;
        Ok(Self { kernel: kernel.clone(), whose: Whose::Operators, kernel_sha256, initramfs, initramfs_sha256 })
    }
}

fn digest(path: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    io::copy(&mut File::open(path)?, &mut digest)?;
    Ok(hex(&digest.finalize()))
}
