//! Saying that a test did not run. Nothing is skipped silently.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use crate::tools::target_dir;

/// Reports that test `id` cannot run here, and why; the caller returns.
///
/// The line goes past the test harness's capture to standard error, and to the list that `cargo xtask test` prints at its
/// end (`MOAT_NOT_RUN`, or `target/not-run.txt`).
pub fn not_run(id: &str, reason: &str) {
    let line = format!("NOT RUN {id}: {}\n", reason.replace('\n', " "));
    // A harness that cannot be told is no reason to fail: the list below still is.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let path = std::env::var_os("MOAT_NOT_RUN").map_or_else(|| target_dir().join("not-run.txt"), PathBuf::from);
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) {
        let _ = file.write_all(line.as_bytes());
    }
}

/// [`not_run`] under the name of the running test.
pub fn not_run_here(reason: &str) {
    let thread = std::thread::current();
    not_run(thread.name().unwrap_or("unnamed"), reason);
}

/// Whether this process is root; most tests of real sandboxes need it.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
