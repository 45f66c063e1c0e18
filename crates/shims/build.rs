//! Builds the program of this package for jails and hands its bytes to `src/lib.rs`.
//!
//! The program has a profile of its own (small, no unwinding), so a nested `cargo build` makes it, into a target directory
//! below `OUT_DIR`: the outer cargo holds the lock of the outer one. The nested build runs this file again, which then leaves
//! nothing: the program does not use the library.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Set for the nested build.
const NESTED: &str = "MOAT_SHIMS_NESTED";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed={NESTED}");
    let out_dir = path_var("OUT_DIR")?;
    let published = out_dir.join("moat-shims");
    if std::env::var_os(NESTED).is_some() {
        println!("cargo::rerun-if-changed=build.rs");
        return publish(&[], &published);
    }
    let manifest_dir = path_var("CARGO_MANIFEST_DIR")?;
    let target = text_var("TARGET")?;
    let workspace = manifest_dir
        .ancestors()
        .nth(2)
        .ok_or_else(|| format!("{} is not two levels below the workspace", manifest_dir.display()))?;
    let profile = if text_var("PROFILE")? == "release" { "agent" } else { "agent-dev" };

    let own = ["crates/shims/src", "crates/shims/build.rs", "crates/shims/Cargo.toml"];
    for input in own.into_iter().chain(["Cargo.toml", "Cargo.lock", ".cargo/config.toml"]) {
        let path = workspace.join(input);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }

    let target_dir = out_dir.join("nested");
    let mut cargo = nested_cargo(workspace);
    cargo.args(["build", "--package", "moat-shims", "--bin", "moat-shims", "--profile", profile, "--target", &target]);
    cargo.arg("--target-dir").arg(&target_dir);
    if workspace.join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    let output = cargo.output().map_err(|e| format!("start {cargo:?}: {e}"))?;
    if !output.status.success() {
        return Err(format!(
            "building the shims failed ({}): {cargo:?}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        ));
    }
    let built = target_dir.join(&target).join(profile).join("moat-shims");
    let bytes = std::fs::read(&built).map_err(|e| format!("read {}: {e}", built.display()))?;
    publish(&bytes, &published)
}

/// Writes the program only if it changed, so that an unchanged one does not rebuild this crate.
fn publish(bytes: &[u8], published: &Path) -> Result<(), String> {
    if std::fs::read(published).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    std::fs::write(published, bytes).map_err(|e| format!("write {}: {e}", published.display()))
}

/// A cargo that is not influenced by what the outer one was told about compiling (flags, wrappers such as clippy's,
/// features, profiles), but still uses its network, registry and job server settings.
fn nested_cargo(workspace: &Path) -> Command {
    const KEPT: [&str; 9] = [
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_HTTPS_",
        "CARGO_REGISTRY_",
        "CARGO_REGISTRIES_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    cargo.current_dir(workspace);
    for (name, _) in std::env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let compiler = ["RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTDOCFLAGS", "CLIPPY_"].iter().any(|p| text.starts_with(p));
        let inherited = text.starts_with("CARGO") && !KEPT.iter().any(|kept| text.starts_with(kept));
        if compiler || inherited {
            cargo.env_remove(&name);
        }
    }
    cargo.env(NESTED, "1");
    cargo
}

fn text_var(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|e| format!("{name}: {e}"))
}

fn path_var(name: &str) -> Result<PathBuf, String> {
    std::env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("{name} is not set: run me from cargo"))
}
