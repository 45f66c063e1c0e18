//! From the kernel's start to a system that can be spoken with.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use moat_agent::protocol::machine::{CONSOLE_READY_FLAG, MODULES_LIST};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::system::{RebootCommand, finit_module, reboot};

use super::Booted;
use crate::agent::Failure;
use crate::launcher::mount::{self, INERT};

/// Where the modules lie whose names in the list are not absolute.
const MODULES: &str = "/moat/lib";
/// What the initramfs brought and nobody needs any more once it is loaded.
const BROUGHT: &str = "/moat";

/// Mounts what the kernel shows, loads the modules, and looks around.
pub fn boot() -> Result<Booted, Failure> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    for (kind, path) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        shown(kind, path).map_err(|e| Failure::internal(&format!("mount {path}"), &e))?;
    }
    super::power::look_around();
    // Nobody at a keyboard ends it.
    let _ = reboot(RebootCommand::CadOff);
    load_modules()?;
    let groups = mount::filesystem("cgroup2", &[], INERT).map_err(|e| Failure::internal("mount cgroup2", &e))?;
    let random = open("/dev/random", OFlags::RDONLY)?;
    let commands = fs::read_to_string("/proc/cmdline").map_err(|e| Failure::internal("read /proc/cmdline", &e))?;
    let says_ready = commands.split_whitespace().any(|word| word == CONSOLE_READY_FLAG);
    Ok(Booted { says_ready, groups, random })
}

fn shown(kind: &str, path: &str) -> std::io::Result<()> {
    fs::create_dir_all(path)?;
    match rustix::mount::mount(kind, path, kind, MountFlags::NOSUID | MountFlags::NOEXEC, None) {
        // The kernel did it by itself.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// In the order of the list; one the kernel has built in is there already.
fn load_modules() -> Result<(), Failure> {
    let list = match fs::read_to_string(MODULES_LIST) {
        Ok(list) => list,
        // Everything is built in.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Failure::internal(&format!("read {MODULES_LIST}"), &e)),
    };
    for name in list.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let path = Path::new(MODULES).join(name);
        let failed = |e: std::io::Error| Failure::internal(&format!("load module {}", path.display()), &e);
        let module = File::open(&path).map_err(failed)?;
        match finit_module(&module, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    // It lies in memory.
    let _ = fs::remove_dir_all(BROUGHT);
    Ok(())
}

fn open(path: &str, flags: OFlags) -> Result<OwnedFd, Failure> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Failure::internal(&format!("open {path}"), &e.into()))
}
