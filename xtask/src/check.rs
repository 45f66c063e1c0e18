//! What must hold before anything lands.

use crate::process;
use crate::tidy;
use crate::workspace::cargo;

/// Formatting, clippy, tidy.
pub fn run() -> anyhow::Result<()> {
    process::run(cargo().args(["fmt", "--all", "--check"]))?;
    tidy::run()?;
    process::run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}
