//! What the daemon tells the launcher.
//!
//! The daemon executes `moat-agent launch` with one end of a `SOCK_SEQPACKET` pair as its standard input. The first packet
//! is the length of the configuration (u32, little endian) and carries descriptors: a sealed memfd holding this
//! [`LaunchConfig`] as JSON, and those of the payload ([`Payload`]). The launcher answers with one packet
//! holding a JSON [`LaunchReply`], and on success a pidfd of the agent or program, and ends; that stays.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Most descriptors that come with a payload: a machine has its disks, of which 24 are layers, and a few more.
pub const DESCRIPTORS_MAX: usize = 32;

/// Everything the launcher needs. Paths are host paths unless they say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchConfig {
    /// `cgroup.procs` files of the cgroups the agent is to be in. The launcher enters those of version 1 before anything else.
    pub cgroup_procs: Vec<PathBuf>,
    /// Namespaces and a root of its own, or none.
    pub jail: Option<JailConfig>,
    /// What runs in it.
    pub payload: Payload,
}

/// What the launcher becomes, or the copy of it in new namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Payload {
    /// The agent. One descriptor comes with it: the listening Unix socket it serves.
    Agent(AgentConfig),
    /// A program of the host that nobody trusts either, such as a virtual machine monitor. Only in a jail. Descriptors come
    /// with it: the first becomes its standard output and error, the others its descriptors from 3 on, in order. Together
    /// they are at most [`DESCRIPTORS_MAX`].
    Program(ProgramConfig),
}

/// A program in a jail of its own, as the first process of its pid namespace, with an empty environment.
///
/// Its root has the jail's host paths, which it cannot write through, the binds, `/dev` without terminals, a `/proc` of
/// processes only, a `/tmp`, what it [serves](ServedRoot), and nothing else: no `/sys`, no `/secrets`, no layers. What the jail
/// lets it write itself (`writable_bytes`) is memory, and nothing in there can be executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramConfig {
    /// What is executed: a path inside.
    pub path: PathBuf,
    /// Arguments after its own name.
    pub args: Vec<String>,
    /// User and group inside, not root unless it serves files. It has no capabilities then, no_new_privs is set, and it ends if
    /// the seccomp filters say so.
    pub uid: u32,
    /// The root of a sandbox it serves to a machine, as root of its namespaces with the capabilities [`SERVES_WITH`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serves: Option<ServedRoot>,
    /// How many descriptors it gets from 3 on, before the one below.
    pub descriptors: u32,
    /// Tap in the jail's network that is opened for it: it gets the descriptor after the others.
    pub tap: Option<String>,
    /// Device nodes in its `/dev` besides the usual, which it may read and write, if the version 1 devices cgroup it is in lets
    /// them be made (`rwm`).
    pub devices: Vec<DeviceNode>,
    /// Compiled seccomp filters, applied in order before the exec.
    #[serde(with = "hex_digits")]
    pub seccomp: Vec<Vec<u8>>,
    /// RLIMIT_NOFILE.
    pub nofile: u64,
    /// RLIMIT_FSIZE.
    pub file_bytes_max: Option<u64>,
}

/// Where a program finds what it serves.
pub const SERVED: &str = "/served";

/// What it takes to serve files of every user of a sandbox, as bits: `chown`, `dac_override`, `fowner`, `fsetid`, `setgid`,
/// `setuid`, `mknod` (sockets and pipes; the kernel makes no device in a user namespace), `setfcap`; and to give the rest up,
/// `setpcap` and `sys_chroot`. All of them are over the sandbox's own ids.
pub const SERVES_WITH: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 18 | 1 << 27 | 1 << 31;

/// A root that outlives its sandbox, put together like a container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServedRoot {
    /// As in [`JailConfig::lasting`].
    pub lasting: PathBuf,
    /// As in [`JailConfig::layers`].
    pub layers: Vec<PathBuf>,
    /// Shown in it.
    pub binds: Vec<BindConfig>,
    /// The sandbox has a network, so a list of resolvers is shown over its own.
    pub wired: bool,
}

/// A character device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceNode {
    /// Path inside, below `/dev`.
    pub path: PathBuf,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// Namespaces and root of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailConfig {
    /// Host name inside.
    pub hostname: String,
    /// First host id of the 65,536 that ids 0 to 65,535 inside map to.
    pub uid_base: u32,
    /// Empty host directory the root is assembled on, inside the launcher's own mount namespace.
    pub mount_point: PathBuf,
    /// Size of the private writable layer, or, with `lasting`, of what lies beside it and does not last.
    pub writable_bytes: u64,
    /// Directory that holds the private layer of an agent's root and outlives the sandbox. It is root's, who alone can reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasting: Option<PathBuf>,
    /// Mount points of the read-only layers the root is made of, the lowest first; none for the other templates. Ids in
    /// them are those inside.
    pub layers: Vec<PathBuf>,
    /// Host paths shown inside: `host` template, or what a program needs. Missing ones are skipped.
    pub host_paths: Vec<HostPath>,
    /// Single files and directories bound into the root.
    pub binds: Vec<BindConfig>,
    /// Size of `/secrets`.
    pub secrets_bytes: u64,
    /// It stays in the host's pid namespace, and sees the host's processes.
    pub host_pid: bool,
    /// It stays in the host's IPC namespace.
    pub host_ipc: bool,
    /// A network somebody made for it; without one it gets a network namespace of its own with a loopback only.
    pub network: Option<JailNetwork>,
}

