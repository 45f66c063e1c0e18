//! FreeBSD's words inside Linux roots: one static program under many names, and the text files that its scripts read.
//!
//! This library is the front for the node: it carries the program and puts everything into one directory of the host, which is
//! shown in every jail, read-only, at [`DIR`]. One directory and not a file each at FreeBSD's own places, for three reasons:
//! package managers replace files by renaming over them, which the kernel refuses where something is mounted; `/usr/sbin` is a
//! link on some distributions, and nothing is mounted through links; and a jail has one mount more instead of ten. FreeBSD's
//! own places (`/etc/rc.subr`, `/usr/sbin/pw` …) become links into the directory, made inside the jail by [`INIT`] and `service`,
//! only where nothing is.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// Where the directory is shown in every jail. Directly below the root: no image has a link in the way of that.
pub const DIR: &str = "/.moat";

/// Directory of the programs inside. It comes first in the `PATH` of a jail's processes.
pub const BIN: &str = "/.moat/bin";

/// The `PATH` of a jail's processes.
pub const PATH: &str = "/.moat/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The main program of a jail: `init [--watch SERVICE,…] [-- PROGRAM ARG…]`.
pub const INIT: &str = "/.moat/init";

/// In front of a program and its arguments, runs it as somebody else: `-u USER -g GROUP -d DIR --` go between. For programs of
/// images behind [`INIT`]'s `--` that are not root's; users and groups by name or number.
pub const AS: [&str; 2] = ["/.moat/moat-shims", "as"];

/// Names under which the program is called, below [`BIN`].
pub const APPLETS: [&str; 7] = ["pw", "sysrc", "service", "daemon", "nologin", "pkg", "rcorder"];

/// The program itself, below [`DIR`].
const PROGRAM: &str = "moat-shims";

/// The program, as `build.rs` left it.
static EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/moat-shims"));

/// A file of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShimFile {
    /// Where it is, relative to [`DIR`].
    pub path: &'static str,
    /// What it holds.
    pub bytes: &'static [u8],
    /// Its permissions.
    pub mode: u32,
}

/// A symbolic link of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShimLink {
    /// Where it is, relative to [`DIR`].
    pub path: &'static str,
    /// Where it leads, relative to its own directory.
    pub target: &'static str,
}

static FILES: [ShimFile; 4] = [
    ShimFile { path: PROGRAM, bytes: EMBEDDED, mode: 0o755 },
    ShimFile { path: "rc.subr", bytes: include_bytes!("text/rc.subr"), mode: 0o644 },
    ShimFile { path: "defaults/rc.conf", bytes: include_bytes!("text/defaults.rc.conf"), mode: 0o644 },
    ShimFile { path: "rc.conf", bytes: include_bytes!("text/rc.conf"), mode: 0o644 },
];

static LINKS: [ShimLink; 8] = [
    ShimLink { path: "init", target: PROGRAM },
    ShimLink { path: "bin/pw", target: "../moat-shims" },
    ShimLink { path: "bin/sysrc", target: "../moat-shims" },
    ShimLink { path: "bin/service", target: "../moat-shims" },
    ShimLink { path: "bin/daemon", target: "../moat-shims" },
    ShimLink { path: "bin/nologin", target: "../moat-shims" },
    ShimLink { path: "bin/pkg", target: "../moat-shims" },
    ShimLink { path: "bin/rcorder", target: "../moat-shims" },
];

/// The files of the directory.
pub fn files() -> &'static [ShimFile] {
    &FILES
}

/// The symbolic links of the directory.
pub fn links() -> &'static [ShimLink] {
    &LINKS
}

/// What the directory is called on the host: other content has another name, so a newer node leaves alone what older jails
/// have mounted.
pub fn version() -> String {
    let mut hash = Hash::new();
    for file in files() {
        hash.add(file.path.as_bytes());
        hash.add(&file.mode.to_le_bytes());
        hash.add(file.bytes);
    }
    for link in links() {
        hash.add(link.path.as_bytes());
        hash.add(link.target.as_bytes());
    }
    format!("{:032x}", hash.0)
}

/// Makes sure that the directory exists below `parent`, whole, and says where: the source of the bind whose target is [`DIR`].
///
/// What is found under its name is taken as it is: it gets that name after everything is on the disk. Two callers at once are
/// fine. Blocking.
pub fn install(parent: &Path) -> io::Result<PathBuf> {
    let place = parent.join(version());
    if place.is_dir() {
        return Ok(place);
    }
    fs::create_dir_all(parent)?;
    let new = parent.join(format!(".new-{}-{}", std::process::id(), unique()));
    let made = write_all(&new).and_then(|()| match fs::rename(&new, &place) {
        Ok(()) => File::open(parent)?.sync_all(),
        // Somebody else was faster.
        Err(_) if place.is_dir() => fs::remove_dir_all(&new),
        Err(e) => Err(e),
    });
    if let Err(e) = made {
        // What is left of a failure is in nobody's way; the failure is what the caller wants to know.
        let _ = fs::remove_dir_all(&new);
        return Err(e);
    }
    Ok(place)
}

fn write_all(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    let parent_of = |path: &str| -> io::Result<PathBuf> {
        let place = dir.join(path);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
            // Explicitly, for the umask.
            fs::set_permissions(parent, Permissions::from_mode(0o755))?;
        }
        Ok(place)
    };
    for file in files() {
        let place = parent_of(file.path)?;
        let mut out = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(place)?;
        out.write_all(file.bytes)?;
        out.set_permissions(Permissions::from_mode(file.mode))?;
        out.sync_all()?;
    }
    for link in links() {
        symlink(link.target, parent_of(link.path)?)?;
    }
    File::open(dir)?.sync_all()
}

/// A number that no other call in this process gets.
fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// FNV-1a of 128 bits: tells versions apart. Nobody gains anything by a collision, for all of it is ours.
struct Hash(u128);

impl Hash {
    fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    /// Adds a field; its length goes first, so that fields cannot run into each other.
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.len().to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_made_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("shims");
        let first = install(&parent).unwrap();
        for file in files() {
            assert_eq!(fs::read(first.join(file.path)).unwrap(), file.bytes, "{}", file.path);
            let mode = fs::metadata(first.join(file.path)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, file.mode, "{}", file.path);
        }
        for link in links() {
            assert_eq!(fs::canonicalize(first.join(link.path)).unwrap(), first.join(PROGRAM), "{}", link.path);
        }
        assert_eq!(install(&parent).unwrap(), first);
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 1);
    }

    #[test]
    fn the_program_is_there() {
        // Nested builds leave it out, also those that somebody asks for to save time.
        if option_env!("MOAT_SHIMS_NESTED").is_none() {
            assert!(EMBEDDED.starts_with(b"\x7fELF"));
        }
    }

    #[test]
    fn many_at_once_make_one() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().to_owned();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| install(&parent).unwrap());
            }
        });
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 1);
    }

    #[test]
    fn every_applet_has_its_name() {
        for applet in APPLETS {
            assert!(links().iter().any(|link| link.path == format!("bin/{applet}")), "{applet}");
        }
    }
}
