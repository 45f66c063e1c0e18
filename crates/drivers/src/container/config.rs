//! What an operator sets for the container driver.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use moat_engine::driver::Place;
use moat_engine::error::{Error, Result};
use moat_model::SandboxSpec;
use moat_model::spec::{BindIds, HostNamespaces, Resources};
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
    /// First of the 65,536 host ids that files in directories the node makes for tasks belong to, on disk: nobody's on this
    /// host, and the same for all tasks, whatever range of ids their sandboxes run with.
    pub disk_ids: u32,
    /// Capabilities a sandbox may be given, by name; `all` means every one this kernel has.
    pub allow_caps: Vec<String>,
    /// Limits of sandboxes that name none.
    pub resources: ResourceDefaults,
    /// Cgroup all sandboxes are below.
    pub cgroup_parent: String,
    /// Sandboxes may be in the host's pid namespace. Set by the node, not by its file.
    #[serde(skip)]
    pub allow_host_pid: bool,
    /// Sandboxes may be in the host's IPC namespace. Set by the node, not by its file.
    #[serde(skip)]
    pub allow_host_ipc: bool,
    /// CPUs set aside for sandboxes that ask for whole ones, in the kernel's list format. Set by the node, not by its file.
    #[serde(skip)]
    pub exclusive_cpus: Option<String>,
    /// Host directories no sandbox may see, whatever `host_paths` says: the node's own. Set by the node, not by its file.
    #[serde(skip)]
    pub private_dirs: Vec<PathBuf>,
    /// Where layers of images are mounted, for all sandboxes made of them. Set by the node, not by its file.
    #[serde(skip)]
    pub roots_dir: PathBuf,
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

/// Ids of a sandbox, and of files made for tasks.
const IDS: u32 = 65_536;

/// The block just below the first id the node gives to sandboxes by default.
const DISK_IDS: u32 = 0x4000_0000 - IDS;

/// Below are people and services of the host.
const DISK_IDS_MIN: u32 = 100_000;

