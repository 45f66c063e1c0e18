//! Which Firecracker this is. Its interface grows with its versions: what is sent depends on who is asked.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::vm::program;

/// Oldest version whose interface this driver speaks: snapshots have a format of their own from it on.
pub const OLDEST: Version = Version { major: 1, minor: 7, patch: 0 };
/// First minor version that was not looked at.
pub const NEWEST: Version = Version { major: 1, minor: 18, patch: 0 };
/// A version of Firecracker or its jailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Incompatible changes.
    pub major: u32,
    /// New features.
    pub minor: u32,
    /// Repairs.
    pub patch: u32,
}

impl Version {
    /// Of a text such as `1.7.0` or `v1.16.0-dev`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches('v');
        let plain = text.split(['-', '+']).next()?;
        let mut parts = plain.split('.').map(str::parse::<u32>);
        let version = Self { major: parts.next()?.ok()?, minor: parts.next()?.ok()?, patch: parts.next()?.ok()? };
        if parts.next().is_none() { Some(version) } else { None }
    }

    /// Of the first line of `--version`: `Firecracker v1.7.0`.
    fn of_answer(answer: &str) -> Option<Self> {
        answer.lines().next()?.split_whitespace().find_map(Self::parse)
    }

    /// Whether this driver knows its interface.
    pub fn is_supported(self) -> bool {
        (OLDEST..NEWEST).contains(&self)
    }

    /// It tells a guest of its devices by ACPI; before, only on the kernel's command line, which a distribution's kernel
    /// does not read.
    pub fn has_acpi(self) -> bool {
        (self.major, self.minor) >= (1, 8)
    }

    /// What dirty pages are asked for by at load. The older word is still taken by newer ones, but said to go.
    pub fn says_track_dirty_pages(self) -> bool {
        (self.major, self.minor) >= (1, 14)
    }

    /// Whether the machine's clock can be set to the host's when it is loaded.
    pub fn has_clock_realtime(self) -> bool {
        (self.major, self.minor) >= (1, 16)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A program of Firecracker's release, asked for its version when the file changed.
#[derive(Debug)]
pub struct Program {
    /// Where it is, links followed.
    pub path: PathBuf,
    known: Mutex<Option<(Stamp, Version)>>,
}

/// What changes when a file is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Program {
    /// The one at this path. Looked up at each use: it may be installed later.
    pub fn new(path: &Path) -> Self {
        Self { path: path.canonicalize().unwrap_or_else(|_| path.to_owned()), known: Mutex::default() }
    }

    /// Its version, or why there is none. Blocks for as long as the program takes to say.
    pub fn version(&self) -> Result<Version, String> {
        let path = self.path.display();
        let found = fs::metadata(&self.path).map_err(|e| format!("{path}: {e}"))?;
        let stamp = Stamp {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            changed: (found.ctime(), found.ctime_nsec()),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, version)) = known.filter(|(at, _)| *at == stamp) {
            return Ok(version);
        }
        let answer = program::version(&self.path).map_err(|e| format!("{path} --version: {e}"))?;
        let said: String = answer.lines().next().unwrap_or_default().chars().take(80).collect();
        let version = Version::of_answer(&answer).ok_or_else(|| format!("{path} --version says {said:?}"))?;
        *known = Some((stamp, version));
        Ok(version)
    }

    /// The same, if this driver speaks that version.
    pub fn supported(&self) -> Result<Version, String> {
        let version = self.version()?;
        if version.is_supported() {
            return Ok(version);
        }
        let (major, minor) = (NEWEST.major, NEWEST.minor - 1);
        let range = format!("{}.{} to {major}.{minor}", OLDEST.major, OLDEST.minor);
        Err(format!("{} is version {version}; this driver speaks {range}", self.path.display()))
    }

    /// The last part of its path: what the jailer names a directory after.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn versions_are_read_as_they_are_printed() {
        let of = |text| Version::of_answer(text);
        assert_eq!(of("Firecracker v1.7.0\nSupported snapshot data format versions: ..."), Version::parse("1.7.0"));
        assert_eq!(of("Jailer v1.17.0-dev\n"), Some(Version { major: 1, minor: 17, patch: 0 }));
        for nothing in ["", "Firecracker", "Firecracker v1.7", "Firecracker v1.7.0.1", "1.x.0"] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn the_range_is_what_is_said() {
        for (text, supported) in
            [("1.6.9", false), ("1.7.0", true), ("1.17.9", true), ("1.18.0", false), ("2.0.0", false)]
        {
            assert_eq!(Version::parse(text).unwrap().is_supported(), supported, "{text}");
        }
        assert!(!OLDEST.has_acpi() && !OLDEST.says_track_dirty_pages() && !OLDEST.has_clock_realtime());
    }

    #[test]
    fn a_program_is_asked_again_when_it_was_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("firecracker");
        let install = |version: &str| {
            let next = dir.path().join("next");
            fs::write(&next, format!("#!/bin/sh\necho Firecracker v{version}\n")).unwrap();
            fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(&next, &path).unwrap();
        };
        install("1.7.0");
        let program = Program::new(&path);
        assert_eq!(program.supported().unwrap(), OLDEST);
        install("2.1.0");
        let refusal = program.supported().unwrap_err();
        assert!(refusal.ends_with("is version 2.1.0; this driver speaks 1.7 to 1.17"), "{refusal}");
        fs::remove_file(&path).unwrap();
        assert!(program.version().unwrap_err().contains("No such file"));
    }
}
