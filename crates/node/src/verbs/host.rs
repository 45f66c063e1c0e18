//! Facts about this machine, in Go's words.

use moat_api::nex::Memory;

/// Operating system.
pub(crate) const OS: &str = "linux";

/// Architecture.
pub(crate) fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// CPUs this process may use.
pub(crate) fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// From `/proc/meminfo`.
pub(crate) fn memory() -> Option<Memory> {
    parse_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_meminfo(text: &str) -> Option<Memory> {
    let kilobytes = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Memory {
        total: kilobytes("MemTotal")?,
        free: kilobytes("MemFree")?,
        // Kernels before 3.14 have none; free is the honest lower bound.
        available: kilobytes("MemAvailable").or_else(|| kilobytes("MemFree"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        let text = "MemTotal:       16384000 kB\nMemFree:  8000000 kB\nMemAvailable:   12000000 kB\n";
        assert_eq!(parse_meminfo(text), Some(Memory { total: 16_384_000, free: 8_000_000, available: 12_000_000 }));
        assert_eq!(parse_meminfo("nothing"), None);
        assert!(memory().is_some_and(|m| m.total > m.free));
    }
}
