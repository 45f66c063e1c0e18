//! A machine that was kept: what is in the directory, what it needs, and what of that this host does not have.
//!
//! ```text
//! manifest.json   written last, under a temporary name, synced and renamed: without it the directory is nothing
//! state, memory   what the monitor wrote; which files there are is the driver's, and the manifest names each with its digest
//! disk.ext4       the disk the machine writes to
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::disk::next_data;
use super::machine::Machine;
use super::process::replace_file;
use super::setup::hex;

/// Version of [`Manifest`].
pub const FORMAT: u32 = 1;
/// Its name.
const MANIFEST: &str = "manifest.json";
/// Largest manifest that is read: ours are a few KiB.
const MANIFEST_LEN_MAX: u64 = 1 << 20;
/// The disk's name.
pub const DISK: &str = "disk.ext4";
/// Block of a file whose digest is taken.
const BLOCK_LEN: usize = 64 << 10;

/// What a machine was made of. One that was kept goes on only in one that is made of the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Makeup {
    /// Driver.
    pub driver: String,
    /// The monitor's version.
    pub vmm_version: String,
    /// Which machine the monitor shows, as it calls it.
    pub machine: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Processor shown.
    pub cpu: String,
    /// With `kvm`: the features of the host's processors, which the guest uses directly.
    pub host_cpu: Option<String>,
    /// SHA-256 of the kernel.
    pub kernel_sha256: String,
    /// SHA-256 of the initramfs, agent included.
    pub initramfs_sha256: String,
    /// Digests of the layers of its root, the lowest first.
    pub layers: Vec<String>,
    /// Memory.
    pub memory_bytes: u64,
    /// Processors.
    pub vcpus: u32,
    /// Size of its disk.
    pub disk_bytes: u64,
    /// It has a link.
    pub link: bool,
}

/// A machine that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// What it needs.
    pub makeup: Makeup,
    /// Digest of each file, by name: SHA-256 of its length and of the blocks of 64 KiB that hold anything but zeros, each after
    /// its number. Disks are sparse, and reading their holes would take longer than all the rest.
    pub files: BTreeMap<String, String>,
}

impl Makeup {
    /// Says which field of `wanted` (what is to be made now) differs from what was kept, and both values.
    pub fn fits(&self, wanted: &Self) -> Result<()> {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        let pairs = [
            ("driver", self.driver.clone(), wanted.driver.clone()),
            ("vmm_version", self.vmm_version.clone(), wanted.vmm_version.clone()),
            ("machine", self.machine.clone(), wanted.machine.clone()),
            ("accelerator", self.accelerator.clone(), wanted.accelerator.clone()),
            ("cpu", self.cpu.clone(), wanted.cpu.clone()),
            ("host_cpu", text(&self.host_cpu), text(&wanted.host_cpu)),
            ("kernel_sha256", self.kernel_sha256.clone(), wanted.kernel_sha256.clone()),
            ("initramfs_sha256", self.initramfs_sha256.clone(), wanted.initramfs_sha256.clone()),
            ("layers", self.layers.join(" "), wanted.layers.join(" ")),
            ("memory_bytes", self.memory_bytes.to_string(), wanted.memory_bytes.to_string()),
            ("vcpus", self.vcpus.to_string(), wanted.vcpus.to_string()),
            ("disk_bytes", self.disk_bytes.to_string(), wanted.disk_bytes.to_string()),
            ("link", self.link.to_string(), wanted.link.to_string()),
        ];
        match pairs.into_iter().find(|(_, kept, wanted)| kept != wanted) {
            None => Ok(()),
            Some((field, kept, wanted)) => {
                let why = format!("restore: {field} of the snapshot is {kept}, of this machine it would be {wanted}");
                Err(Error::new(ErrorKind::Conflict, why))
            }
        }
    }

    /// The part that a machine's record decides; a driver fills in what it brings itself.
    pub fn sized(mut self, machine: &Machine) -> Self {
        self.layers = machine.layers.iter().map(|layer| layer.digest.clone()).collect();
        self.memory_bytes = machine.memory_bytes;
        self.vcpus = machine.vcpus;
        self.disk_bytes = machine.disk_bytes;
        self.link = machine.network.is_some();
        self
    }
}

