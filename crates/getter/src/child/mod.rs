//! The fetching child.

use std::process::ExitCode;

/// Whether `extension` names a format that can be unpacked.
pub(crate) fn is_archive(extension: &str) -> bool {
    formats().split(' ').any(|known| known == extension)
}

/// All formats that can be unpacked.
pub(crate) fn formats() -> &'static str {
    "zip tar tar.gz tgz tar.bz2 tbz2 tar.xz txz tar.zst tzst gz bz2 xz zst"
}

/// The whole life of the child: to be called first thing by the program that [`crate::GetterConfig::program`] names.
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