impl Default for ContainerConfig {
    fn default() -> Self {
        Self {
            host_paths: HOST_PATHS.iter().map(|p| (PathBuf::from(p), PathBuf::from(p))).collect(),
            default_user: "nobody".to_owned(),
            disk_ids: DISK_IDS,
            allow_caps: ALLOW_CAPS.iter().map(|&c| c.to_owned()).collect(),
            resources: ResourceDefaults::default(),
            cgroup_parent: "moat".to_owned(),
            allow_host_pid: false,
            allow_host_ipc: false,
            exclusive_cpus: None,
            private_dirs: Vec::new(),
            roots_dir: PathBuf::from("/run/moat/roots"),
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

/// Where every sandbox has something of its own.
const OWN_DIRS: [&str; 9] = ["/", "/alloc", "/dev", "/local", "/private", "/proc", "/secrets", "/sys", "/tmp"];

impl ContainerConfig {
    /// Says which setting cannot work.
    pub(super) fn check(&self) -> Result<()> {
        for (source, target) in &self.host_paths {
            for path in [source, target] {
                if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
                    return Err(refused(path, "must be absolute, without '..'"));
                }
            }
            let taken = OWN_DIRS.iter().skip(1).find(|own| target.starts_with(own));
            if let Some(own) = taken.or_else(|| OWN_DIRS.iter().find(|own| target == Path::new(own))) {
                return Err(refused(target, format!("{own} inside is the sandbox's own: map it elsewhere")));
            }
            if let Some(private) = self.private_dirs.iter().find(|dir| overlap(source, dir)) {
                return Err(refused(source, format!("would show the node's own directory {}", private.display())));
            }
        }
        if self.default_user.is_empty() {
            return Err(Error::invalid("container.default_user", "must be a name, uid or uid:gid"));
        }
        if self.disk_ids < DISK_IDS_MIN || self.disk_ids.checked_add(IDS).is_none() {
            let why = format!(
                "must leave the host's own ids alone: at least {DISK_IDS_MIN}, and {IDS} below the 32-bit edge"
            );
            return Err(Error::invalid("container.disk_ids", why));
        }
        Ok(())
    }

    /// Namespaces of the host are the operator's to give.
    pub(super) fn check_host(&self, host: HostNamespaces) -> Result<()> {
        for (asked, allowed, field) in [(host.pid, self.allow_host_pid, "pid"), (host.ipc, self.allow_host_ipc, "ipc")]
        {
            if asked && !allowed {
                let why =
                    format!("host.{field}: not allowed on this node: its operator can, with jobs.host_{field} = true");
                return Err(Error::new(moat_model::ErrorKind::Denied, why));
            }
        }
        Ok(())
    }

    /// The same for the directories of one sandbox, which no other may see.
    pub(super) fn check_place(&self, place: &Place, spec: &SandboxSpec) -> Result<()> {
        if place.uid_base == 0 {
            return Err(Error::new(moat_model::ErrorKind::Internal, "a container was given no range of user ids"));
        }
        if place.uid_base.abs_diff(self.disk_ids) < IDS {
            let why = format!(
                "{} and the {IDS} ids after it are given to sandboxes: use a block below uid_base",
                self.disk_ids
            );
            return Err(Error::invalid("container.disk_ids", why));
        }
        for bind in spec.binds.iter().filter(|bind| bind.ids == BindIds::Host) {
            let own = self.private_dirs.iter().chain([&place.run_dir, &place.data_dir]);
            if let Some(own) = own.into_iter().find(|dir| overlap(&bind.source, dir)) {
                let why = format!("{} would show the node's own directory {}", bind.source.display(), own.display());
                return Err(Error::new(moat_model::ErrorKind::Denied, format!("binds.source: {why}")));
            }
        }
        for source in self.host_paths.keys() {
            if let Some(own) = [&place.run_dir, &place.data_dir].into_iter().find(|dir| overlap(source, dir)) {
                return Err(refused(source, format!("would show the node's own directory {}", own.display())));
            }
        }
        Ok(())
    }
}

fn refused(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::invalid("container.host_paths", format!("{}: {why}", path.display()))
}

/// Whether showing `source` would show something of `dir`, or the other way round, links followed.
fn overlap(source: &Path, dir: &Path) -> bool {
    // What does not exist has no links in it yet.
    let [source, dir] = [source, dir].map(|path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf()));
    source.starts_with(&dir) || dir.starts_with(&source)
}

impl ResourceDefaults {
    /// In the form limits are asked in.
    pub(super) fn to_resources(&self) -> Resources {
        Resources {
            memory_bytes: Some(self.memory_bytes),
            memory_reserve_bytes: None,
            cpu_weight: Some(self.cpu_weight),
            cpu_quota_millis: None,
            cpuset: None,
            cores: None,
            pids_max: Some(self.pids_max),
            disk_bytes: Some(self.disk_bytes),
            secrets_bytes: Some(self.secrets_bytes),
            nofile: Some(self.nofile),
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

    #[test]
    fn paths_that_would_show_or_cover_what_is_not_the_users_are_refused() {
        let mapped = |source: &str, target: &str| ContainerConfig {
            host_paths: BTreeMap::from([(PathBuf::from(source), PathBuf::from(target))]),
            private_dirs: vec![PathBuf::from("/run/moat"), PathBuf::from("/var/lib/moat")],
            ..ContainerConfig::default()
        };
        ContainerConfig::default().check().unwrap();
        mapped("/opt/tools", "/opt").check().unwrap();
        mapped("/var/lib/moats", "/x").check().unwrap();
        for (source, target) in [
            ("usr", "/usr"),
            ("/usr", "usr"),
            ("/usr", "/x/../proc"),
            ("/usr", "/"),
            ("/usr", "/proc/x"),
            ("/usr", "/dev"),
            ("/var/lib", "/x"),
            ("/", "/x"),
            ("/run/moat/sandboxes", "/x"),
        ] {
            let refusal = mapped(source, target).check().unwrap_err();
            assert!(refusal.doing.starts_with("container.host_paths: "), "{source} {target}: {refusal}");
        }
    }
}
