//! Where the programs that tests drive are found. `cargo xtask test` puts them there.

use std::path::{Path, PathBuf};

/// The checkout the tests were built from.
pub fn workspace_root() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    crates.ancestors().nth(2).unwrap_or(crates).to_path_buf()
}

/// Cargo's target directory.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace_root().join("target"), PathBuf::from)
}

/// Directory of installed tools: `MOAT_TOOLS`, or `target/tools`.
pub fn tools_dir() -> PathBuf {
    std::env::var_os("MOAT_TOOLS").map_or_else(|| target_dir().join("tools"), PathBuf::from)
}

/// A tool by its file name in the tools directory, or on `PATH`.
pub fn tool(name: &str) -> Option<PathBuf> {
    let ours = tools_dir().join(name);
    if ours.is_file() {
        return Some(ours);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// A static busybox, for roots without a libc.
pub fn busybox() -> Option<PathBuf> {
    tool("busybox")
}
