//! What an operator sets for the firecracker driver.

use std::path::{Path, PathBuf};

use moat_engine::error::{Error, Result};
use serde::{Deserialize, Serialize};

use super::api::{RateLimiter, StaticTemplate, TokenBucket};
use crate::vm::config::MachineDefaults;

/// Largest custom processor: the monitor takes no longer request.
const TEMPLATE_LEN_MAX: usize = 48 << 10;

/// Settings of the firecracker driver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FirecrackerConfig {
    /// The program `firecracker` of a release. Its name must contain that word: the jailer wants it so.
    pub binary: PathBuf,
    /// The program `jailer` of the same release.
    pub jailer: PathBuf,
    /// Limits of machines that name none.
    pub resources: MachineDefaults,
    /// Kernel to boot instead of the guest's, an ELF file. Everything the agent needs must be built into it.
    pub kernel: Option<PathBuf>,
    /// File system for sandboxes of template `scratch`, an ext4 file with everything in it; each machine has a copy. The agent
    /// is not in it and need not be.
    pub rootfs: Option<PathBuf>,
    /// How much may pass between a machine and its disks and link.
    pub rate_limits: RateLimits,
    /// Processor shown to machines, so that one that was kept goes on on hosts that differ. Absent: the host's.
    pub cpu_template: Option<CpuTemplate>,
    /// Show two threads of a core as such. Threads of one core see each other's secrets on many processors.
    pub smt: bool,
    /// Have the kernel keep track of what is written to memory, so that a second snapshot of a machine writes only what
    /// changed since the first.
    pub track_dirty_pages: bool,
    /// What memory is made of.
    pub huge_pages: HugePages,
    /// Seconds between two looks of a machine at its own memory, for the balloon: by them it is known whether a machine gave up
    /// what it was asked to. Zero: never, and memory cannot be changed while a machine lives.
    pub balloon_statistics_s: u32,
    /// Cgroup all sandboxes are below.
    pub cgroup_parent: String,
    /// Where initramfs files and blank disks are kept. On the file system of the sandboxes' data directories, so that files
    /// are linked into jails and not copied. Set by the node, not by its file.
    #[serde(skip)]
    pub cache_dir: PathBuf,
    /// The guest machines boot. Set by the node, not by its file.
    #[serde(skip)]
    pub guest_dir: PathBuf,
}

/// How much may pass. Each disk and each direction of the link has it for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimits {
    /// Each disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<RateLimiter>,
    /// Into the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_rx: Option<RateLimiter>,
    /// Out of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_tx: Option<RateLimiter>,
}

/// Processor shown to machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CpuTemplate {
    /// One Firecracker knows by name.
    Static(StaticTemplate),
    /// A file with the modifiers, as `cpu-template-helper` writes it.
    Custom(PathBuf),
}

/// What memory is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HugePages {
    /// Ordinary pages.
    #[default]
    None,
    /// Reserved pages of 2 MiB. Such a machine cannot be kept: its memory cannot be mapped from a file.
    TwoMib,
}

impl Default for FirecrackerConfig {
    fn default() -> Self {
        Self {
            binary: PathBuf::from("/usr/local/bin/firecracker"),
            jailer: PathBuf::from("/usr/local/bin/jailer"),
            resources: MachineDefaults::default(),
            kernel: None,
            rootfs: None,
            rate_limits: RateLimits::default(),
            cpu_template: None,
            smt: false,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
            balloon_statistics_s: 5,
            cgroup_parent: "moat".to_owned(),
            cache_dir: PathBuf::from("/var/lib/moat/machines"),
            guest_dir: PathBuf::from("/var/lib/moat/guest"),
        }
    }
}

impl FirecrackerConfig {
    /// Says which setting cannot work.
    pub(super) fn check(&self) -> Result<()> {
        self.resources.check("firecracker.resources")?;
        let paths = [
            ("firecracker.binary", Some(&self.binary)),
            ("firecracker.jailer", Some(&self.jailer)),
            ("firecracker.kernel", self.kernel.as_ref()),
            ("firecracker.rootfs", self.rootfs.as_ref()),
        ];
        for (field, path) in paths {
            if path.is_some_and(|path| !path.is_absolute()) {
                return Err(Error::invalid(field, "must be an absolute path"));
            }
        }
        if self.smt && self.resources.vcpus % 2 == 1 && self.resources.vcpus != 1 {
            let why = format!("{} with firecracker.smt must be 1 or even", self.resources.vcpus);
            return Err(Error::invalid("firecracker.resources.vcpus", why));
        }
        let limits = &self.rate_limits;
        for (field, limiter) in [
            ("firecracker.rate_limits.disk", limits.disk),
            ("firecracker.rate_limits.network_rx", limits.network_rx),
            ("firecracker.rate_limits.network_tx", limits.network_tx),
        ] {
            let Some(limiter) = limiter else { continue };
            check_bucket(field, "bandwidth", limiter.bandwidth)?;
            check_bucket(field, "ops", limiter.ops)?;
        }
        self.custom_template().map(drop)
    }

