//! Files that are generated from code. Each has a test that compares, and that writes when `MOAT_REGENERATE` is set.

use std::collections::BTreeSet;

use crate::process;
use crate::tidy::Tree;
use crate::workspace::cargo;

/// Runs the tests of every package that holds such a test, with the request to write.
pub fn run() -> anyhow::Result<()> {
    let tree = Tree::load()?;
    let asked = concat!("MOAT_", "REGENERATE");
    let holders: BTreeSet<&str> =
        tree.rust().filter(|(_, text)| text.contains(asked)).filter_map(|(path, _)| tree.package_of(path)).collect();
    for package in holders {
        process::run(cargo().env(asked, "1").args(["test", "--quiet", "--package", package]))?;
    }
    Ok(())
}
