//! Capabilities: names, bits, and what a sandbox gets of them.
//!
//! Names are taken with or without `CAP_`, in any case; `all` is every capability this kernel has. What a sandbox gets is
//!
//! ```text
//! (default ∩ ceiling) − drop ∪ add        and add ⊆ ceiling, or nothing starts
//! ```
//!
//! so that an operator's ceiling narrows the default too, and what a user adds wins over what the same user drops.

use std::collections::BTreeSet;

use moat_model::capability::NAMES;

/// What a sandbox gets if nothing is asked: the 14 that container engines agree on, without NET_RAW.
pub const DEFAULT: u64 = 0xa804_05fb;

/// Those over a network namespace: NET_ADMIN and NET_RAW.
pub const OF_NETWORKS: u64 = 1 << 12 | 1 << 13;

/// Why a set of capabilities cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// Not names of capabilities.
    #[error("{field}: no capability of this kernel is called {}", names.join(", "))]
    Unknown {
        /// The field at fault.
        field: &'static str,
        /// All that are not, sorted.
        names: Vec<String>,
    },
    /// Above the operator's ceiling.
    #[error("security.cap_add: not allowed on this node (allow_caps): {}", names.join(", "))]
    AboveCeiling {
        /// All that are, sorted.
        names: Vec<String>,
    },
}

impl From<CapabilityError> for moat_engine::Error {
    fn from(error: CapabilityError) -> Self {
        let kind = match error {
            CapabilityError::Unknown { .. } => moat_model::ErrorKind::InvalidSpec,
            CapabilityError::AboveCeiling { .. } => moat_model::ErrorKind::Denied,
        };
        Self::new(kind, error.to_string())
    }
}

/// The bit of a capability.
pub fn bit(name: &str) -> Option<u64> {
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("cap_").unwrap_or(&name);
    NAMES.iter().position(|n| *n == name).map(|at| 1 << at)
}

/// The names of a set, sorted; a bit without a name is written as its number.
pub fn names(set: u64) -> Vec<String> {
    let mut names: Vec<String> = (0..u64::BITS)
        .filter(|at| set >> at & 1 == 1)
        .map(|at| NAMES.get(at as usize).map_or_else(|| at.to_string(), |name| (*name).to_owned()))
        .collect();
    names.sort_unstable();
    names
}

/// Every capability this kernel has and this table names.
pub fn of_kernel() -> u64 {
    let named = (1 << NAMES.len()) - 1;
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok().and_then(|text| text.trim().parse().ok());
    // A kernel that does not tell is one that is not Linux as we know it; the table is then as good as anything.
    last.filter(|last: &u32| *last < 63).map_or(named, |last| ((1 << (last + 1)) - 1) & named)
}

/// Reads a list of names, `field` being where it stands.
pub fn parse(field: &'static str, list: &[String], kernel: u64) -> Result<u64, CapabilityError> {
    let mut set = 0;
    let mut unknown = BTreeSet::new();
    for name in list {
        match bit(name) {
            _ if name.eq_ignore_ascii_case("all") => set |= kernel,
            Some(one) if one & kernel != 0 => set |= one,
            _ => {
                unknown.insert(name.clone());
            }
        }
    }
    if unknown.is_empty() {
        Ok(set)
    } else {
        Err(CapabilityError::Unknown { field, names: unknown.into_iter().collect() })
    }
}

