//! What an operator sets for the process driver.

use moat_model::spec::Resources;
use serde::{Deserialize, Serialize};

/// Settings of the process driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessConfig {
    /// Off, everything is refused: a workload of this driver has the rights of the daemon's own user.
    pub enabled: bool,
    /// Limits of workloads that name none. A table given here replaces the default one whole: what it leaves out is not
    /// limited.
    pub resources: Resources,
    /// Cgroup all workloads are below.
    pub cgroup_parent: String,
    /// CPUs set aside for workloads that ask for whole ones, in the kernel's list format. Set by the node, not by its file.
    #[serde(skip)]
    pub exclusive_cpus: Option<String>,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        let resources = Resources {
            memory_bytes: Some(256 << 20),
            cpu_weight: Some(100),
            pids_max: Some(512),
            nofile: Some(65_536),
            ..Resources::default()
        };
        Self { enabled: false, resources, cgroup_parent: "moat".to_owned(), exclusive_cpus: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_is_off() {
        let parsed: ProcessConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(parsed, ProcessConfig::default());
        assert!(!parsed.enabled);
    }

    #[test]
    fn a_table_of_limits_replaces_the_default() {
        let parsed: ProcessConfig = serde_json::from_str(r#"{"resources": {"pids_max": 9}}"#).unwrap();
        assert_eq!((parsed.resources.pids_max, parsed.resources.memory_bytes), (Some(9), None));
    }
}