impl Manifest {
    /// Reads a directory's; `NotFound` if no machine was kept there.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let unreadable = |e: io::Error| {
            let kind = if e.kind() == io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Internal };
            Error::caused_by(kind, format!("restore: {}", path.display()), e)
        };
        let mut text = Vec::new();
        let file = File::open(&path).map_err(unreadable)?;
        file.take(MANIFEST_LEN_MAX).read_to_end(&mut text).map_err(unreadable)?;
        let manifest: Self = serde_json::from_slice(&text)
            .map_err(|e| Error::caused_by(ErrorKind::Conflict, format!("restore: {}", path.display()), e))?;
        if manifest.format != FORMAT {
            let why = format!("restore: format of the snapshot is {}, this daemon reads {FORMAT}", manifest.format);
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        Ok(manifest)
    }

    /// Whether a machine was kept there.
    pub fn exists(dir: &Path) -> bool {
        dir.join(MANIFEST).exists()
    }

    /// Syncs the files named, takes their digests and writes the manifest: from now on a machine is kept there. Returns how
    /// many bytes they take.
    pub async fn complete(dir: &Path, makeup: Makeup, files: &[&str]) -> Result<u64> {
        let mut digests = BTreeMap::new();
        let mut total = 0;
        for &name in files {
            let (digest, bytes) = digest(dir.join(name)).await?;
            total += bytes;
            digests.insert(name.to_owned(), digest);
        }
        let manifest = Self { format: FORMAT, makeup, files: digests };
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "write the manifest", e))?;
        replace_file(&dir.join(MANIFEST), &text)?;
        Ok(total)
    }

    /// Takes the manifest away first: nothing is kept there from this moment on, whatever files are left.
    pub fn revoke(dir: &Path) -> Result<()> {
        match fs::remove_file(dir.join(MANIFEST)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::caused_by(ErrorKind::Internal, format!("remove the manifest in {}", dir.display()), e))
            }
            _ => Ok(()),
        }
    }

    /// Whether a file is the one that was kept. Reads all of it.
    pub async fn verify(&self, dir: &Path, name: &str) -> Result<()> {
        let wanted = self.files.get(name).ok_or_else(|| {
            Error::new(ErrorKind::Conflict, format!("restore: the snapshot has no digest of its file {name}"))
        })?;
        let path = dir.join(name);
        let (found, _) = digest(path.clone()).await?;
        if found == *wanted {
            return Ok(());
        }
        let why = format!("restore: digest of {} is {found}, when it was kept it was {wanted}", path.display());
        Err(Error::new(ErrorKind::Conflict, why))
    }
}

/// Digest of a file, hex, and the bytes it takes; synced.
async fn digest(path: PathBuf) -> Result<(String, u64)> {
    let work = move || {
        let failed = |e: io::Error| Error::caused_by(ErrorKind::Internal, format!("read {}", path.display()), e);
        digest_now(&path).map_err(failed)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::caused_by(ErrorKind::Internal, "take the digest of a file", e))?
}

fn digest_now(path: &Path) -> io::Result<(String, u64)> {
    let file = File::open(path)?;
    file.sync_all()?;
    let found = file.metadata()?;
    let mut digest = Sha256::new_with_prefix(found.len().to_le_bytes());
    let mut block = vec![0; BLOCK_LEN];
    let mut at = 0;
    while let Some((start, end)) = next_data(&file, at, found.len())? {
        // Whole blocks: where holes begin and end is the file system's affair.
        let mut number = start / BLOCK_LEN as u64;
        while number * (BLOCK_LEN as u64) < end {
            let length = read_block(&file, number, &mut block)?;
            let held = block.get(..length).unwrap_or_default();
            if held.iter().any(|byte| *byte != 0) {
                digest.update(number.to_le_bytes());
                digest.update(held);
            }
            number += 1;
        }
        at = number * BLOCK_LEN as u64;
    }
    Ok((hex(&digest.finalize()), found.blocks() * 512))
}

