//! What a user asks of a sandbox. Parsed once at the edge; after that every value here is within its rules.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::network::NetworkSpec;
use crate::{Isolation, Namespace};

/// A sandbox as asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxSpec {
    /// Tenant.
    pub namespace: Namespace,
    /// Free labels; shown, never interpreted.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The weakest isolation the caller accepts.
    pub isolation: Isolation,
    /// What its root file system is made of.
    pub root: RootSpec,
    /// A machine that was kept: its processes go on in this one. Set by the node, never by a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<MachineSnapshot>,
    /// A program file the node fetched, shown read-only and executable at `/local/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
    /// Host directory holding the logs of this sandbox, shown read-only at `/alloc/logs`. Set by the node, never by a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_dir: Option<PathBuf>,
    /// Directories and files of the host shown inside. Set by the node, never by a user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub binds: Vec<Bind>,
    /// Directory of the host, made by the node with all that belongs into it, in which a program without a sandbox starts and
    /// is looked up; the driver neither fills nor removes it. Only for isolation `process`. Set by the node, never by a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_dir: Option<PathBuf>,
    /// Its writable layer lies on the host's disk and outlives it. Set by the node, never by a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasting: Option<LastingRoot>,
    /// Host name inside, at most 64 bytes; its id if absent. Set by the node, never by a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// It runs only as long as the node goes on saying that it may, and stands still when the node's daemon is gone: another
    /// may be placed elsewhere in its stead. Set by the node, never by a user.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leashed: bool,
    /// Namespaces of the host it is in instead of its own. Set by the node, never by a user.
    #[serde(default, skip_serializing_if = "HostNamespaces::is_none")]
    pub host: HostNamespaces,
    /// How soon the kernel chooses its programs when the host's memory is out, 0 to 1000. Only for isolation `process`. Set by
    /// the node, never by a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<u16>,
    /// The program it exists for; without one it idles until something is executed in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<ProcessSpec>,
    /// How the main process is asked to stop.
    #[serde(default)]
    pub stop: StopSpec,
    /// Limits.
    #[serde(default)]
    pub resources: Resources,
    /// Privileges.
    #[serde(default)]
    pub security: Security,
    /// Network.
    #[serde(default)]
    pub network: NetworkSpec,
    /// Ports on the sandbox's own loopback that lead, through the agent, to one address each: reachability without a network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
    /// Who reaches its ports through the node's HTTP proxy.
    #[serde(default, skip_serializing_if = "IngressSpec::is_default")]
    pub ingress: IngressSpec,
    /// Absolute life span; at its end [`SandboxSpec::on_timeout`] happens. Counts while it runs, not while it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Longest span without use ([`Request::Use`](crate::lifecycle::Request)); then [`SandboxSpec::on_timeout`] happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// What a time limit does.
    #[serde(default)]
    pub on_timeout: OnTimeout,
    /// What processes get that do not say otherwise: the image's defaults under the creator's wishes.
    #[serde(default, skip_serializing_if = "ProcessDefaults::is_empty")]
    pub process: ProcessDefaults,
    /// Whose it is and where it came from.
    #[serde(default)]
    pub origin: Origin,
}

impl SandboxSpec {
    /// A sandbox of this kind, everything else at its default.
    pub fn new(namespace: Namespace, isolation: Isolation, root: RootSpec) -> Self {
        Self {
            namespace,
            labels: BTreeMap::new(),
            isolation,
            root,
            restore: None,
            artifact: None,
            log_dir: None,
            binds: Vec::new(),
            task_dir: None,
            lasting: None,
            hostname: None,
            leashed: false,
            host: HostNamespaces::default(),
            oom_score_adj: None,
            main: None,
            stop: StopSpec::default(),
            resources: Resources::default(),
            security: Security::default(),
            network: NetworkSpec::default(),
            forwards: Vec::new(),
            ingress: IngressSpec::default(),
            timeout: None,
            idle_timeout: None,
            on_timeout: OnTimeout::default(),
            process: ProcessDefaults::default(),
            origin: Origin::default(),
        }
    }
}

/// A machine that was kept, memory and disks. It fits the driver, the layers and the limits it was kept with, and no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSnapshot {
    /// Directory on the host a driver wrote. It may go once the sandbox has started.
    pub dir: PathBuf,
    /// Driver that wrote it.
    pub driver: String,
}

