//! What is set of a jail one at a time: limits, mounts, redirects.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::network::Protocol;
use crate::spec::Resources;

/// A bound, under Bastille's (rctl's) name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailLimit {
    /// Such as `memoryuse`, `maxproc`, `pcpu`, `cpu`, `openfiles`.
    pub resource: String,
    /// As it was written: `1G`, `200`, `0,1`.
    pub value: String,
}

/// Why a limit cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// FreeBSD counts it, Linux does not.
    #[error("limit {0}: not available on Linux; there are memoryuse, maxproc, nthr, pcpu, cpu and openfiles")]
    NotOnLinux(String),
    /// No limit is called that.
    #[error("limit {0:?}: no such resource; there are memoryuse, maxproc, nthr, pcpu, cpu and openfiles")]
    Unknown(String),
    /// The value is none.
    #[error("limit {resource}: {value:?} is not {expected}")]
    Value {
        /// Of which.
        resource: String,
        /// What was given.
        value: String,
        /// What would be accepted.
        expected: &'static str,
    },
}

/// What FreeBSD's rctl knows and nothing here can bound.
const NOT_ON_LINUX: [&str; 22] = [
    "cputime",
    "datasize",
    "stacksize",
    "coredumpsize",
    "memorylocked",
    "vmemoryuse",
    "pseudoterminals",
    "swapuse",
    "msgqqueued",
    "msgqsize",
    "nmsgq",
    "nsem",
    "nsemop",
    "nshm",
    "shmsize",
    "wallclock",
    "readbps",
    "writebps",
    "readiops",
    "writeiops",
    "openpty",
    "maxfiles",
];

/// Sets this limit in `resources`.
pub fn limit(asked: &JailLimit, resources: &mut Resources) -> Result<(), LimitError> {
    let JailLimit { resource, value } = asked;
    let wrong = |expected| LimitError::Value { resource: resource.clone(), value: value.clone(), expected };
    let number = || value.parse::<u32>().ok().filter(|n| *n > 0);
    match resource.as_str() {
        "memoryuse" => {
            resources.memory_bytes = Some(bytes(value).ok_or_else(|| wrong("a size such as 512M or 1G"))?);
        }
        "maxproc" | "nthr" => {
            let asked = number().ok_or_else(|| wrong("a number of at least 1"))?;
            // Linux counts processes and threads together: the smaller of the two holds.
            resources.pids_max = Some(resources.pids_max.map_or(asked, |other| other.min(asked)));
        }
        "pcpu" => {
            let percent = number().filter(|n| *n <= 100_000).ok_or_else(|| wrong("a percentage of one CPU"))?;
            resources.cpu_quota_millis = Some(percent * 10);
        }
        "cpu" => {
            let is_list = value.split(',').all(|cpu| {
                cpu.split_once('-').map_or_else(
                    || cpu.parse::<u16>().is_ok(),
                    |(from, to)| matches!((from.parse::<u16>(), to.parse::<u16>()), (Ok(a), Ok(b)) if a <= b),
                )
            });
            resources.cpuset = Some(is_list.then(|| value.clone()).ok_or_else(|| wrong("a list such as 0,1 or 0-3"))?);
        }
        "openfiles" => {
            resources.nofile = Some(number().ok_or_else(|| wrong("a number of at least 1"))?.into());
        }
        other if NOT_ON_LINUX.contains(&other) => return Err(LimitError::NotOnLinux(other.to_owned())),
        other => return Err(LimitError::Unknown(other.chars().take(80).collect())),
    }
    Ok(())
}

/// rctl's sizes: a number, and a letter for powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..)?.to_ascii_uppercase().as_str() {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor).filter(|n| *n > 0)
}

/// Something shown inside a jail at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailMount {
    /// What.
    pub kind: MountKind,
    /// Absolute path inside.
    pub target: PathBuf,
    /// It cannot be written inside.
    pub read_only: bool,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// A path of the host the operator allows (`nullfs`).
    Host(PathBuf),
    /// A directory kept with the jail's files, for a volume of an image.
    Volume(String),
}

/// A port of the host, or a range, that leads to the jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Address of the host, `0.0.0.0` for all of them; without one, that at which the node publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_address: Option<Ipv4Addr>,
    /// First port of the host.
    pub host_port: u16,
    /// First port of the jail.
    pub port: u16,
    /// How many, at least 1.
    pub count: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(resource: &str, value: &str) -> Result<Resources, LimitError> {
        let mut resources = Resources::default();
        limit(&JailLimit { resource: resource.to_owned(), value: value.to_owned() }, &mut resources).map(|()| resources)
    }

    #[test]
    fn limits_become_those_of_a_sandbox() {
        assert_eq!(set("memoryuse", "1G").unwrap().memory_bytes, Some(1 << 30));
        assert_eq!(set("maxproc", "20").unwrap().pids_max, Some(20));
        assert_eq!(set("pcpu", "150").unwrap().cpu_quota_millis, Some(1500));
        assert_eq!(set("cpu", "0,2-3").unwrap().cpuset.as_deref(), Some("0,2-3"));
        assert_eq!(set("openfiles", "64").unwrap().nofile, Some(64));
    }

    #[test]
    fn what_cannot_be_had_is_said() {
        assert!(matches!(set("cputime", "1"), Err(LimitError::NotOnLinux(_))));
        assert!(matches!(set("luck", "1"), Err(LimitError::Unknown(_))));
        for (resource, value) in
            [("memoryuse", "1X"), ("memoryuse", "0"), ("cpu", "3-1"), ("pcpu", "x"), ("maxproc", "-1")]
        {
            assert!(matches!(set(resource, value), Err(LimitError::Value { .. })), "{resource} {value}");
        }
    }
}