    /// The custom processor, if one is set.
    pub(super) fn custom_template(&self) -> Result<Option<serde_json::Value>> {
        let Some(CpuTemplate::Custom(path)) = &self.cpu_template else { return Ok(None) };
        let refused =
            |why: String| Error::invalid("firecracker.cpu_template.custom", format!("{}: {why}", path.display()));
        let text = read_bounded(path).map_err(refused)?;
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| refused(e.to_string()))?;
        if value.is_object() { Ok(Some(value)) } else { Err(refused("not a JSON object".to_owned())) }
    }

    /// The processor in a word, for what a machine is made of.
    pub(super) fn cpu(&self) -> Result<String> {
        Ok(match &self.cpu_template {
            None => "host".to_owned(),
            Some(CpuTemplate::Static(template)) => format!("{template:?}"),
            Some(CpuTemplate::Custom(_)) => {
                use sha2::{Digest as _, Sha256};
                let text = self.custom_template()?.unwrap_or_default().to_string();
                format!("custom {}", crate::vm::setup::hex(&Sha256::digest(text)))
            }
        })
    }
}

fn read_bounded(path: &Path) -> std::result::Result<Vec<u8>, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut text = Vec::new();
    let limit = TEMPLATE_LEN_MAX as u64 + 1;
    file.take(limit).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if text.len() > TEMPLATE_LEN_MAX { Err(format!("longer than {TEMPLATE_LEN_MAX} bytes")) } else { Ok(text) }
}

fn check_bucket(field: &str, which: &str, bucket: Option<TokenBucket>) -> Result<()> {
    let Some(bucket) = bucket else { return Ok(()) };
    // The monitor takes a bucket of nothing, or one that is filled in no time, for no limit at all.
    for (name, value) in [("size", bucket.size), ("refill_time", bucket.refill_time)] {
        if value == 0 {
            let why = "must not be 0: leave the limit out where there is to be none";
            return Err(Error::invalid(&format!("{field}.{which}.{name}"), why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: FirecrackerConfig) -> String {
        config.check().unwrap_err().doing
    }

    #[test]
    fn empty_text_is_the_default_and_unknown_members_are_refused() {
        let parsed: FirecrackerConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(parsed, FirecrackerConfig::default());
        parsed.check().unwrap();
        assert!(serde_json::from_str::<FirecrackerConfig>(r#"{"mmds": {}}"#).is_err());
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let good = FirecrackerConfig::default;
        assert!(
            refused(FirecrackerConfig { binary: "firecracker".into(), ..good() }).starts_with("firecracker.binary: ")
        );
        let bucket = TokenBucket { size: 0, refill_time: 100, one_time_burst: None };
        let limits = RateLimits {
            network_tx: Some(RateLimiter { bandwidth: None, ops: Some(bucket) }),
            ..RateLimits::default()
        };
        let refusal = refused(FirecrackerConfig { rate_limits: limits, ..good() });
        assert!(refusal.starts_with("firecracker.rate_limits.network_tx.ops.size: "), "{refusal}");
        let odd = MachineDefaults { vcpus: 3, ..MachineDefaults::default() };
        let refusal = refused(FirecrackerConfig { smt: true, resources: odd, ..good() });
        assert!(refusal.starts_with("firecracker.resources.vcpus: "), "{refusal}");
        let missing = CpuTemplate::Custom("/nonexistent".into());
        let refusal = refused(FirecrackerConfig { cpu_template: Some(missing), ..good() });
        assert!(refusal.starts_with("firecracker.cpu_template.custom: /nonexistent: "), "{refusal}");
    }

    #[test]
    fn processors_are_told_apart() {
        let of = |text: &str| {
            let config: FirecrackerConfig = serde_json::from_str(text).unwrap();
            config.cpu().unwrap()
        };
        assert_eq!((of("{}"), of(r#"{"cpu_template": {"static": "T2S"}}"#)), ("host".to_owned(), "T2S".to_owned()));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, r#"{"cpuid_modifiers": []}"#).unwrap();
        let custom = of(&format!(r#"{{"cpu_template": {{"custom": "{}"}}}}"#, path.display()));
        assert!(custom.starts_with("custom ") && custom.len() == 71, "{custom}");
    }
}