/// Who reaches a sandbox's ports through the node's HTTP proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngressSpec {
    /// Everybody who reaches the proxy. Off: whoever has the sandbox's token.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
}

impl IngressSpec {
    /// Says nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a time limit does to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// It is killed.
    #[default]
    Kill,
    /// It is paused; somebody who resumes it gives it a new span.
    Pause,
}

/// Defaults of every process in a sandbox, main and exec. A process's own values win, variable by variable.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessDefaults {
    /// Environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// `name`, `uid` or `uid:gid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Absolute working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

impl ProcessDefaults {
    /// Says nothing.
    pub fn is_empty(&self) -> bool {
        self.env.is_empty() && self.user.is_none() && self.cwd.is_none()
    }

    /// The process with what it leaves open filled in.
    #[must_use]
    pub fn applied_to(&self, process: &ProcessSpec) -> ProcessSpec {
        let mut env = self.env.clone();
        env.extend(process.env.clone());
        ProcessSpec {
            command: process.command.clone(),
            args: process.args.clone(),
            env,
            cwd: process.cwd.clone().or_else(|| self.cwd.clone()),
            user: process.user.clone().or_else(|| self.user.clone()),
        }
    }
}

/// Whose a sandbox is and where it came from. Set by the node, never by a user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Who decides about its life.
    #[serde(default)]
    pub owner: Owner,
    /// Template it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateRef>,
    /// Image digest (`sha256:…` of the manifest) it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Sandbox it was forked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<crate::SandboxId>,
    /// It stood ready in a pool before it was asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_pool: bool,
}

/// Who decides about the life of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// A workload: it is one attempt to run a program.
    #[default]
    Workload,
    /// Whoever created it through the API.
    Api,
    /// A task of an allocation: it is one attempt to run it.
    Task,
    /// A jail: it is one span of it being up. Shown to users like one of theirs; the jail decides about its life.
    Jail,
    /// The warm pool: nobody's yet. Not shown to users; a claim says whose it is then.
    Pool,
}

/// A template as it was when something was made from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateRef {
    /// Its name.
    pub name: String,
    /// Which of its versions, from 1.
    pub version: u64,
}

/// What turns a pool member into somebody's sandbox: everything about it that can be applied after it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimSpec {
    /// Tenant.
    pub namespace: Namespace,
    /// Who decides about its life from now on.
    pub owner: Owner,
    /// The program it exists for from now on; it is started when everything else holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Program>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Limits; what is absent stays as the pool made it.
    pub resources: Resources,
    /// Its network from now on; absent: it stays as the pool made it. What has no network cannot get one here, and what has
    /// one keeps its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkSpec>,
    /// Who reaches its ports through the node's HTTP proxy.
    #[serde(default, skip_serializing_if = "IngressSpec::is_default")]
    pub ingress: IngressSpec,
    /// Absolute life span, counted from the claim.
    pub timeout: Option<Duration>,
    /// Longest span without use.
    pub idle_timeout: Option<Duration>,
    /// What a time limit does.
    pub on_timeout: OnTimeout,
    /// Defaults of its processes.
    pub process: ProcessDefaults,
}

/// What a member of a pool that stood idle is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The program.
    pub main: ProcessSpec,
    /// Its file, which is put at `/local/<name>` first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
    /// How it is asked to stop.
    #[serde(default)]
    pub stop: StopSpec,
}

/// What the root file system is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "template", deny_unknown_fields)]
pub enum RootSpec {
    /// Nothing but the directories every sandbox has: for static binaries.
    Scratch,
    /// A view of host paths (the operator's list), with a private writable layer.
    Host,
    /// Read-only erofs files the image store made, with a private writable layer. Set by the node, never by a user.
    Layers {
        /// The lowest first: the image, then what snapshots changed, as overlay layers (whiteouts and opaque directories).
        layers: Vec<RootLayer>,
    },
}

/// Most layers of a root: a snapshot of a snapshot of a ... adds one each time.
pub const ROOT_LAYERS_MAX: usize = 64;

