//! Sandboxes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::network::{NetworkStatus, NetworkWish};

/// Asks for a sandbox. Exactly one of `template`, `image` and `snapshot` names what it is made from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSandbox {
    /// A template by name, `host` and `scratch` among them; `name@3` is its third version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// An image reference; pulled first if it is not there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// A snapshot by id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Limits.
    #[serde(default)]
    pub resources: ResourceLimits,
    /// Environment of every process in it, over the image's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// User of processes that name none: `name`, `uid` or `uid:gid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory of processes that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Labels: at most 64, shown and searched, never interpreted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Life span in seconds, counted while it runs. Absent: the node's default; 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<u64>,
    /// Seconds without any request for it (exec, files) after which `on_timeout` happens. Absent or 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_sec: Option<u64>,
    /// What a time limit does.
    #[serde(default)]
    pub on_timeout: OnTimeout,
    /// Weakest isolation accepted: `microvm`, `container` or `process`. Absent: `container`. A snapshot with memory gives
    /// `microvm`, whatever is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
    /// Network: a mode (`isolated` if absent, `internal`, `internet`), or an object that says more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkWish>,
    /// Who reaches its ports through the node's HTTP proxy.
    #[serde(default)]
    pub proxy: ProxyOptions,
    /// Privileges.
    #[serde(default)]
    pub security: SecurityOptions,
    /// Runs the image's entrypoint and command as its main process, whose end is the sandbox's end. Off: it idles.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub run_entrypoint: bool,
    /// A main process of its own, instead of the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
}

/// Limits. What is absent is the template's, then the node's default; never "unlimited".
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceLimits {
    /// Hard CPU quota in cores; fractions are allowed. A microVM has as many processors, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpu: Option<f64>,
    /// Memory in MiB. Swap is zero. The writable layer of a container counts; that of a microVM is on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Relative CPU share, 1 to 10000; 100 is one share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Writable layer in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u64>,
}

/// Who reaches a sandbox's ports through the node's HTTP proxy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyOptions {
    /// Everybody who reaches the proxy. Off: only whoever has the sandbox's token.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
}

/// How a sandbox's ports are reached through the node's HTTP proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProxyAccess {
    /// URL of a port of it, with `{port}` in place of the port.
    pub url_template: String,
    /// Goes along in the header `Moat-Token`, or once as the query `moat_token`. It holds as long as the sandbox lives.
    pub token: String,
    /// The token is not needed.
    pub public: bool,
}

/// Privileges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityOptions {
    /// Capabilities added to the default 13, within the operator's ceiling.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Capabilities removed; `all` empties the set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// Lets set-user-id programs raise privileges inside.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_new_privs: bool,
}

/// What a time limit does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// The sandbox is killed.
    #[default]
    Kill,
    /// It is paused.
    Pause,
}

/// A sandbox as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    /// `sb-…`.
    pub id: String,
    /// `pending`, `preparing`, `starting`, `running`, `paused`, `stopping`, `recovering`, `stopped` or `failed`.
    pub state: String,
    /// Template it was made from.
    pub template: Option<String>,
    /// Which version of it.
    pub template_version: Option<u64>,
    /// Digest of the image it was made from.
    pub image: Option<String>,
    /// Sandbox it was forked from.
    pub parent: Option<String>,
    /// Tenant.
    pub namespace: String,
    /// Node that holds it.
    pub node: String,
    /// It is paused on disk, not in memory.
    #[serde(default)]
    pub stowed: bool,
    /// Isolation it was given; never weaker than asked. Of a microVM with what executes it: `microvm/kvm`, `microvm/tcg`.
    pub isolation: String,
    /// Isolation that was asked for.
    pub isolation_asked: String,
    /// Driver that gives it.
    pub driver: String,
    /// Mode of its network: `isolated`, `internal`, `internet` or `host`.
    pub network: String,
    /// Its address; null without a network.
    pub ip: Option<String>,
    /// All of its network, defaults filled in.
    #[serde(default)]
    pub networking: Option<NetworkStatus>,
    /// Its ports through the node's HTTP proxy; null where there is none.
    #[serde(default)]
    pub proxy: Option<ProxyAccess>,
    /// From the request to its agent being ready. For one from the pool: to the claim being done.
    pub boot_time_ms: Option<f64>,
    /// It stood ready before it was asked for.
    pub from_pool: bool,
    /// Limits in force.
    pub resources: ResourceLimits,
    /// As asked.
    pub metadata: BTreeMap<String, String>,
    /// When it was accepted; for one from the pool, claimed.
    pub created_at: String,
    /// When it was ready.
    pub started_at: Option<String>,
    /// When its life span ends; null while paused or without one.
    pub expires_at: Option<String>,
    /// What is left of its life span; kept while it is paused.
    pub remaining_sec: Option<u64>,
    /// Longest span without use.
    pub idle_timeout_sec: Option<u64>,
    /// What a time limit does.
    pub on_timeout: OnTimeout,
    /// When it ended.
    pub ended_at: Option<String>,
    /// Why it ended, as a word: `killed`, `timed_out`, `exited`, ...
    pub cause: Option<String>,
    /// Why it ended, for people.
    pub message: Option<String>,
    /// Exit code of its main process.
    pub exit_code: Option<i32>,
}

