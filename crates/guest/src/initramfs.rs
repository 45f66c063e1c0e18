//! What a guest finds in its memory when it starts: the modules, and the agent as `/init`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::cpio::Archive;
use crate::modules::Module;
use crate::{Error, Guest, at};

/// Where the order of the modules stands: one path per line. The agent has the same constant.
pub const MODULES_LIST: &str = "/moat/modules";
/// Where the modules themselves lie.
const MODULES_DIR: &str = "/moat/lib";

/// The modules with their order, and the directories a kernel and the first process want.
pub(crate) fn modules_cpio(modules: &[Module]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.directory("dev", 0o755);
    // The kernel opens it for /init before anybody could have mounted devices.
    archive.character("dev/console", 0o600, 5, 1);
    for dir in ["moat", relative(MODULES_DIR)] {
        archive.directory(dir, 0o755);
    }
    let path = |module: &Module| format!("{MODULES_DIR}/{}.ko", module.name);
    let mut sorted: Vec<_> = modules.iter().collect();
    sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for module in sorted {
        archive.file(relative(&path(module)), 0o644, &module.bytes);
    }
    let order: String = modules.iter().map(|module| path(module) + "\n").collect();
    archive.file(relative(MODULES_LIST), 0o644, order.as_bytes());
    for dir in ["proc", "sys"] {
        archive.directory(dir, 0o755);
    }
    archive.finish()
}

/// An archive with the agent in it as `/init`, to be put behind the modules.
pub fn agent_cpio(agent: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.file("init", 0o755, agent);
    archive.finish()
}

/// Writes what a machine is started with: the guest's modules, then the agent. It is put in place whole.
pub fn initramfs(guest: &Guest, agent: &[u8], to: &Path) -> Result<(), Error> {
    let name = to.file_name().ok_or_else(|| Error::unusable(format!("{}: not the name of a file", to.display())))?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".tmp-{}", std::process::id()));
    let temporary = to.with_file_name(temporary);
    let written = write(guest, agent, &temporary).and_then(|()| fs::rename(&temporary, to).map_err(at(to)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write(guest: &Guest, agent: &[u8], to: &Path) -> Result<(), Error> {
    let from = guest.modules();
    let mut modules = File::open(&from).map_err(at(&from))?;
    let mut file = File::create(to).map_err(at(to))?;
    io::copy(&mut modules, &mut file).map_err(at(to))?;
    file.write_all(&agent_cpio(agent)).map_err(at(to))
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}