/// One read-only layer of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootLayer {
    /// What it is called in the image store: 64 lower-case hex digits. Two layers of one name are the same bytes.
    pub digest: String,
    /// The erofs file on the host. Ids in it are those inside the sandbox.
    pub path: PathBuf,
}

/// A program file on the host, fetched and checked by the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Where it lies on the host.
    pub path: PathBuf,
    /// File name it gets below `/local`.
    pub name: String,
    /// SHA-256 of its bytes, 64 lower-case hex digits.
    pub sha256: String,
}

/// Namespaces of the host a sandbox is in, where its operator allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostNamespaces {
    /// It sees the host's processes. It may send signals to, and look into, only those of its own ids.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pid: bool,
    /// It shares System V objects and POSIX queues with the host's programs, as far as their permissions allow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipc: bool,
}

impl HostNamespaces {
    /// All are its own.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A writable layer that outlives its sandbox. One sandbox at a time has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastingRoot {
    /// Directory of the host, root's alone, that the node made and removes. A driver keeps what it needs below it: for
    /// containers `upper`, the files that differ from the layers, and `work`.
    pub dir: PathBuf,
    /// First of the 65,536 host ids its files belong to, the same at every start. The engine gives it no others.
    pub uid_base: u32,
}

/// Most binds of a sandbox: each is a mount the launcher makes.
pub const BINDS_MAX: usize = 64;

/// A directory or a file of the host shown inside, with everything mounted below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Absolute path on the host. Not followed if its last part is a symbolic link.
    pub source: PathBuf,
    /// Absolute path inside. Shown over whatever is there; made if nothing is, unless it lies in another bind: nothing is ever
    /// made in those. No link of the root is followed.
    pub target: PathBuf,
    /// It cannot be written inside.
    pub read_only: bool,
    /// Whose files they are.
    pub ids: BindIds,
}

/// Whose the files of a [`Bind`] are, seen from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindIds {
    /// The node made the directory for sandboxes. On disk its files belong to a block of ids that are nobody's on the host,
    /// the same for all sandboxes, so that a file of the root inside is never one of the host's root.
    Node,
    /// The operator's own path: ids are those of the host. Root inside is nobody there: it could otherwise leave programs
    /// behind that make a user of the host root.
    Host,
}

/// A process to run in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// Program. Resolved inside the root only: `/local/<c>`, `/<c>`, then for a bare name the directories of its `PATH`,
    /// then `/usr/local/bin`, `/usr/bin`, `/bin`.
    pub command: String,
    /// Arguments after the program's own name. No shell.
    #[serde(default)]
    pub args: Vec<String>,
    /// The whole environment, in order; nothing is inherited.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Absolute working directory inside the root; `/` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// `name`, `uid` or `uid:gid` as the sandbox knows them; the driver's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// How a main process is asked to stop before it is made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopSpec {
    /// Signal sent first.
    #[serde(default = "StopSpec::default_signal")]
    pub signal: Signal,
    /// How long it may take before SIGKILL. Zero: killed at once.
    #[serde(default = "StopSpec::default_grace")]
    pub grace: Duration,
}

impl StopSpec {
    /// Nomad's and Nex's default.
    fn default_signal() -> Signal {
        Signal::INT
    }

    /// Nomad's `kill_timeout` default.
    fn default_grace() -> Duration {
        Duration::from_secs(5)
    }
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { signal: Self::default_signal(), grace: Self::default_grace() }
    }
}

/// A signal number of Linux, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Signal(u8);

/// Names and numbers of x86-64 and arm64 Linux; both have the same.
const SIGNAL_NAMES: [(&str, u8); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

impl Signal {
    /// SIGINT.
    pub const INT: Self = Self(2);
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGTERM.
    pub const TERM: Self = Self(15);

    /// Reads `SIGTERM`, `term` or `15`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse::<u8>() {
            return Self::try_from(number).ok();
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        SIGNAL_NAMES.iter().find(|(n, _)| *n == name).map(|(_, number)| Self(*number))
    }

    /// The number the kernel uses.
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }
}

impl TryFrom<u8> for Signal {
    type Error = String;
    fn try_from(number: u8) -> Result<Self, String> {
        if (1..=64).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("signal {number} is not within 1 to 64"))
        }
    }
}

impl From<Signal> for u8 {
    fn from(signal: Signal) -> u8 {
        signal.0
    }
}

