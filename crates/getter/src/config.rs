//! What the operator decides about fetching.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

const GIB: u64 = 1 << 30;
const HALF_AN_HOUR: Duration = Duration::from_secs(30 * 60);

/// How a node fetches.
#[derive(Debug, Clone)]
pub struct GetterConfig {
    /// The program of the child and its first arguments: it must call [`crate::child::main`] at once.
    pub program: PathBuf,
    /// Arguments that make the program do so.
    pub program_args: Vec<OsString>,
    /// As whom the child runs: an id that is nobody's on the host. Required when the daemon is root.
    pub ids: Option<Ids>,
    /// Limits.
    pub limits: Limits,
    /// What may be reached.
    pub network: NetworkPolicy,
    /// Paths the child may read besides what it needs itself.
    pub extra_paths: Vec<PathBuf>,
    /// Names of the daemon's environment that the child is given: proxies, for example.
    pub environment: Vec<String>,
    /// Keys of ssh servers besides the system's `/etc/ssh/ssh_known_hosts`.
    pub ssh_known_hosts: Option<PathBuf>,
    /// Where downloads with a checksum are kept; none are if absent.
    pub cache_dir: Option<PathBuf>,
    /// Most bytes kept there.
    pub cache_bytes: u64,
    /// Most children at a time on this node.
    pub concurrency: usize,
    /// The child is kept out of the file system by Landlock where the kernel has it.
    pub filesystem_isolation: bool,
}

impl GetterConfig {
    /// Defaults, with the running program as the child: it must ask [`crate::child::is_wanted`] before anything else.
    pub fn of_this_program() -> Self {
        Self::new("/proc/self/exe".into(), vec![crate::child::ARGUMENT.into()])
    }

    /// Defaults with the given program.
    pub fn new(program: PathBuf, program_args: Vec<OsString>) -> Self {
        Self {
            program,
            program_args,
            ids: None,
            limits: Limits::default(),
            network: NetworkPolicy::default(),
            extra_paths: Vec::new(),
            environment: Vec::new(),
            ssh_known_hosts: None,
            cache_dir: None,
            cache_bytes: 10 * GIB,
            // Each may hold a decoder's window of 128 MiB.
            concurrency: 8,
            filesystem_isolation: true,
        }
    }
}

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Ids {
    /// As whom the child runs on a node whose files of tasks belong, on disk, to the 65,536 ids from `first` on: somebody whom
    /// no image knows, so that nothing of a task is the child's.
    pub fn in_block(first: u32) -> Self {
        let id = first.saturating_add(65_533);
        Self { uid: id, gid: id }
    }
}

/// Bounds of one artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Longest HTTP download.
    pub http_read_timeout: Duration,
    /// Most bytes of a download.
    pub http_max_size: u64,
    /// Longest run of git.
    pub git_timeout: Duration,
    /// Longest download from S3.
    pub s3_timeout: Duration,
    /// Most entries of an archive, a bucket's directory or a repository's.
    pub file_count: u64,
    /// Most bytes unpacked.
    pub unpacked_size: u64,
    /// From this many bytes on, not more than `unpacked_ratio` times the archive.
    pub ratio_from: u64,
    /// See `ratio_from`.
    pub unpacked_ratio: u64,
    /// A connection that delivers nothing for so long is taken as broken and resumed.
    pub stall: Duration,
    /// How often a broken connection is resumed.
    pub resumes: u32,
    /// Most redirects.
    pub redirects: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            http_read_timeout: HALF_AN_HOUR,
            http_max_size: 100 * GIB,
            git_timeout: HALF_AN_HOUR,
            s3_timeout: HALF_AN_HOUR,
            file_count: 4096,
            unpacked_size: 100 * GIB,
            // Logs shrink to a hundredth. What shrinks to a thousandth and is large is made for that.
            ratio_from: GIB / 4,
            unpacked_ratio: 1000,
            stall: Duration::from_secs(60),
            resumes: 10,
            redirects: 10,
        }
    }
}

impl Limits {
    /// The longest a fetch may take in all.
    pub fn deadline(&self) -> Duration {
        let longest = self.http_read_timeout.max(self.git_timeout).max(self.s3_timeout).max(HALF_AN_HOUR);
        longest.saturating_add(Duration::from_secs(60))
    }
}

/// Which addresses may be fetched from. Asked for the address that is connected to, after its name was resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// Allowed whatever else is said.
    pub allow: Vec<IpNet>,
    /// Denied.
    pub deny: Vec<IpNet>,
    /// Private networks may be fetched from: most jobs do.
    pub private: bool,
    /// Where names lead, whatever a resolver says. In lower case.
    pub hosts: BTreeMap<String, HostAddress>,
}

/// Where a name leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAddress {
    /// The host.
    pub address: IpAddr,
    /// The only port there. With one, the operator has named a server: it may be fetched from by this name whatever else is
    /// said about its address, and nothing else on that host may. Without, the address is asked about like any other.
    pub port: Option<u16>,
}

