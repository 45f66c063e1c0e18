//! What an operator sets for the container driver.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Settings of the container driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerConfig {
    /// Host path to path inside, for roots of template `host`. Each directory is shown with a private writable layer over
    /// it, a file read-only; paths that do not exist are skipped. A map given here replaces the default.
    pub host_paths: BTreeMap<PathBuf, PathBuf>,
    /// User of processes that name none.
    pub default_user: String,
    /// Capabilities a sandbox may be given, by name; `all` means every one this kernel has.
    pub allow_caps: Vec<String>,
    /// Limits of sandboxes that name none.
    pub resources: ResourceDefaults,
    /// Cgroup all sandboxes are below.
    pub cgroup_parent: String,
    /// Host directories no sandbox may see, whatever `host_paths` says: the node's own. Set by the node, not by its file.
    #[serde(skip)]
    pub private_dirs: Vec<PathBuf>,
}

/// Limits of sandboxes that name none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceDefaults {
    /// Hard memory limit.
    pub memory_bytes: u64,
    /// Relative CPU share; 100 is one share.
    pub cpu_weight: u32,
    /// Processes and threads.
    pub pids_max: u32,
    /// Size of the private writable layer.
    pub disk_bytes: u64,
    /// Size of `/secrets`.
    pub secrets_bytes: u64,
    /// Open files per process.
    pub nofile: u64,
}

/// Nomad's default `chroot_env`.
const HOST_PATHS: [&str; 9] =
    ["/bin", "/etc", "/lib", "/lib32", "/lib64", "/run/resolvconf", "/run/systemd/resolve", "/sbin", "/usr"];

/// The set container engines have agreed on, minus NET_RAW.
const ALLOW_CAPS: [&str; 13] = [
    "audit_write",
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "mknod",
    "net_bind_service",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_chroot",
];

impl Default for ContainerConfig {
    fn default() -> Self {
        Self {
            host_paths: HOST_PATHS.iter().map(|p| (PathBuf::from(p), PathBuf::from(p))).collect(),
            default_user: "nobody".to_owned(),
            allow_caps: ALLOW_CAPS.iter().map(|&c| c.to_owned()).collect(),
            resources: ResourceDefaults::default(),
            cgroup_parent: "moat".to_owned(),
            private_dirs: Vec::new(),
        }
    }
}

impl Default for ResourceDefaults {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            cpu_weight: 100,
            pids_max: 512,
            disk_bytes: 256 << 20,
            secrets_bytes: 1 << 20,
            nofile: 65_536,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_text_is_the_default_and_unknown_members_are_refused() {
        let parsed: ContainerConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(parsed, ContainerConfig::default());
        let error = serde_json::from_str::<ContainerConfig>(r#"{"host_path": {}}"#).unwrap_err();
        assert!(error.to_string().contains("host_path"), "{error}");
    }

    #[test]
    fn a_map_replaces_the_default_one() {
        let parsed: ContainerConfig = serde_json::from_str(r#"{"host_paths": {"/opt/x": "/x"}}"#).unwrap();
        assert_eq!(parsed.host_paths.len(), 1);
    }
}
