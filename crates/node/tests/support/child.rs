//! The daemon as a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The daemon of `examples/`, brought up to date: a test run that names this file alone does not build it.
pub fn example() -> PathBuf {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let build = || {
        if std::env::var_os("MOAT_PREBUILT").is_none() {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let args = ["build", "--quiet", "--package", "moat-node", "--example", "daemon"];
            let built = Command::new(cargo).current_dir(moat_testkit::workspace_root()).args(args).status().unwrap();
            assert!(built.success(), "cargo build --example daemon: {built}");
        }
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().find(|p| p.ends_with("deps")).and_then(Path::parent).unwrap();
        profile.join("examples/daemon")
    };
    BUILT.get_or_init(build).clone()
}