/// Limits. `None` means the node's default, which is never "unlimited" unless the operator said so.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Hard memory limit, agent included; [`Resources::UNLIMITED`] is none. Swap is always zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Memory protected from reclaim (soft limit); at most `memory_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_reserve_bytes: Option<u64>,
    /// Relative CPU share, 1 to 10000, 100 is one share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,
    /// Hard CPU quota in thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota_millis: Option<u32>,
    /// CPUs it may run on, in the kernel's list format (`0-1,4`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset: Option<String>,
    /// That many CPUs nobody else runs on, of those the operator set aside; in place of `cpuset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// Processes and threads, agent included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u32>,
    /// Size of the private writable layer (a tmpfs, so it counts as memory too).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Size of `/secrets`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets_bytes: Option<u64>,
    /// Open files per process (RLIMIT_NOFILE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nofile: Option<u64>,
}

impl Resources {
    /// As `memory_bytes`: no limit but the host's.
    pub const UNLIMITED: u64 = u64::MAX;

    /// These limits, and where they say nothing those of `beneath`.
    #[must_use]
    pub fn over(&self, beneath: &Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.or(beneath.memory_bytes),
            memory_reserve_bytes: self.memory_reserve_bytes.or(beneath.memory_reserve_bytes),
            cpu_weight: self.cpu_weight.or(beneath.cpu_weight),
            cpu_quota_millis: self.cpu_quota_millis.or(beneath.cpu_quota_millis),
            cpuset: self.cpuset.clone().or_else(|| beneath.cpuset.clone()),
            cores: self.cores.or(beneath.cores),
            pids_max: self.pids_max.or(beneath.pids_max),
            disk_bytes: self.disk_bytes.or(beneath.disk_bytes),
            secrets_bytes: self.secrets_bytes.or(beneath.secrets_bytes),
            nofile: self.nofile.or(beneath.nofile),
        }
    }
}

impl Resources {
    /// These limits, where `asked` says something too.
    #[must_use]
    pub fn only(&self, asked: &Self) -> Self {
        fn both<T: Clone, U>(own: Option<&T>, asked: Option<U>) -> Option<T> {
            own.cloned().filter(|_| asked.is_some())
        }
        Self {
            memory_bytes: both(self.memory_bytes.as_ref(), asked.memory_bytes),
            memory_reserve_bytes: both(self.memory_reserve_bytes.as_ref(), asked.memory_reserve_bytes),
            cpu_weight: both(self.cpu_weight.as_ref(), asked.cpu_weight),
            cpu_quota_millis: both(self.cpu_quota_millis.as_ref(), asked.cpu_quota_millis),
            cpuset: both(self.cpuset.as_ref(), asked.cpuset.as_ref()),
            cores: both(self.cores.as_ref(), asked.cores),
            pids_max: both(self.pids_max.as_ref(), asked.pids_max),
            disk_bytes: both(self.disk_bytes.as_ref(), asked.disk_bytes),
            secrets_bytes: both(self.secrets_bytes.as_ref(), asked.secrets_bytes),
            nofile: both(self.nofile.as_ref(), asked.nofile),
        }
    }
}

/// Privileges inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Security {
    /// Capabilities added to the default 13; each must be within the operator's ceiling.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Capabilities removed first; `all` empties the set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// Lets set-user-id programs raise privileges inside the sandbox. Off: no_new_privs is set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_new_privs: bool,
}

/// A port on the sandbox's loopback that leads to one address of the operator's choosing, and to nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// TCP port on 127.0.0.1 inside.
    pub listen_port: u16,
    /// `host:port` the daemon connects to.
    pub target: String,
}

/// A process besides the main one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// What to run.
    pub process: ProcessSpec,
    /// Give it a terminal of this size: stdout and stderr are then one stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<PtySize>,
    /// Attach standard input; without it the process reads end of file.
    #[serde(default)]
    pub stdin: bool,
    /// After this long, it and everything it started is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PtySize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for text in ["SIGTERM", "term", "15"] {
            assert_eq!(Signal::parse(text), Some(Signal::TERM), "{text}");
        }
        for bad in ["", "SIGNOPE", "0", "65", "-9"] {
            assert_eq!(Signal::parse(bad), None, "{bad}");
        }
    }
}
