//! Which modules a guest gets, and in which order they are loaded.

mod closure;
mod file;
mod tree;

use std::path::Path;

use crate::Error;
use closure::Closure;
use tree::Tree;

/// Ways to reach virtio devices: q35 has PCI, microvm and Firecracker have memory-mapped ones. One is enough.
const TRANSPORTS: [&str; 2] = ["virtio_pci", "virtio_mmio"];
/// What no guest can do without: disks, the agent's channel, and the file systems of its root.
const NEEDED: [&str; 6] = ["virtio_blk", "virtio_net", "virtio_console", "erofs", "overlay", "ext4"];
/// What makes a guest better: randomness from the host, memory given back, another channel, connections
/// of an earlier address that can be found and reset, roots that outlive it.
const WELCOME: [&str; 6] =
    ["virtio_rng", "virtio_balloon", "vmw_vsock_virtio_transport", "tcp_diag", "udp_diag", "virtiofs"];

/// One module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name, with `_` for every `-`, as `lsmod` shows it.
    pub name: String,
    /// The file, unpacked, byte for byte as it was signed.
    pub bytes: Vec<u8>,
}

/// What was picked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picked {
    /// In the order in which they are loaded.
    pub modules: Vec<Module>,
    /// Those of [`WELCOME`] and [`TRANSPORTS`] that this kernel does not have.
    pub absent: Vec<String>,
}

/// Picks from `/lib/modules/<version>`.
pub fn pick(dir: &Path, kernel_version: &str) -> Result<Picked, Error> {
    let tree = Tree::read(dir)?;
    let mut closure = Closure::new(&tree, kernel_version);
    let mut absent = Vec::new();
    for name in TRANSPORTS {
        if !closure.try_add(name)? {
            absent.push(name.to_owned());
        }
    }
    if absent.len() == TRANSPORTS.len() {
        return Err(missing(dir, &TRANSPORTS.join(" or ")));
    }
    for name in NEEDED {
        if !closure.try_add(name)? {
            return Err(missing(dir, closure.why_not().unwrap_or(name)));
        }
    }
    for name in WELCOME {
        if !closure.try_add(name)? {
            absent.push(name.to_owned());
        }
    }
    Ok(Picked { modules: closure.into_modules(), absent })
}

fn missing(dir: &Path, name: &str) -> Error {
    Error::unusable(format!(
        "module {name}: neither a file below {} nor in its modules.builtin, and no guest works without it; \
         take another kernel (Debian: `apt-get install linux-image-cloud-amd64`)",
        dir.display()
    ))
}

/// What a module says about itself, for tests that hand it broken ones.
#[cfg(test)]
pub fn info(module: &[u8]) -> Result<(), Error> {
    file::Info::read(module).map(drop)
}