impl HostAddress {
    /// Reads `192.0.2.1`, `192.0.2.1:8080`, `2001:db8::1` and `[2001:db8::1]:8080`.
    pub fn parse(text: &str) -> Option<Self> {
        let server = text.parse().ok().map(|server: SocketAddr| (server.ip(), Some(server.port())));
        let (address, port) = server.or_else(|| Some((text.parse().ok()?, None)))?;
        (port != Some(0)).then_some(Self { address, port })
    }
}

impl Default for NetworkPolicy {
    fn default() -> Self {
        Self { allow: Vec::new(), deny: Vec::new(), private: true, hosts: BTreeMap::new() }
    }
}

impl NetworkPolicy {
    /// Where the operator says that `host` leads.
    pub fn named(&self, host: &str) -> Option<HostAddress> {
        self.hosts.get(&host.to_ascii_lowercase()).copied()
    }

    /// Why `address` may not be fetched from; nothing if it may.
    pub fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        let address = unwrapped(address);
        if self.allow.iter().any(|net| net.contains(&address)) {
            return None;
        }
        if self.deny.iter().any(|net| net.contains(&address)) {
            return Some("denied by the operator");
        }
        let special = match address {
            IpAddr::V4(v4) => special_v4(v4),
            IpAddr::V6(v6) => special_v6(v6),
        };
        match special {
            Some(Special::Private) if self.private => None,
            Some(special) => Some(special.words()),
            None => None,
        }
    }
}

#[derive(Clone, Copy)]
enum Special {
    Private,
    Loopback,
    LinkLocal,
    Metadata,
    Unspecified,
    Many,
}

impl Special {
    fn words(self) -> &'static str {
        match self {
            Self::Private => "a private address",
            Self::Loopback => "an address of the node itself",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "the address of a cloud's metadata",
            Self::Unspecified => "no address of a host",
            Self::Many => "an address of many hosts",
        }
    }
}

fn special_v4(v4: std::net::Ipv4Addr) -> Option<Special> {
    let [a, b, c, d] = v4.octets();
    match (a, b, c, d) {
        (0, ..) => Some(Special::Unspecified),
        (127, ..) => Some(Special::Loopback),
        (169, 254, 169, 254) | (169, 254, 170, 2) | (100, 100, 100, 200) | (192, 0, 0, 192) => Some(Special::Metadata),
        (169, 254, ..) => Some(Special::LinkLocal),
        (224..=255, ..) => Some(Special::Many),
        (10, ..) | (192, 168, ..) | (172, 16..=31, ..) | (100, 64..=127, ..) => Some(Special::Private),
        _ => None,
    }
}

fn special_v6(v6: std::net::Ipv6Addr) -> Option<Special> {
    let segments = v6.segments();
    let [first, ..] = segments;
    match first {
        _ if v6.is_unspecified() => Some(Special::Unspecified),
        _ if v6.is_loopback() => Some(Special::Loopback),
        0xfd00 if segments == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Some(Special::Metadata),
        0xfe80..=0xfebf => Some(Special::LinkLocal),
        0xfc00..=0xfdff | 0xfec0..=0xfeff => Some(Special::Private),
        0xff00..=0xffff => Some(Special::Many),
        _ => None,
    }
}

/// The address of version 4 inside one of version 6: mapped, compatible, translated (`64:ff9b::/96`) or 6to4.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if v6.is_loopback() || v6.is_unspecified() {
        return address;
    }
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(((u32::from(high) << 16) | u32::from(low)).into());
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0 | 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => v4(g, h),
        (0x2002, ..) => v4(b, c),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(policy: &NetworkPolicy, address: &str) -> bool {
        policy.refusal(address.parse().unwrap()).is_some()
    }

    #[test]
    fn what_belongs_to_the_node_or_its_cloud_is_denied_however_it_is_written() {
        let policy = NetworkPolicy::default();
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "169.254.169.254",
            "169.254.3.4",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ] {
            assert!(refused(&policy, address), "{address}");
        }
        for address in ["10.0.0.1", "192.168.1.1", "172.31.0.1", "fd12::1", "8.8.8.8", "2606:4700::1111"] {
            assert!(!refused(&policy, address), "{address}");
        }
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let policy = NetworkPolicy {
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            deny: vec!["8.8.8.0/24".parse().unwrap()],
            private: false,
            hosts: BTreeMap::new(),
        };
        assert!(!refused(&policy, "127.0.0.1"));
        assert!(!refused(&policy, "::ffff:127.0.0.1"));
        assert!(refused(&policy, "8.8.8.8"));
        assert!(refused(&policy, "10.0.0.1"));
        assert!(refused(&policy, "fd12::1"));
    }

    #[test]
    fn a_name_leads_to_an_address_or_to_one_port_there() {
        let read = |text: &str| HostAddress::parse(text).map(|to| (to.address.to_string(), to.port));
        assert_eq!(read("192.0.2.1"), Some(("192.0.2.1".to_owned(), None)));
        assert_eq!(read("192.0.2.1:8080"), Some(("192.0.2.1".to_owned(), Some(8080))));
        assert_eq!(read("::1"), Some(("::1".to_owned(), None)));
        assert_eq!(read("[::1]:80"), Some(("::1".to_owned(), Some(80))));
        for bad in ["", "example.com", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:99999", "[::1]"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
