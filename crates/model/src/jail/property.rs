//! Properties of jails as Bastille's `config` names them: what each means here.
//!
//! Most of them are about FreeBSD's kernel. What they ask for is refused with the reason, never taken and forgotten.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::JailName;

/// What a property means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// It can be set.
    Supported(Supported),
    /// It holds already, with one of these values; another cannot be had.
    Holds {
        /// Those.
        values: &'static [&'static str],
        /// Why it cannot be otherwise.
        why: &'static str,
    },
    /// It is about FreeBSD.
    NotHere {
        /// Why, and what there is instead.
        why: &'static str,
    },
    /// No property is called that.
    Unknown,
}

/// Properties that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supported {
    /// `boot`
    Boot,
    /// `depend`
    Depend,
    /// `priority`
    Priority,
    /// `host.hostname`
    Hostname,
    /// `ip4.addr`
    Address,
}

/// A property with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// It is started when the node starts.
    Boot(bool),
    /// Jails that are up before it is.
    Depend(BTreeSet<JailName>),
    /// Where in the order it stands.
    Priority(u16),
    /// What the programs inside see as the host's name, from the next start on.
    Hostname(String),
    /// Its address, from the next start on.
    Address(Ipv4Addr),
    /// What was asked holds for every jail; nothing is to be done.
    Holds,
}

/// Why a property cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// No property is called that.
    #[error("property {0:?}: no such property; there are {names}", names = SUPPORTED)]
    Unknown(String),
    /// It is about FreeBSD.
    #[error("property {property}: not available on Linux: {why}")]
    NotHere {
        /// Which.
        property: String,
        /// Why, and what there is instead.
        why: &'static str,
    },
    /// It holds for every jail, with another value than was asked.
    #[error("property {property}: is {holds} for every jail: {why}")]
    Fixed {
        /// Which.
        property: String,
        /// What holds.
        holds: &'static str,
        /// Why.
        why: &'static str,
    },
    /// The value is none.
    #[error("property {property}: {value:?} is not {expected}")]
    Value {
        /// Which.
        property: String,
        /// What was given.
        value: String,
        /// What would be accepted.
        expected: &'static str,
    },
}

/// For errors.
const SUPPORTED: &str = "boot, depend, priority, host.hostname and ip4.addr";
/// How flags are written.
const TRUE: [&str; 4] = ["1", "true", "on", "yes"];
const FALSE: [&str; 4] = ["0", "false", "off", "no"];
const ON: &[&str] = &["1", "true", "on", "yes", ""];
const OFF: &[&str] = &["0", "false", "off", "no"];
const NEW: &[&str] = &["new"];

const MOUNTS: &str = "nothing is mounted from inside; MOUNT shows what a jail needs";
const RAW: &str = "raw sockets would let a jail forge packets of its neighbours";
const HOOK: &str = "it runs a program on the host; CMD runs one in the jail";
const LIFE: &str = "the jail's init starts and stops what is enabled; SYSRC enables services";
const NESTED: &str = "jails are not nested";
const KERNEL: &str = "it is a switch of FreeBSD's kernel without a counterpart";
const VNET: &str = "every jail has a network stack of its own, whose interface and routes are the node's to set";
const IP6: &str = "jails have no IPv6";
const ZFS: &str = "there are no ZFS datasets; snapshots are taken of the jail's files";
const PLACE: &str = "the node decides where a jail's files lie";
const USERS: &str = "programs run as the jail's root; use su inside";
const CLOCK: &str = "the clock belongs to the host";

