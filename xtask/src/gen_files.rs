//! Files that are generated from code. Each has a test named `…_is_up_to_date` that compares, and that writes when asked to.

use crate::process;
use crate::workspace::cargo;

/// Runs those tests with the request to write.
pub fn run() -> anyhow::Result<()> {
    process::run(cargo().env("MOAT_REGENERATE", "1").args(["test", "--workspace", "--quiet", "is_up_to_date"]))
}
