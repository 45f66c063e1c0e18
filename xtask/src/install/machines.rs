//! What virtual machines are made of: a monitor, a kernel, and the guest built from it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::{Scratch, Tool, apt_install, install, put, retried, unpacked};
use crate::process;
use crate::workspace::tools_dir;

/// The package that always needs the newest kernel for virtual machines, and is empty itself.
const NEWEST_KERNEL: &str = "linux-image-cloud-amd64";
const KERNEL: &str = "linux-image-";
const FLAVOUR: &str = "-cloud-amd64";
/// Where programs of packages lie; a user's path may lack some.
const SYSTEM: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];

/// Installs the package if the program is not on this machine, and puts a link to it beside the other tools.
pub fn link(package: &str, program: &str, to: &Path) -> anyhow::Result<()> {
    let find = || SYSTEM.iter().map(|dir| Path::new(dir).join(program)).find(|path| path.is_file());
    if find().is_none() {
        apt_install(&[package])?;
    }
    let found = find().with_context(|| format!("the package {package} was installed without {program}"))?;
    let scratch = Scratch::new(program)?;
    let link = scratch.0.join("link");
    std::os::unix::fs::symlink(found, &link).context("link the program")?;
    put(&link, to)
}

/// Unpacks a kernel package. It is not installed: that would make this machine boot it.
pub fn unpack_kernel(to: &Path) -> anyhow::Result<()> {
    let package = kernel_package()?;
    let scratch = Scratch::new("guest-kernel")?;
    put(&unpacked(&package, &scratch)?, to)
}

/// The package with the kernel in it: its name has the version.
fn kernel_package() -> anyhow::Result<String> {
    let ask = || {
        let text = process::output(Command::new("apt-cache").args(["depends", NEWEST_KERNEL]))?;
        let is_kernel = |word: &&str| word.starts_with(KERNEL) && word.ends_with(FLAVOUR) && *word != NEWEST_KERNEL;
        let name = text.split_whitespace().find(is_kernel);
        name.map(str::to_owned).with_context(|| format!("the package {NEWEST_KERNEL} needs no kernel"))
    };
    if let Ok(name) = ask() {
        return Ok(name);
    }
    let mut name = String::new();
    retried("apt-get update and apt-cache depends", || {
        process::output(Command::new("apt-get").args(["update", "-qq"]))?;
        name = ask()?;
        Ok(())
    })?;
    Ok(name)
}

/// Builds the guest of the tests from the unpacked kernel with `moat`, the program just built. Always anew: it takes two
/// seconds, and one of an older build would prove nothing.
pub fn guest(moat: &Path) -> anyhow::Result<PathBuf> {
    let package = install(Tool::GuestKernel)?;
    let modules = only_entry(&package.join("lib/modules"))?;
    let version = modules.file_name().context("modules without a version")?.to_string_lossy().into_owned();
    let dir = tools_dir().join("guest");
    let mut build = Command::new(moat);
    build.args(["guest", "build", "--kernel"]).arg(package.join(format!("boot/vmlinuz-{version}")));
    process::output(build.arg("--modules").arg(&modules).arg("--output").arg(&dir))?;
    Ok(dir)
}

fn only_entry(dir: &Path) -> anyhow::Result<PathBuf> {
    let mut entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?.flatten();
    Ok(entries.next().with_context(|| format!("{} is empty", dir.display()))?.path())
}
