//! Making a guest and putting it in place whole.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::initramfs::modules_cpio;
use crate::kernel;
use crate::modules::{self, Picked};
use crate::{Error, Guest, GuestImage, KERNEL, MANIFEST, MODULES, Source, at, digest};

/// Makes a guest in `dir`, in the place of one that may be there. Machines that are being started see the old or the new
/// one, never half of each; the same source makes the same bytes.
pub fn build(source: &Source, dir: &Path) -> Result<Guest, Error> {
    may_replace(dir)?;
    let kernel = kernel::extract(kernel::read(&source.kernel)?)
        .map_err(|e| Error::unusable(format!("{}: {e}", source.kernel.display())))?;
    let picked = match &source.modules {
        Some(dir) => modules::pick(dir, &kernel.version)?,
        None => Picked::default(),
    };
    let cpio = modules_cpio(&picked.modules);
    let image = GuestImage {
        kernel_version: kernel.version,
        kernel_sha256: digest(&kernel.elf),
        modules_sha256: digest(&cpio),
        modules: picked.modules.into_iter().map(|module| module.name).collect(),
        absent: picked.absent,
        pvh: kernel.pvh,
    };
    let mut manifest =
        serde_json::to_vec_pretty(&image).map_err(|e| Error::unusable(format!("write {MANIFEST} as JSON: {e}")))?;
    manifest.push(b'\n');

    let fresh = Fresh::beside(dir)?;
    for (name, bytes) in [(KERNEL, &kernel.elf), (MODULES, &cpio), (MANIFEST, &manifest)] {
        fresh.write(name, bytes)?;
    }
    fresh.put(dir)?;
    Ok(Guest { dir: dir.to_owned(), image })
}

/// Only a guest is ever replaced: whoever mistypes the directory must not lose it.
fn may_replace(dir: &Path) -> Result<(), Error> {
    let mut entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(dir)(error)),
    };
    if dir.join(MANIFEST).is_file() || entries.next().is_none() {
        return Ok(());
    }
    Err(Error::unusable(format!(
        "{}: there are files in it, but no {MANIFEST}; name a directory for the guest alone (--output)",
        dir.display()
    )))
}

/// A directory that takes its place at the end, or goes.
struct Fresh(PathBuf);

impl Fresh {
    fn beside(dir: &Path) -> Result<Self, Error> {
        let name = dir
            .file_name()
            .ok_or_else(|| Error::unusable(format!("{}: not the name of a directory", dir.display())))?;
        let parent = parent(dir);
        fs::create_dir_all(parent).map_err(at(parent))?;
        let path = parent.join(format!(".{}.tmp-{}", name.to_string_lossy(), std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).map_err(at(&path))?;
        let fresh = Self(path);
        readable(&fresh.0, 0o755)?;
        Ok(fresh)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.0.join(name);
        let mut file = File::create(&path).map_err(at(&path))?;
        file.write_all(bytes).map_err(at(&path))?;
        readable(&path, 0o644)?;
        file.sync_all().map_err(at(&path))
    }

    fn put(self, dir: &Path) -> Result<(), Error> {
        sync(&self.0)?;
        match renameat_with(CWD, &self.0, CWD, dir, RenameFlags::EXCHANGE) {
            // What is now under the temporary name is the old guest, and goes with it.
            Ok(()) => {}
            Err(Errno::NOENT) => fs::rename(&self.0, dir).map_err(at(dir))?,
            // Not every file system exchanges; then there is a moment without a guest.
            Err(Errno::INVAL | Errno::NOSYS) => {
                fs::remove_dir_all(dir).map_err(at(dir))?;
                fs::rename(&self.0, dir).map_err(at(dir))?;
            }
            Err(error) => return Err(at(dir)(error.into())),
        }
        sync(parent(dir))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Monitors run as nobody in particular, whatever the umask of whoever built the guest. There is no secret in it.
fn readable(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(at(path))
}

fn parent(dir: &Path) -> &Path {
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A rename survives the power only if the directory was told to.
fn sync(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}
