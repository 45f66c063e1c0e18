//! What a node needs of its host, whatever the driver.

use std::path::Path;

use moat_engine::driver::{Need, Requirement};
use rustix::fs::{Access, access, statfs};
use rustix::process::{Resource, getrlimit};

use super::requirement;
use crate::clock;
use crate::config::NodeConfig;
use crate::dirs::Dirs;

/// A sandbox costs the daemon some ten descriptors.
const NOFILE_MIN: u64 = 16_384;

/// 2025-01-01: claims are checked against the clock, and one that was never set says 1970.
const CLOCK_MIN_SECS: i64 = 1_735_689_600;

/// From `linux/magic.h`.
const TMPFS_MAGIC: u64 = 0x0102_1994;

pub(super) fn requirements(config: &NodeConfig) -> Vec<Requirement> {
    vec![
        root(),
        writable("run_dir", &config.run_dir),
        on_tmpfs(&config.run_dir),
        writable("data_dir", &config.data_dir),
        free(config),
        open_files(),
        clock_set(),
        erofs(),
    ]
}

fn root() -> Requirement {
    let uid = rustix::process::geteuid().as_raw();
    requirement(
        "root",
        Need::Required,
        uid == 0,
        format!("effective user id {uid}"),
        "run the node as root: sudo moat node up",
    )
}

/// The nearest part of a path that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"))
}

fn writable(name: &str, path: &Path) -> Requirement {
    let there = existing(path);
    let fact = match access(there, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if there == path => Ok(format!("{} is writable", path.display())),
        Ok(()) => Ok(format!("{} can be made below {}", path.display(), there.display())),
        Err(errno) => Err(format!("{}: {errno}", there.display())),
    };
    let met = fact.is_ok();
    let fact = fact.unwrap_or_else(|e| e);
    requirement(
        name,
        Need::Required,
        met,
        fact,
        format!("make {} writable, or set {name} to another directory", path.display()),
    )
}

fn on_tmpfs(run_dir: &Path) -> Requirement {
    let there = existing(run_dir);
    let (met, fact) = match statfs(there) {
        Ok(stat) if u64::try_from(stat.f_type).is_ok_and(|t| t == TMPFS_MAGIC) => {
            (true, format!("{} is on a tmpfs", there.display()))
        }
        Ok(_) => (false, format!("{} is on a disk: environments of workloads would be written to it", there.display())),
        Err(errno) => (false, format!("{}: {errno}", there.display())),
    };
    requirement("run_dir on a tmpfs", Need::Optional, met, fact, "set run_dir to a directory below /run or /dev/shm")
}

fn free(config: &NodeConfig) -> Requirement {
    let dirs = Dirs::new(&config.run_dir, &config.data_dir);
    let lock = dirs.lock_file();
    let held = std::fs::File::open(&lock).ok().and_then(|file| {
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).err()?;
        let pid = std::fs::read_to_string(&lock).unwrap_or_default();
        Some(pid.trim().to_owned())
    });
    match held {
        None => requirement("run_dir not in use", Need::Required, true, "no other node holds it", ""),
        Some(pid) => requirement(
            "run_dir not in use",
            Need::Required,
            false,
            format!("the node with pid {pid} holds {}", lock.display()),
            "stop that node, or give this one another run_dir and data_dir",
        ),
    }
}

fn open_files() -> Requirement {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let fact = format!("at most {} open files (may be raised to {})", shown(limit.current), shown(limit.maximum));
    requirement(
        "open files",
        Need::Optional,
        most >= NOFILE_MIN,
        fact,
        format!("ulimit -n {NOFILE_MIN}, or LimitNOFILE={NOFILE_MIN} in the unit"),
    )
}

fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |n| n.to_string())
}

fn clock_set() -> Requirement {
    let now = clock::now();
    let fact = format!("it is {}", moat_api::nex::event::rfc3339(now));
    requirement(
        "clock",
        Need::Required,
        now.as_secs() >= CLOCK_MIN_SECS,
        fact,
        "set the clock: claims carry times (timedatectl set-ntp true)",
    )
}

/// Roots of images are erofs files; `host` and `scratch` need none.
fn erofs() -> Requirement {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let module = Path::new("/lib/modules").join(&release).join("kernel/fs/erofs");
    let (met, fact) = erofs_of(&known, &module, &release);
    requirement(
        "erofs",
        Need::Optional,
        met,
        fact,
        "sandboxes from images need it: modprobe erofs, or a kernel with CONFIG_EROFS_FS",
    )
}

fn erofs_of(known: &str, module: &Path, release: &str) -> (bool, String) {
    let built_in = known.lines().any(|line| line.split_whitespace().next_back() == Some("erofs"));
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let how =
        if version >= (6, 12) { "mounted from files" } else { "mounted over loop devices (from files since 6.12)" };
    match (built_in, module.exists()) {
        (true, _) => (true, format!("kernel {release} has erofs; {how}")),
        (false, true) => (true, format!("kernel {release} has erofs as a module, not loaded yet; {how}")),
        (false, false) => (false, format!("kernel {release} has no erofs")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn erofs_is_found_built_in_or_as_a_module() {
        let dir = tempfile::tempdir().unwrap();
        let none = dir.path().join("none");
        assert!(!erofs_of("nodev\tproc\n\text4\n", &none, "6.18.0-1").0);
        let (met, fact) = erofs_of("nodev\tproc\n\terofs\n", &none, "6.18.0-1");
        assert!(met && fact.contains("from files") && !fact.contains("loop"), "{fact}");
        let (met, fact) = erofs_of("", dir.path(), "6.1.0");
        assert!(met && fact.contains("module") && fact.contains("loop"), "{fact}");
    }

    #[test]
    fn every_unmet_requirement_has_a_fix() {
        let config = NodeConfig {
            run_dir: PathBuf::from("/proc/nowhere/run"),
            data_dir: PathBuf::from("/proc/nowhere/data"),
            ..NodeConfig::default()
        };
        for r in requirements(&config) {
            assert_eq!(r.fix.is_some(), !r.met, "{r:?}");
        }
    }
}