/// What a sandbox gets: see the module. `kernel` is [`of_kernel`].
pub fn resolve(add: &[String], drop: &[String], ceiling: u64, kernel: u64) -> Result<u64, CapabilityError> {
    let add = parse("security.cap_add", add, kernel)?;
    let drop = parse("security.cap_drop", drop, kernel)?;
    if add & !ceiling != 0 {
        return Err(CapabilityError::AboveCeiling { names: names(add & !ceiling) });
    }
    Ok((DEFAULT & ceiling & !drop) | add)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel of our own, so that the tables do not depend on the host's.
    const KERNEL: u64 = (1 << 41) - 1;

    fn set(list: &str) -> u64 {
        parse("test", &owned(list), KERNEL).unwrap()
    }

    fn owned(list: &str) -> Vec<String> {
        list.split_whitespace().map(str::to_owned).collect()
    }

    const DEFAULTS: &str = "audit_write chown dac_override fowner fsetid kill mknod net_bind_service setfcap setgid setpcap \
                            setuid sys_chroot";

    /// N10: the masks; applied to processes they are checked in the container tests.
    #[test]
    fn n10_masks() {
        assert_eq!(set(DEFAULTS), DEFAULT);
        assert_eq!(DEFAULT.count_ones(), 13);
        let only_bind = resolve(&owned("net_bind_service"), &owned("all"), set(DEFAULTS), KERNEL);
        assert_eq!(only_bind, Ok(0x400));
    }

    /// N11, first half: the algebra.
    #[test]
    fn n11_algebra_table() {
        for (ceiling, add, drop, result) in [
            (DEFAULTS, "", "", DEFAULTS),
            ("all", "", "", DEFAULTS),
            ("net_raw chown sys_time", "", "", "chown"),
            ("net_raw chown sys_time", "net_raw sys_time", "", "chown net_raw sys_time"),
            (DEFAULTS, "chown KILL", "", DEFAULTS),
            (DEFAULTS, "", "all", ""),
            (DEFAULTS, "chown fowner", "all", "chown fowner"),
            (DEFAULTS, "chown", "chown", DEFAULTS),
            (
                DEFAULTS,
                "",
                "chown fowner CAP_KILL SYS_CHROOT mknod dac_override",
                "audit_write fsetid net_bind_service setfcap setgid setpcap setuid",
            ),
            ("all", "", "all", ""),
            ("all", "all", "", "all"),
            ("all", "sys_chroot CAP_mknod", "All", "sys_chroot mknod"),
        ] {
            let got = resolve(&owned(add), &owned(drop), set(ceiling), KERNEL);
            assert_eq!(got, Ok(set(result)), "ceiling {ceiling}, add {add}, drop {drop}");
        }
    }

    /// N11, second half: what is refused, and that all of it is named, sorted.
    #[test]
    fn n11_refusals_name_everything_sorted() {
        for (ceiling, add, drop, names) in [
            (DEFAULTS, "net_raw", "", "net_raw"),
            (DEFAULTS, "sys_time net_raw chown CAP_BPF", "", "bpf, net_raw, sys_time"),
            ("chown", "kill", "all", "kill"),
            ("", "chown", "", "chown"),
            ("chown net_raw", "chown sys_time", "chown", "sys_time"),
        ] {
            let error = resolve(&owned(add), &owned(drop), set(ceiling), KERNEL).unwrap_err();
            assert!(error.to_string().ends_with(&format!(": {names}")), "{error}");
            assert!(matches!(error, CapabilityError::AboveCeiling { .. }), "{error:?}");
        }
        let all = resolve(&owned("all"), &[], DEFAULT, KERNEL).unwrap_err();
        assert_eq!(all, CapabilityError::AboveCeiling { names: names(KERNEL & !DEFAULT) });
        for (add, drop, field) in [("nope chown", "", "security.cap_add"), ("", "zap", "security.cap_drop")] {
            let error = resolve(&owned(add), &owned(drop), KERNEL, KERNEL).unwrap_err();
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }

    #[test]
    fn a_capability_younger_than_the_kernel_is_unknown() {
        let old = (1 << 38) - 1;
        assert!(resolve(&owned("bpf"), &[], KERNEL, old).is_err());
        assert_eq!(parse("test", &owned("all"), old), Ok(old));
    }

    #[test]
    fn names_and_bits_agree_with_each_other() {
        for name in NAMES {
            assert_eq!(names(bit(name).unwrap()), [name]);
        }
        assert_eq!(bit("CAP_SYS_ADMIN"), Some(1 << 21));
        assert_eq!(bit("Checkpoint_Restore"), Some(1 << 40));
        assert_eq!(bit("all"), None);
    }
}
