//! Which kernel of this machine a guest is made from.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Source, kernel};

const BUILD: &str = "moat guest build";
/// Installs one; it need not be the kernel this machine runs.
pub const INSTALL: &str = "apt-get install linux-image-cloud-amd64";

/// The command that makes a guest on this machine: what helps where there is none.
pub fn fix() -> String {
    match find_source(None) {
        Ok(_) => BUILD.to_owned(),
        Err(_) => format!("{INSTALL} && {BUILD}"),
    }
}

/// The kernel of this version, or the newest one, with its modules.
pub fn find_source(version: Option<&str>) -> Result<Source, Error> {
    find_source_below(Path::new("/"), version)
}

/// The same below another root: a package that was unpacked and not installed.
pub fn find_source_below(root: &Path, version: Option<&str>) -> Result<Source, Error> {
    let mut found = candidates(root);
    if let Some(version) = version {
        found.retain(|(known, _)| known == version);
    }
    found.sort_by(|(a, _), (b, _)| by_version(a, b));
    found.pop().map(|(_, source)| source).ok_or_else(|| none(root, version))
}

/// A kernel by its path, with the modules that are installed for it, or none: then everything must be built in.
pub fn source_of(kernel: PathBuf) -> Result<Source, Error> {
    let version =
        kernel::version(&kernel::read(&kernel)?).map_err(|e| Error::unusable(format!("{}: {e}", kernel.display())))?;
    let modules = Path::new("/lib/modules").join(version);
    let modules = modules.is_dir().then_some(modules);
    Ok(Source { kernel, modules })
}

fn none(root: &Path, version: Option<&str>) -> Error {
    let which = version.map_or_else(String::new, |version| format!(" of version {version}"));
    Error::missing(format!(
        "no kernel{which} with its modules in {} and {}: install one (Debian: `{INSTALL}`), or name one (--kernel and \
         --modules)",
        root.join("boot").display(),
        root.join("lib/modules").display()
    ))
}

/// Every version that has modules and a kernel, where Debian or where Fedora and Arch put it.
fn candidates(root: &Path) -> Vec<(String, Source)> {
    let entries = fs::read_dir(root.join("lib/modules")).into_iter().flatten().flatten();
    let candidate = |entry: fs::DirEntry| {
        let version = entry.file_name().into_string().ok()?;
        let modules = entry.path();
        let places: [PathBuf; 2] = [root.join(format!("boot/vmlinuz-{version}")), modules.join("vmlinuz")];
        let kernel = places.into_iter().find(|path| path.is_file())?;
        Some((version, Source { kernel, modules: Some(modules) }))
    };
    entries.filter_map(candidate).collect()
}

/// Numbers in it compare as numbers: 6.12 is newer than 6.9.
fn by_version(a: &str, b: &str) -> Ordering {
    parts(a).cmp(&parts(b)).then_with(|| a.cmp(b))
}

fn parts(version: &str) -> Vec<u64> {
    let numbers = version.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    numbers.map(|part| part.parse().unwrap_or(u64::MAX)).collect()
}