fn read_block(file: &File, number: u64, block: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(room) = block.get_mut(length..).filter(|room| !room.is_empty()) {
        match file.read_at(room, number * BLOCK_LEN as u64 + length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

/// Features of the host's processors, as the kernel names them, shortened to a digest that two hosts can compare.
pub fn host_cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let mut values =
            text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.trim(), value.trim()));
        values.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let features = field("flags") + &field("Features");
    let digest = hex(&Sha256::digest(features.as_bytes()));
    format!("{} {}", field("model name"), digest.get(..16).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn makeup() -> Makeup {
        Makeup {
            driver: "qemu".to_owned(),
            vmm_version: "7.2.22".to_owned(),
            machine: "pc-q35-7.2".to_owned(),
            accelerator: "tcg".to_owned(),
            cpu: "max".to_owned(),
            host_cpu: None,
            kernel_sha256: "k".to_owned(),
            initramfs_sha256: "i".to_owned(),
            layers: vec!["a".to_owned(), "b".to_owned()],
            memory_bytes: 1 << 28,
            vcpus: 1,
            disk_bytes: 1 << 29,
            link: false,
        }
    }

    #[test]
    fn what_does_not_fit_is_named_with_both_values() {
        makeup().fits(&makeup()).unwrap();
        type Change = fn(&mut Makeup);
        let changes: [(&str, Change); 13] = [
            ("driver", |m| m.driver = "firecracker".to_owned()),
            ("vmm_version", |m| m.vmm_version = "8.0.0".to_owned()),
            ("machine", |m| m.machine = "microvm".to_owned()),
            ("accelerator", |m| m.accelerator = "kvm".to_owned()),
            ("cpu", |m| m.cpu = "host".to_owned()),
            ("host_cpu", |m| m.host_cpu = Some("x".to_owned())),
            ("kernel_sha256", |m| m.kernel_sha256 = "x".to_owned()),
            ("initramfs_sha256", |m| m.initramfs_sha256 = "x".to_owned()),
            ("layers", |m| m.layers.reverse()),
            ("memory_bytes", |m| m.memory_bytes += 1),
            ("vcpus", |m| m.vcpus += 1),
            ("disk_bytes", |m| m.disk_bytes += 1),
            ("link", |m| m.link = true),
        ];
        for (field, change) in changes {
            let mut other = makeup();
            change(&mut other);
            let refusal = makeup().fits(&other).unwrap_err();
            assert_eq!(refusal.kind, ErrorKind::Conflict);
            assert!(refusal.doing.starts_with(&format!("restore: {field} of the snapshot is ")), "{refusal}");
        }
    }

    #[test]
    fn a_digest_does_not_depend_on_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (holes, zeros) = (dir.path().join("holes"), dir.path().join("zeros"));
        let mut bytes = vec![0; 3 << 20];
        bytes[1 << 20] = 7;
        fs::write(&zeros, &bytes).unwrap();
        let file = File::create(&holes).unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(&[7], 1 << 20).unwrap();
        let of = |path: &Path| digest_now(path).unwrap().0;
        assert_eq!(of(&holes), of(&zeros));
        file.write_all_at(&[7], 2 << 20).unwrap();
        assert_ne!(of(&holes), of(&zeros));
        file.write_all_at(&[0], 2 << 20).unwrap();
        file.set_len((3 << 20) + 1).unwrap();
        assert_ne!(of(&holes), of(&zeros));
    }

    #[tokio::test]
    async fn a_directory_is_a_snapshot_once_it_has_a_manifest_and_as_long_as_its_files_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state"), b"state").unwrap();
        assert!(!Manifest::exists(dir.path()));
        assert_eq!(Manifest::read(dir.path()).unwrap_err().kind, ErrorKind::NotFound);
        assert!(Manifest::complete(dir.path(), makeup(), &["state"]).await.unwrap() <= 4096);
        let manifest = Manifest::read(dir.path()).unwrap();
        assert_eq!(manifest.makeup, makeup());
        manifest.verify(dir.path(), "state").await.unwrap();
        assert_eq!(manifest.verify(dir.path(), "disk.ext4").await.unwrap_err().kind, ErrorKind::Conflict);
        fs::write(dir.path().join("state"), b"stake").unwrap();
        let refusal = manifest.verify(dir.path(), "state").await.unwrap_err();
        assert!(refusal.doing.contains("digest of "), "{refusal}");
        let other = fs::read_to_string(dir.path().join(MANIFEST)).unwrap().replace("\"format\": 1", "\"format\": 2");
        fs::write(dir.path().join(MANIFEST), other).unwrap();
        let refusal = Manifest::read(dir.path()).unwrap_err();
        assert_eq!(refusal.doing, "restore: format of the snapshot is 2, this daemon reads 1");
        Manifest::revoke(dir.path()).unwrap();
        Manifest::revoke(dir.path()).unwrap();
        assert!(!Manifest::exists(dir.path()));
    }
}
