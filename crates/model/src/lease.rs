//! Host resources a sandbox holds, so that whatever happens there is a list to walk.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::network::NetworkLease;

/// Something on the host that exists because of one sandbox and must go with it.
///
/// A resource carries everything needed to remove it, so that release needs no other state. A driver names all of them
/// in `plan`, before the first one exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Resource {
    /// A directory tree on the host.
    Directory {
        /// Where.
        path: PathBuf,
    },
    /// A control group, in every hierarchy that has it. Releasing it kills what is inside first.
    Cgroup {
        /// Name below the node's cgroup parent.
        name: String,
    },
    /// A block of host user ids. An allocation, not an object: the engine gives it, no driver call releases it.
    UidRange {
        /// First host id.
        base: u32,
        /// How many.
        count: u32,
    },
    /// A place in the node's network: a network namespace, its link to the host, an address, and whatever rules name them.
    /// The engine takes it before the driver is asked, and has the network release it after everything else.
    Network(NetworkLease),
}

/// How far a resource has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// About to be made, or perhaps half made: must be released all the same.
    Intended,
    /// Made.
    Held,
}

/// A resource and how far it has come. Recorded as intended before the effect and as held after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What.
    pub resource: Resource,
    /// How far.
    pub state: LeaseState,
}
