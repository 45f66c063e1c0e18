//! Jails: environments with a name, an address and a root that last, and the template that furnishes them.
//!
//! A jail is what is declared here; while it is up, it is a sandbox ([`crate::SandboxSpec`] with a
//! [`LastingRoot`](crate::spec::LastingRoot)), a new one for each start. [`steps`] is
//! what a template becomes before any of it is applied.

mod ask;
mod name;
pub mod property;
mod setting;
pub mod steps;
pub mod target;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

pub use ask::{
    Applied, ApplyTemplate, Bootstrap, ChangeJail, CloneJail, DestroyJail, FetchTemplate, ImportJail, JailEvent,
    NewJail, ReleaseArchive, ReleaseSource, RemoveLimit, RemoveMount, RenameJail, Setting, StopJail, TakeJailSnapshot,
    UpgradeJail,
};
pub use name::{JailName, ReleaseName, SnapshotTag, Tag, TemplateName};
pub use setting::{JailLimit, JailMount, LimitError, MountKind, Redirect, limit};
pub use view::{JailState, JailView, ReleaseView, SnapshotView, TemplateCheck, TemplateHook, TemplateView};

use crate::network::NetworkMode;
use crate::{Isolation, Namespace, ProcessSpec};

/// Where in the order of starting a jail stands that says nothing: Bastille's default.
pub const PRIORITY_DEFAULT: u16 = 99;

/// A jail as declared. What a node keeps of it between two starts, besides its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailSpec {
    /// What it is called: unique in its namespace on its node.
    pub name: JailName,
    /// Tenant.
    pub namespace: Namespace,
    /// How its root is made.
    pub kind: JailKind,
    /// What its root is made of; none for an empty one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseName>,
    /// The weakest isolation the caller accepts: `container`, or `microvm`.
    pub isolation: Isolation,
    /// What it reaches, and as whom.
    pub network: JailNetwork,
    /// It is started when the node starts, and after a reboot.
    pub boot: bool,
    /// Jails that are up before it is, and go down after it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub depend: BTreeSet<JailName>,
    /// Lower ones are started first and stopped last.
    pub priority: u16,
    /// Labels that commands take in place of names.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<Tag>,
    /// Bounds, one for each resource.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<JailLimit>,
    /// What of the host, or of memory, is shown inside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<JailMount>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redirects: Vec<Redirect>,
    /// Services started again when they are found down.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub watched: BTreeSet<String>,
    /// What is run in it once it is up: the program of an OCI image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProcessSpec>,
    /// Properties of Bastille that mean something here ([`JailSpec`] has no field for them), by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// How the root of a jail is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JailKind {
    /// The release below, what the jail changed above. It gets the release anew when that is updated.
    Thin,
    /// A copy of the release of its own.
    Thick,
    /// The release as it was when the jail was made, shared until something is changed.
    Clone,
    /// Nothing: whoever made it fills it before it can start.
    Empty,
    /// An OCI image, and what the jail changed above.
    Oci,
}

impl JailKind {
    /// Its name, as in JSON and in lists.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Thin => "thin",
            Self::Thick => "thick",
            Self::Clone => "clone",
            Self::Empty => "empty",
            Self::Oci => "oci",
        }
    }
}

impl std::fmt::Display for JailKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a jail reaches, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailNetwork {
    /// What it can reach at all; `isolated` has no address.
    pub mode: NetworkMode,
    /// Any address its user chose, kept as long as the jail; absent: one of the node's, which lasts as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Resolvers it asks in place of the node's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<Ipv4Addr>,
}
