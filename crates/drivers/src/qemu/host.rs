//! What was found on this host, once, when the driver was made.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;

use super::accelerator::{Accelerator, KvmKind, Trial, kvm_kind};
use super::config::{AcceleratorChoice, QemuConfig};
use super::launch::Launcher;
use crate::vm::boot::BootImage;
use crate::vm::program;

/// Oldest QEMU: the one whose state this driver was measured with.
const VERSION_MIN: (u32, u32) = (7, 2);
/// Where programs are looked for: a daemon's PATH may be short.
const DIRS: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec"];

/// What machines are made with.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub program: PathBuf,
    /// As it says itself.
    pub version: String,
    pub boot: BootImage,
    pub accelerator: Accelerator,
    /// What booting a stock guest with KVM came to, where that was tried.
    pub trial: Option<Trial>,
}

/// Looks for everything.
pub(super) fn find(config: &QemuConfig, launcher: &Launcher) -> Result<Found> {
    let program = program(config)?;
    let version = version_of(&program)?;
    let boot = BootImage::prepare(&config.guest_dir, &launcher.binary, &config.data_dir)?;
    if !boot.guest.image.pvh {
        let why = "guest: its kernel has no PVH entry, by which QEMU starts it: build it from one with CONFIG_PVH";
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    let kernel = boot.guest.kernel();
    let mode = fs::metadata(&kernel)
        .map_err(|e| Error::caused_by(ErrorKind::NotFound, format!("guest: {}", kernel.display()), e))?
        .permissions()
        .mode();
    if mode & 0o004 == 0 {
        let why = format!("guest: everybody must be able to read {0}: chmod 0644 {0}", kernel.display());
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    let mut found = Found { program, version, boot, accelerator: Accelerator::Tcg, trial: None };
    if config.accelerator != AcceleratorChoice::Tcg {
        let trial = tried(config, launcher, &found)?;
        if !trial.boots && config.accelerator == AcceleratorChoice::Kvm {
            let why = format!("qemu.accelerator: kvm does not run a stock guest here: {}", trial.fact);
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        if trial.boots {
            found.accelerator = Accelerator::Kvm;
        }
        found.trial = Some(trial);
    }
    Ok(found)
}

/// Boots a stock guest with KVM, unless it is known what comes of that.
fn tried(config: &QemuConfig, launcher: &Launcher, found: &Found) -> Result<Trial> {
    let (kind, fact) = kvm_kind();
    if kind == KvmKind::None {
        return Ok(Trial { boots: false, fact });
    }
    let file = Trial::file(&config.run_dir, &found.boot.guest.image.kernel_sha256, &found.version);
    if let Some(trial) = Trial::read(&file) {
        return Ok(trial);
    }
    let seen = launcher.try_kvm(config, found);
    let trial = match seen {
        Ok(millis) => Trial { boots: true, fact: format!("{fact}; a stock guest was up after {millis} ms") },
        Err(error) => Trial { boots: false, fact: format!("{fact}; a stock guest does not boot: {}", error.chain()) },
    };
    let text = serde_json::to_vec(&trial).unwrap_or_default();
    crate::vm::process::replace_file(&file, &text)?;
    Ok(trial)
}

/// The program set, or the one found.
pub(super) fn program(config: &QemuConfig) -> Result<PathBuf> {
    let name = format!("qemu-system-{}", std::env::consts::ARCH);
    let found = match &config.program {
        Some(path) => Some(path.clone()).filter(|path| path.is_file()),
        None => DIRS.iter().map(|dir| Path::new(dir).join(&name)).find(|path| path.is_file()),
    };
    found.ok_or_else(|| {
        let looked = config.program.as_ref().map_or_else(|| DIRS.join(", "), |path| path.display().to_string());
        let why = format!("qemu.program: {name} was not found ({looked}): apt-get install qemu-system-x86");
        Error::new(ErrorKind::Unsupported, why)
    })
}

/// What a program says of itself. This starts no machine.
pub(super) fn version_of(program_file: &Path) -> Result<String> {
    let failed =
        |why| Error::new(ErrorKind::Unsupported, format!("qemu.program: {} --version: {why}", program_file.display()));
    let text = program::version(program_file).map_err(failed)?;
    let Some((version, numbers)) = parse_version(&text) else {
        return Err(Error::new(ErrorKind::Unsupported, format!("qemu.program: {} is no QEMU", program_file.display())));
    };
    if numbers < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        let why = format!("qemu.program: QEMU {version} is older than {major}.{minor}");
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    Ok(version)
}

/// `QEMU emulator version 7.2.22 (Debian ...)`.
fn parse_version(text: &str) -> Option<(String, (u32, u32))> {
    let (_, rest) = text.split_once("QEMU emulator version ")?;
    let version: String =
        rest.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+')).collect();
    let mut numbers = version.split('.').map(|part| part.parse().ok());
    Some((version.clone(), (numbers.next()??, numbers.next()??)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let parsed = |text: &str| parse_version(text);
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(parsed(debian), Some(("7.2.22".to_owned(), (7, 2))));
        assert_eq!(parsed("QEMU emulator version 10.1.0\n"), Some(("10.1.0".to_owned(), (10, 1))));
        for bad in ["", "bash 5", "QEMU emulator version x.y"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let config = QemuConfig { program: Some(PathBuf::from("/nonexistent/qemu")), ..QemuConfig::default() };
        let refusal = program(&config).unwrap_err();
        assert!(
            refusal.doing.starts_with("qemu.program: ") && refusal.doing.contains("/nonexistent/qemu"),
            "{refusal}"
        );
        let refusal = version_of(Path::new("/bin/true")).unwrap_err();
        assert_eq!(refusal.doing, "qemu.program: /bin/true is no QEMU");
    }
}
