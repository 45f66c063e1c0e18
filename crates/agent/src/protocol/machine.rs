//! What the first process of a machine is told: there is no launcher before it that could have prepared anything.
//!
//! The kernel starts the agent as `/init` of the initramfs. It mounts what every program needs, loads the modules it carries,
//! opens its channel ([`AGENT_PORT_NAME`], or [`AGENT_VSOCK_PORT`] where there is no such port) and waits for `setup`.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::launch::AgentConfig;

/// Name of the virtio-serial port the agent serves.
pub const AGENT_PORT_NAME: &str = "moat.agent";
/// Port the agent listens on where the machine has a vsock device.
pub const AGENT_VSOCK_PORT: u32 = 1024;
/// Word on the kernel's command line after which the agent writes [`CONSOLE_READY`] to the console.
pub const CONSOLE_READY_FLAG: &str = "moat.ready";
/// What it writes when it waits for `setup`: NanoBox's word.
pub const CONSOLE_READY: &str = "NANOBOX_READY";
/// Where the modules and their order lie in the initramfs: one path per line, in the order they are loaded.
pub const MODULES_LIST: &str = "/moat/modules";
/// Bytes of randomness that come with a setup and a renewal.
pub const ENTROPY_LEN: usize = 64;

/// What a machine becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestSetup {
    /// Who it is.
    pub identity: Identity,
    /// Its root.
    pub root: GuestRoot,
    /// Time and randomness.
    pub moment: Moment,
    /// Size of `/secrets`.
    pub secrets_bytes: u64,
    /// Most processes of the user; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u64>,
    /// What the agent needs once it runs.
    pub agent: AgentConfig,
}

/// The name under which a directory of the host is served to a machine.
pub const SERVED_TAG: &str = "moat.root";

/// What the root file system is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum GuestRoot {
    /// The first disks are read-only erofs layers, the lowest first, and the one after them an ext4 file system for what is
    /// changed. No layers: the root has only the directories every sandbox has.
    Overlay {
        /// How many.
        layers: u32,
    },
    /// The first disk is an ext4 file system with everything in it, handed in by the operator.
    Whole,
    /// A directory of the host that is served under [`SERVED_TAG`]; the first disk is an ext4 file system for what is shown over it.
    Served {
        /// Whoever serves it has its list of resolvers in it.
        own_resolver: bool,
    },
}

/// Who a machine is. No two have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Host name.
    pub hostname: String,
    /// `/etc/machine-id`: 32 lower-case hex digits.
    pub machine_id: String,
    /// Its link, if it has one.
    pub network: Option<GuestNetwork>,
}

/// The link of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestNetwork {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Address.
    pub address: Ipv4Addr,
    /// The next hop, and the resolver.
    pub gateway: Ipv4Addr,
    /// The next hop's hardware address: there is nobody who would be asked for it.
    pub gateway_mac: [u8; 6],
    /// Domain that names without a dot are looked up in; may be empty.
    pub search: String,
    /// What it is called in that domain, if that is known.
    pub name: Option<String>,
}

/// What a machine cannot know: the time, and something nobody else has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// Nanoseconds since 1970, when this was sent.
    pub unix_nanos: i64,
    /// [`ENTROPY_LEN`] bytes as hex digits.
    pub entropy: String,
}

/// What a machine that was kept is told when it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    /// Time and randomness.
    pub moment: Moment,
    /// Who it is from now on; absent: who it was.
    pub identity: Option<Identity>,
}

/// Proof that a renewal took place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewed {
    /// The kernel's random number generator was reseeded.
    pub reseeded: bool,
    /// Nanoseconds since 1970, after the clock was set.
    pub unix_nanos: i64,
    /// `/etc/machine-id` as it reads now.
    pub machine_id: String,
    /// Host name as it reads now.
    pub hostname: String,
    /// Hardware address and address of its link as the kernel has them now, if it has one.
    pub link: Option<([u8; 6], Ipv4Addr)>,
}
