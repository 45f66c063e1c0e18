//! The guest that virtual machines of this node boot: making it, and looking at it.

use std::path::{Path, PathBuf};

use moat_guest::{Guest, GuestImage};
use moat_model::ErrorKind;
use serde::Serialize;

use crate::error::Error;

/// What to make it from. Nothing named is the newest kernel installed on this machine.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// A kernel: a bzImage or an ELF file.
    pub kernel: Option<PathBuf>,
    /// Its modules; those installed for it if absent.
    pub modules: Option<PathBuf>,
    /// Which of the installed kernels.
    pub version: Option<String>,
}

/// A guest, for people and scripts.
#[derive(Debug, Clone, Serialize)]
pub struct GuestView {
    /// Where it lies.
    pub dir: PathBuf,
    /// What is in it.
    #[serde(flatten)]
    pub image: GuestImage,
    /// Bytes of the kernel.
    pub kernel_bytes: u64,
    /// Bytes of the modules.
    pub modules_bytes: u64,
}

/// Makes a guest in `dir`. Takes a second or two: call it where that is allowed.
pub fn build(wish: Wish, dir: &Path) -> Result<GuestView, Error> {
    let source = match (wish.kernel, wish.modules) {
        (Some(kernel), Some(modules)) => moat_guest::Source { kernel, modules: Some(modules) },
        (Some(kernel), None) => moat_guest::source_of(kernel).map_err(failed("kernel"))?,
        (None, modules) => {
            let found = moat_guest::find_source(wish.version.as_deref()).map_err(failed("kernel"))?;
            moat_guest::Source { modules: modules.or(found.modules), ..found }
        }
    };
    view(moat_guest::build(&source, dir).map_err(failed("build the guest"))?)
}

/// Reads the guest in `dir`, and checks that its files are those it was made with.
pub fn show(dir: &Path) -> Result<GuestView, Error> {
    let guest = Guest::open(dir).map_err(failed("read the guest"))?;
    guest.verify().map_err(failed("check the guest"))?;
    view(guest)
}

fn view(guest: Guest) -> Result<GuestView, Error> {
    let size = |path: PathBuf| {
        let failed = |e| Error::caused_by(ErrorKind::Internal, format!("look at {}", path.display()), e);
        std::fs::metadata(&path).map(|found| found.len()).map_err(failed)
    };
    let (kernel_bytes, modules_bytes) = (size(guest.kernel())?, size(guest.modules())?);
    Ok(GuestView { dir: guest.dir, image: guest.image, kernel_bytes, modules_bytes })
}

fn failed(doing: &'static str) -> impl Fn(moat_guest::Error) -> Error {
    move |error| {
        let kind = match error.kind {
            moat_guest::ErrorKind::Unusable => ErrorKind::InvalidSpec,
            moat_guest::ErrorKind::Missing | moat_guest::ErrorKind::File(std::io::ErrorKind::NotFound) => {
                ErrorKind::NotFound
            }
            moat_guest::ErrorKind::File(std::io::ErrorKind::PermissionDenied) => ErrorKind::Denied,
            moat_guest::ErrorKind::File(_) => ErrorKind::Internal,
        };
        Error::caused_by(kind, doing, error)
    }
}