/// What is not here: names, or beginnings of names that end with a dot, and why.
const NOT_HERE: [(&str, &str); 81] = [
    ("allow.adjtime", CLOCK),
    ("allow.settime", CLOCK),
    ("allow.chflags", KERNEL),
    ("allow.dying", KERNEL),
    ("allow.extattr", KERNEL),
    ("allow.mlock", "locked memory is bounded by the jail's memory; use LIMITS memoryuse"),
    ("allow.mount", MOUNTS),
    ("allow.mount.", MOUNTS),
    ("allow.nfsd", KERNEL),
    ("allow.nomount", MOUNTS),
    ("allow.quotas", "quotas are not managed from inside"),
    ("allow.raw_sockets", RAW),
    ("allow.read_msgbuf", "the kernel's messages belong to the host"),
    ("allow.routing", VNET),
    ("allow.socket_af", "a jail has IPv4 and Unix sockets"),
    ("allow.unprivileged_parent_tampering", NESTED),
    ("allow.vmm", "no machines are started inside a jail; isolation microvm makes the jail one"),
    ("allow.vmm_ppt", "no devices of the host are passed in"),
    ("children.cur", NESTED),
    ("children.max", NESTED),
    ("command", LIFE),
    ("cpuset.id", "use LIMITS cpu"),
    ("devfs_ruleset", "a jail sees a fixed list of devices"),
    ("exec.consolelog", PLACE),
    ("exec.created", HOOK),
    ("exec.fib", VNET),
    ("exec.jail_user", USERS),
    ("exec.poststart", HOOK),
    ("exec.poststop", HOOK),
    ("exec.prepare", HOOK),
    ("exec.prestart", HOOK),
    ("exec.prestop", HOOK),
    ("exec.release", HOOK),
    ("exec.start", LIFE),
    ("exec.stop", LIFE),
    ("exec.system_jail_user", USERS),
    ("exec.system_user", USERS),
    ("exec.timeout", LIFE),
    ("host", "see host.hostname"),
    ("host.domainname", "only host.hostname can be set"),
    ("host.hostid", "only host.hostname can be set"),
    ("host.hostuuid", "only host.hostname can be set"),
    ("interface", VNET),
    ("ip4", "see ip4.addr"),
    ("ip4.saddrsel", "a jail has one address"),
    ("ip6", IP6),
    ("ip6.addr", IP6),
    ("ip6.saddrsel", IP6),
    ("ip_hostname", "the address is given as a number"),
    ("jid", "numbers are given by the node"),
    ("linux", "every jail is Linux"),
    ("linux.osname", "the kernel says what it is"),
    ("linux.osrelease", "the kernel says what it is"),
    ("linux.oss_version", "the kernel says what it is"),
    ("mac.", KERNEL),
    ("meta", "use TAGS"),
    ("env", "write variables where the program reads them"),
    ("mount", "use MOUNT"),
    ("mount.fstab", "use MOUNT"),
    ("mount.linprocfs", "use MOUNT"),
    ("name", "use rename"),
    ("osreldate", "the kernel says what it is"),
    ("osrelease", "the kernel says what it is"),
    ("parent", NESTED),
    ("path", PLACE),
    ("rlimit.", "use LIMITS"),
    ("securelevel", KERNEL),
    ("stop.timeout", LIFE),
    ("vlanid", VNET),
    ("vnet.interface", VNET),
    ("vnet.", VNET),
    ("zfs", ZFS),
    ("zfs.", ZFS),
    ("zfs.dataset", ZFS),
    ("zfs.mount_snapshot", ZFS),
    ("ipfw", "rules of packets are the node's; use RDR"),
    ("pf", "rules of packets are the node's; use RDR"),
    ("allow.suser_nonroot", KERNEL),
    ("allow.unprivileged_proc_debug", "a program may look into those of its own user"),
    ("security.", KERNEL),
    ("sysctl.", KERNEL),
];

/// What holds for every jail.
const HOLDING: [(&str, &[&str], &str); 13] = [
    ("allow.sysvipc", ON, "a jail has System V objects of its own"),
    ("allow.set_hostname", OFF, "the name is set with host.hostname"),
    ("allow.reserved_ports", ON, "the address is the jail's alone"),
    ("enforce_statfs", &["2"], "a jail sees its own mounts and no others"),
    ("exec.clean", ON, "nothing of the host's environment gets in"),
    ("ip6.disable", ON, IP6),
    ("mount.devfs", ON, "programs need the few devices there are"),
    ("mount.fdescfs", ON, "programs need it"),
    ("mount.procfs", ON, "programs need it"),
    ("persist", ON, "a jail is up until it is stopped"),
    ("sysvmsg", NEW, "a jail has System V objects of its own"),
    ("sysvsem", NEW, "a jail has System V objects of its own"),
    ("sysvshm", NEW, "a jail has System V objects of its own"),
];

/// What `name` means here.
pub fn property(name: &str) -> Property {
    let supported = match name {
        "boot" => Some(Supported::Boot),
        "depend" => Some(Supported::Depend),
        "priority" | "prio" => Some(Supported::Priority),
        "host.hostname" => Some(Supported::Hostname),
        "ip4.addr" => Some(Supported::Address),
        _ => None,
    };
    if let Some(supported) = supported {
        return Property::Supported(supported);
    }
    if name == "vnet" {
        return Property::Holds { values: ON, why: VNET };
    }
    if let Some((_, values, why)) = HOLDING.iter().find(|(known, ..)| *known == name) {
        return Property::Holds { values, why };
    }
    let is_meant = |known: &str| known == name || (known.ends_with('.') && name.starts_with(known));
    match NOT_HERE.iter().find(|(known, _)| is_meant(known)) {
        Some((_, why)) => Property::NotHere { why },
        None => Property::Unknown,
    }
}

/// `name` set to `value`, checked. A flag without a value is set.
pub fn setting(name: &str, value: &str) -> Result<Setting, PropertyError> {
    let wrong = |expected| PropertyError::Value { property: cut(name), value: cut(value), expected };
    match property(name) {
        Property::Supported(Supported::Boot) => flag(value).map(Setting::Boot).ok_or_else(|| wrong("on or off")),
        Property::Supported(Supported::Depend) => depend(value)
            .map(Setting::Depend)
            .ok_or_else(|| wrong("a list of names of jails, with blanks or commas between")),
        Property::Supported(Supported::Priority) => {
            value.parse().map(Setting::Priority).map_err(|_| wrong("a number from 0 to 65535"))
        }
        Property::Supported(Supported::Hostname) => is_host_name(value)
            .then(|| Setting::Hostname(value.to_owned()))
            .ok_or_else(|| wrong("a host name: letters, digits, '-' and '.', at most 64 of them")),
        Property::Supported(Supported::Address) => {
            address(value).map(Setting::Address).ok_or_else(|| wrong("an IPv4 address, such as 10.0.0.1"))
        }
        Property::Holds { values, .. } if values.contains(&value.to_ascii_lowercase().as_str()) => Ok(Setting::Holds),
        Property::Holds { values, why } => {
            Err(PropertyError::Fixed { property: cut(name), holds: values.first().copied().unwrap_or_default(), why })
        }
        Property::NotHere { why } => Err(PropertyError::NotHere { property: cut(name), why }),
        Property::Unknown => Err(PropertyError::Unknown(cut(name))),
    }
}

