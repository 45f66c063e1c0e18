//! Programs of this workspace, built the way the tests were.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, bail};

use crate::tools::{target_dir, workspace_root};

/// Which package builds a binary, where the two names differ.
const PACKAGES: [(&str, &str); 4] =
    [("moat", "moat-cli"), ("probe", "moat-testkit"), ("hostile", "moat-testkit"), ("nats", "moat-testkit")];

/// Path of the binary `name` of this workspace, in the profile the calling test was built with.
///
/// It is brought up to date by cargo once per process, unless `MOAT_PREBUILT` says that `cargo xtask test` just did.
pub fn static_bin(name: &str) -> anyhow::Result<PathBuf> {
    static BUILT: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let built = built.get_or_insert_default();
    if let Some(path) = built.get(name) {
        return Ok(path.clone());
    }
    let path = profile_dir()?.join(name);
    if std::env::var_os("MOAT_PREBUILT").is_none() || !path.is_file() {
        build(name, &path)?;
    }
    built.insert(name.to_owned(), path.clone());
    Ok(path)
}

/// The same without what debuggers read, which is nine tenths of it: for programs that travel into virtual machines. Where
/// `strip` is missing, the whole one.
pub fn small_bin(name: &str) -> anyhow::Result<PathBuf> {
    let whole = static_bin(name)?;
    let small = whole.with_file_name(format!("{name}-small"));
    let modified = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    if modified(&small).is_some_and(|of_small| Some(of_small) > modified(&whole)) {
        return Ok(small);
    }
    // Under a name of its own first: another test may be looking.
    let made = whole.with_file_name(format!("{name}-small-{}", std::process::id()));
    match Command::new("strip").arg("-o").arg(&made).arg(&whole).output() {
        Ok(output) if output.status.success() => {
            std::fs::rename(&made, &small).with_context(|| format!("put {} in place", small.display()))?;
            Ok(small)
        }
        _ => Ok(whole),
    }
}

/// `target/<tuple>/<profile>`: two levels above the running test, one above a benchmark or example.
fn profile_dir() -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe().context("find the running test")?;
    let dir = exe.parent().context("the running test has no directory")?;
    let is_nested = dir.file_name().is_some_and(|n| n == "deps" || n == "examples");
    Ok(if is_nested { dir.parent().unwrap_or(dir) } else { dir }.to_path_buf())
}

fn build(name: &str, path: &Path) -> anyhow::Result<()> {
    let lock = File::create(target_dir().join("static-bin.lock")).context("create the lock of nested builds")?;
    lock.lock().context("wait for another test's build")?;
    let package = PACKAGES.iter().find(|(bin, _)| *bin == name).map_or(name, |(_, package)| *package);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What cargo told the test of itself would make build scripts run again, and what depends on them be built again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command.current_dir(workspace_root()).args(["build", "--quiet", "--package", package, "--bin", name]);
    if path.parent().is_some_and(|dir| dir.ends_with("release")) {
        command.arg("--release");
    }
    let output = command.output().context("start cargo")?;
    if !output.status.success() {
        bail!("cargo build --bin {name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    if !path.is_file() {
        bail!("cargo built {name}, but not at {}", path.display());
    }
    Ok(())
}