/// Which sandboxes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListSandboxes {
    /// States, separated by commas. Absent: all that have not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Template name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// `key=value` pairs of the metadata, separated by commas; all must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    /// Most sandboxes in the answer, 1 to 1000; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next` of the answer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A page of sandboxes, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SandboxList {
    /// The page.
    pub sandboxes: Vec<Sandbox>,
    /// Give this as `after` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Gives a sandbox a new life span, counted from now. It never shortens a life unless `shorten` says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Keepalive {
    /// Seconds from now. Absent: the span it was created with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<u64>,
    /// Also if that is earlier than what it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shorten: bool,
}

/// Pauses a sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// Where it is kept meanwhile.
    #[serde(default)]
    pub to: PauseTo,
}

/// Where a paused sandbox is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PauseTo {
    /// In memory: it goes on at once.
    #[default]
    Memory,
    /// On disk: its memory goes back to the host. MicroVMs can.
    Disk,
}

/// Resumes a sandbox. Nothing else about it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// A new life span from now; absent: what was left when it was paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<u64>,
}

/// Makes children of a running or paused sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// How many, 1 to 16; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Life span of each; absent: the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<u64>,
    /// Labels over the parent's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether children go on with the parent's memory and processes. Absent: if they can, as microVMs do. `false`: they
    /// get its files and start afresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<bool>,
    /// Refuses a fork without the memory of the parent: the same as `memory: true`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub require_memory: bool,
}

/// What a fork came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Forked {
    /// The parent's processes run on in the children. False: they have its files, and start afresh.
    pub memory: bool,
    /// One for each child asked for.
    pub children: Vec<ForkedChild>,
}

/// One child: either `sandbox` or `error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ForkedChild {
    /// It lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    /// It does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<super::ErrorBody>,
}

/// Keeps a running or paused sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeSnapshot {
    /// Whether its memory and processes are kept too. Absent: if they can be, as those of microVMs. `true`: or it is refused.
    /// `false`: its files only, which any isolation can be made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<bool>,
    /// A name, unique in the namespace: letters, digits, `_`, `-`, `.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// `sn-…`.
    pub id: String,
    /// Its name, if it was given one.
    pub name: Option<String>,
    /// Tenant.
    pub namespace: String,
    /// Sandbox it was taken of.
    pub sandbox: String,
    /// Template that sandbox came from.
    pub template: Option<String>,
    /// Processes are in it too, with whatever they knew. What is made of it has their limits, and is a microVM.
    pub memory: bool,
    /// Its own size; what it stands on is shared.
    pub bytes: u64,
    /// Driver that kept it and can go on with it; null for files.
    #[serde(default)]
    pub driver: Option<String>,
    /// Limits of what is made of it; null for files, which do not say.
    #[serde(default)]
    pub resources: Option<ResourceLimits>,
    /// When.
    pub created_at: String,
}

/// All snapshots of a namespace, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotList {
    /// The list.
    pub snapshots: Vec<Snapshot>,
}

/// What happened to a sandbox, in order; kept after it is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// Which.
    pub id: String,
    /// As it is, or was at its end.
    pub sandbox: Sandbox,
    /// The steps of its creation, life and end.
    pub steps: Vec<ExplainedStep>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedStep {
    /// When.
    pub at: String,
    /// Milliseconds since it was accepted.
    pub after_ms: i64,
    /// What.
    pub what: String,
    /// How often in a row.
    pub times: u32,
}