/// Takes `name` away, back to what holds without it. The same names are refused as for setting.
pub fn unsetting(name: &str) -> Result<Supported, PropertyError> {
    match property(name) {
        Property::Supported(Supported::Address) => Err(PropertyError::Fixed {
            property: cut(name),
            holds: "set",
            why: "a jail that is not isolated has an address; set another one",
        }),
        Property::Supported(supported) => Ok(supported),
        Property::Holds { values, why } => {
            Err(PropertyError::Fixed { property: cut(name), holds: values.first().copied().unwrap_or_default(), why })
        }
        Property::NotHere { why } => Err(PropertyError::NotHere { property: cut(name), why }),
        Property::Unknown => Err(PropertyError::Unknown(cut(name))),
    }
}

/// Names that are known, for a suggestion.
pub fn names() -> impl Iterator<Item = &'static str> {
    let listed = NOT_HERE.iter().map(|(name, _)| *name).chain(HOLDING.iter().map(|(name, ..)| *name));
    ["boot", "depend", "priority", "host.hostname", "ip4.addr", "vnet"].into_iter().chain(listed)
}

fn flag(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    match (TRUE.contains(&value.as_str()) || value.is_empty(), FALSE.contains(&value.as_str())) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

fn depend(value: &str) -> Option<BTreeSet<JailName>> {
    let words = value.split([' ', ',', '\t']).filter(|word| !word.is_empty());
    words.map(|word| JailName::parse(word).ok()).collect()
}

fn is_host_name(value: &str) -> bool {
    (1..=64).contains(&value.len())
        && value.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

/// An address as Bastille writes it: maybe with an interface before it, maybe with a mask behind.
fn address(value: &str) -> Option<Ipv4Addr> {
    let value = value.rsplit_once('|').map_or(value, |(_, address)| address);
    let (address, mask) = value.split_once('/').map_or((value, None), |(address, mask)| (address, Some(mask)));
    let is_mask = mask.is_none_or(|mask| mask.parse::<u8>().is_ok_and(|bits| bits <= 32));
    address.parse().ok().filter(|_| is_mask)
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_set() {
        assert_eq!(setting("boot", "off"), Ok(Setting::Boot(false)));
        assert_eq!(setting("boot", "YES"), Ok(Setting::Boot(true)));
        assert_eq!(setting("priority", "10"), Ok(Setting::Priority(10)));
        let two = ["a", "b"].map(|name| JailName::parse(name).unwrap()).into();
        assert_eq!(setting("depend", "a b,a"), Ok(Setting::Depend(two)));
        assert_eq!(setting("host.hostname", "www.example"), Ok(Setting::Hostname("www.example".to_owned())));
        assert_eq!(setting("ip4.addr", "eth0|10.0.0.1/24"), Ok(Setting::Address(Ipv4Addr::new(10, 0, 0, 1))));
        for (name, value) in [
            ("boot", "maybe"),
            ("priority", "-1"),
            ("depend", "a/b"),
            ("host.hostname", "a b"),
            ("ip4.addr", "inherit"),
        ] {
            assert!(matches!(setting(name, value), Err(PropertyError::Value { .. })), "{name}");
        }
    }

    #[test]
    fn the_rest_is_said() {
        for (name, value) in [("allow.sysvipc", ""), ("sysvshm", "new"), ("enforce_statfs", "2"), ("vnet", "")] {
            assert_eq!(setting(name, value), Ok(Setting::Holds), "{name}");
        }
        assert!(matches!(setting("enforce_statfs", "1"), Err(PropertyError::Fixed { .. })));
        for name in ["allow.raw_sockets", "allow.mount.zfs", "exec.prestart", "vnet.interface", "children.max"] {
            assert!(matches!(setting(name, "1"), Err(PropertyError::NotHere { .. })), "{name}");
            assert!(unsetting(name).is_err());
        }
        let unknown = setting("allow.everything", "1").unwrap_err().to_string();
        assert!(unknown.contains("boot, depend, priority"), "{unknown}");
        assert_eq!(unsetting("boot"), Ok(Supported::Boot));
    }

    #[test]
    fn each_name_has_one_meaning() {
        let mut all: Vec<_> = names().collect();
        assert!(all.len() >= 90, "{}", all.len());
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(names().all(|name| property(name) != Property::Unknown));
    }
}
