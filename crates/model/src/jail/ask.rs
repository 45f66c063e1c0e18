//! What is asked of jails, and what is told while it is done. The bodies of REST are these.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::steps::Step;
use super::{
    JailKind, JailLimit, JailMount, JailName, JailView, Redirect, ReleaseName, SnapshotTag, Tag, TemplateName,
};
use crate::Isolation;
use crate::network::NetworkMode;

fn container() -> Isolation {
    Isolation::Container
}

fn thin() -> JailKind {
    JailKind::Thin
}

fn yes() -> bool {
    true
}

fn is_yes(given: &bool) -> bool {
    *given
}

/// A jail to be made. It is up afterwards, unless it is empty or `start` says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewJail {
    /// What it will be called.
    pub name: JailName,
    /// How its root is made.
    #[serde(default = "thin")]
    pub kind: JailKind,
    /// Of what; not for `empty` and `oci`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseName>,
    /// Reference of an image; for `oci`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The weakest isolation accepted: `container` or `microvm`.
    #[serde(default = "container")]
    pub isolation: Isolation,
    /// What it reaches; absent: the most the node gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkMode>,
    /// Its address as typed: `10.0.0.1`, or with a mask, which means nothing here. Absent: one of the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Resolvers it asks in place of the node's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<Ipv4Addr>,
    /// It is started with the node.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub boot: bool,
    /// Lower ones are started first; absent: [`super::PRIORITY_DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// Jails that are up before it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depend: Vec<JailName>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// Further environment of its program; for `oci`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Whether it is started.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub start: bool,
}

impl NewJail {
    /// A thin jail of a release, everything else at its default.
    pub fn new(name: JailName, release: Option<ReleaseName>) -> Self {
        Self {
            name,
            kind: JailKind::Thin,
            release,
            image: None,
            isolation: Isolation::Container,
            network: None,
            address: None,
            nameservers: Vec::new(),
            boot: true,
            priority: None,
            depend: Vec::new(),
            tags: Vec::new(),
            env: BTreeMap::new(),
            start: true,
        }
    }
}

/// What is changed of a jail; what is absent stays. What concerns its sandbox holds from its next start on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeJail {
    /// It is started with the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<bool>,
    /// Lower ones are started first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// All it depends on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depend: Option<Vec<JailName>>,
    /// Labels it gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_tags: Vec<Tag>,
    /// Labels it loses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_tags: Vec<Tag>,
    /// Its address as typed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What it reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkMode>,
    /// All resolvers it asks; none: the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nameservers: Option<Vec<Ipv4Addr>>,
    /// The weakest isolation accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Services that are watched from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watch: Vec<String>,
    /// Services that are watched no longer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unwatch: Vec<String>,
    /// Properties set, and with no value taken away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, Option<String>>,
}

/// How a jail is stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopJail {
    /// Its programs are killed at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// How a jail is destroyed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestroyJail {
    /// One that is up is stopped first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// A clone to be made. It is down afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneJail {
    /// What it will be called.
    pub name: JailName,
    /// Its address as typed; absent: one of the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// Another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenameJail {
    /// What it will be called.
    pub name: JailName,
}

/// Another release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeJail {
    /// Which.
    pub release: ReleaseName,
}

/// A template to be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyTemplate {
    /// Which.
    pub template: TemplateName,
    /// `NAME=VALUE` from the command line: the first of a name counts, before those of files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<(String, String)>,
    /// Text of a file of arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arg_file: Option<String>,
    /// Only says what would be done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// If a step fails, the jail's files become what they were before the first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rollback: bool,
}

/// What became of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// All its steps, in their order.
    pub steps: Vec<Step>,
    /// How many were done: none of a dry run.
    pub done: usize,
    /// What was noticed while it was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A snapshot to be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeJailSnapshot {
    /// What it will be called; absent: `moat_<jail>_<date>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<SnapshotTag>,
}

/// An archive that becomes a jail. It is down afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportJail {
    /// What it will be called; absent: as in the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<JailName>,
    /// SHA-256 the archive must have, 64 hex digits; needed unless `force`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Its digest is not looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// A release to be made or updated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// What it is, or will be, called.
    pub name: ReleaseName,
    /// What it is made from; absent: what the operator says of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ReleaseSource>,
    /// One that is there is made anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub update: bool,
}

/// What a release is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ReleaseSource {
    /// An image of a registry, or one in the node's store.
    Image(String),
    /// An OCI layout, a directory or an archive of one, on the node.
    OciLayout(PathBuf),
    /// What `docker save` writes, on the node.
    DockerArchive(PathBuf),
    /// A directory of the node that is a root.
    Directory(PathBuf),
    /// A tar archive of a root, on the node.
    RootArchive(PathBuf),
    /// What a jail of the caller's that is down has as its root, without its volumes.
    Jail(JailName),
}

/// What releases are made from that no path of the node says: an archive somebody sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseArchive {
    /// A tar of an OCI layout.
    Oci,
    /// What `docker save` writes.
    Docker,
    /// A tar of a root.
    Root,
}

/// A template to be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchTemplate {
    /// Address of a git repository.
    pub url: String,
    /// Which state of it; absent: its newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// A limit that is taken away; without a resource all are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveLimit {
    /// Which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
}

/// A mount that is taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveMount {
    /// Where it is inside.
    pub target: PathBuf,
}

/// A change of what stands beside a jail's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// One limit more, or another value of one.
    Limit(JailLimit),
    /// One limit less, or none.
    NoLimit(RemoveLimit),
    /// One mount more.
    Mount(JailMount),
    /// One mount less.
    NoMount(RemoveMount),
    /// One redirect more.
    Redirect(Redirect),
    /// One redirect less, or none.
    NoRedirect(Option<Redirect>),
}

/// What is told while something is done to jails, in order. The last one is [`JailEvent::Done`] or [`JailEvent::Failed`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum JailEvent {
    /// Something a person may want to know.
    Note {
        /// What.
        text: String,
    },
    /// How far something is that takes a while.
    Progress {
        /// What is done.
        doing: String,
        /// Bytes, or pieces, so far.
        done: u64,
        /// And in all, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    /// A step of a template begins.
    Step {
        /// Which, from 1.
        number: usize,
        /// Of how many.
        of: usize,
        /// What.
        step: Box<Step>,
    },
    /// What a step's program wrote.
    Output {
        /// On its error stream.
        stderr: bool,
        /// Text; bytes that are none are replaced.
        text: String,
    },
    /// Nothing new; it goes on.
    Keepalive,
    /// It is done; for what has a jail as its result.
    Done {
        /// The jail as it is then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        jail: Option<Box<JailView>>,
        /// What became of a template.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        applied: Option<Applied>,
        /// Any other result.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<serde_json::Value>,
    },
    /// It is not done.
    Failed {
        /// The error as every reply has it.
        error: serde_json::Value,
    },
}