/// A network namespace that exists, and what is said of it inside. It belongs to the host's user namespace, so that nobody
/// inside, whatever capabilities they have there, can change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailNetwork {
    /// The namespace, as a file.
    pub netns: PathBuf,
    /// Its address.
    pub address: Ipv4Addr,
    /// The resolver.
    pub resolver: Ipv4Addr,
    /// Domain that names without a dot are looked up in; may be empty.
    pub search: String,
    /// What it is called in that domain, if that is known.
    pub name: Option<String>,
}

/// A host path shown inside a `host` root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPath {
    /// On the host.
    pub source: PathBuf,
    /// Inside; absolute.
    pub target: PathBuf,
}

/// A file or directory bound into the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindConfig {
    /// On the host.
    pub source: PathBuf,
    /// Inside; absolute.
    pub target: PathBuf,
    /// Cannot be written through.
    pub read_only: bool,
    /// Programs in it can be executed.
    pub exec: bool,
    /// Whose its files are, seen from inside.
    pub ids: ShownIds,
}

/// Whose the files of a bind are, seen from inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShownIds {
    /// Nobody's: they keep the host's ids, which are not mapped inside, so only permissions for others apply. Nothing that is
    /// mounted below it is shown.
    Foreign,
    /// Ids from this one on, on disk, are those from 0 on inside. With everything mounted below it.
    Block(u32),
    /// Ids 1 to 65,535 are the same on disk and inside; what belongs to the host's root is nobody's. With everything mounted
    /// below it.
    Same,
}

/// What the agent needs once it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// User of processes that name none: `name`, `uid` or `uid:gid`.
    pub default_user: String,
    /// Working directory and search root of processes without a jail; with one it is `/`.
    pub task_dir: Option<PathBuf>,
    /// Capabilities of every process, as a bit mask; `None` leaves them as they are (no sandbox).
    pub capabilities: Option<u64>,
    /// Set no_new_privs before each exec.
    pub no_new_privs: bool,
    /// Compiled seccomp filters, applied in order before each exec: raw `sock_filter` arrays, as hex digits on the way.
    #[serde(with = "hex_digits")]
    pub seccomp: Vec<Vec<u8>>,
    /// RLIMIT_NOFILE of every process.
    pub nofile: u64,
    /// How soon the kernel chooses every process when memory is out, 0 to 1000. The agent itself stays at 0.
    pub oom_score_adj: u16,
    /// TCP ports the agent listens on at 127.0.0.1; each connection becomes a `forward` stream to the daemon.
    pub forward_ports: Vec<u16>,
    /// Unacknowledged output kept for each stream of the main process.
    pub output_buffer_bytes: usize,
}

/// What the launcher answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "launch")]
pub enum LaunchReply {
    /// The agent runs; its pidfd comes with this packet.
    Started {
        /// Its process id on the host.
        pid: u32,
        /// What is shown inside in another way than asked, for the operator.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
        /// Which of its descriptors is the directory of everything changed in its root, if that is one directory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        changes_fd: Option<u32>,
    },
    /// It could not be brought up.
    Failed {
        /// Which step.
        stage: String,
        /// The path or value at fault and the errno's text.
        detail: String,
    },
}

/// Thousands of bytes as two digits each: as numbers in JSON they take twice the space and many times the time.
mod hex_digits {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    const DIGITS: &[u8; 16] = b"0123456789abcdef";

    pub fn serialize<S: Serializer>(values: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(|value| encode(value)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let decoded = texts.iter().map(|text| decode(text.as_bytes()));
        decoded.collect::<Option<_>>().ok_or_else(|| D::Error::custom("not pairs of hex digits"))
    }

    fn encode(bytes: &[u8]) -> String {
        let digit = |value: u8| DIGITS.get(usize::from(value & 15)).map_or('0', |digit| char::from(*digit));
        bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
    }

    fn decode(text: &[u8]) -> Option<Vec<u8>> {
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = text.as_chunks::<2>();
        if !rest.is_empty() {
            return None;
        }
        pairs.iter().map(|&[high, low]| Some(value(high)? << 4 | value(low)?)).collect()
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn digits_are_bytes_again() {
            let bytes: Vec<u8> = (0..=255).collect();
            assert_eq!(super::decode(super::encode(&bytes).as_bytes()), Some(bytes));
            for bad in ["0", "0g", "0F"] {
                assert_eq!(super::decode(bad.as_bytes()), None, "{bad}");
            }
        }
    }
}
