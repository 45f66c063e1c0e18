//! What virtual machines are made of, and that not many run at once.

use std::fs::File;
use std::path::PathBuf;

use anyhow::Context;

use crate::exclusive::{HostLock, shared};
use crate::not_run::{is_root, not_run};
use crate::tools::{tool, tools_dir};

/// The virtual machine monitor of the tests.
const QEMU: &str = "qemu-system-x86_64";
/// Directory in the tools directory that `cargo xtask test` builds the guest in.
const GUEST: &str = "guest";
/// What a whole guest has.
const MANIFEST: &str = "guest.json";

/// A machine that can run virtual machines, and the right to. Nobody else's test runs one until it is dropped.
#[derive(Debug)]
pub struct Machines {
    /// QEMU.
    pub qemu: PathBuf,
    /// Directory of a built guest.
    pub guest: PathBuf,
    _turn: Option<(File, HostLock)>,
}

/// What a test of virtual machines stands on; `None`, and *not run*, if something is missing.
///
/// An emulated guest takes a processor for as long as it starts. Five at once on two processors take so long that no bound
/// on a wait means anything, so tests that run them take turns; tests without machines go on beside them.
pub fn machines(id: &str) -> anyhow::Result<Option<Machines>> {
    let Some(found) = machines_alone(id) else { return Ok(None) };
    let path = std::env::temp_dir().join("moat-test-machines.lock");
    let turn = File::options().create(true).append(true).open(&path);
    let turn = turn.with_context(|| format!("open {}", path.display()))?;
    // First the turn: whoever waits for it must not keep those waiting who want the whole host.
    turn.lock().context("wait for a turn to run virtual machines")?;
    Ok(Some(Machines { _turn: Some((turn, shared()?)), ..found }))
}

/// The same for whoever has the whole host ([`crate::exclusive`]): a turn is had already, and waiting for another's, who waits
/// for the host, would never end.
pub fn machines_alone(id: &str) -> Option<Machines> {
    if !is_root() {
        not_run(id, "needs root");
        return None;
    }
    let Some(qemu) = tool(QEMU) else {
        not_run(id, &format!("{QEMU} is not installed; `cargo xtask test` installs it"));
        return None;
    };
    let guest = tools_dir().join(GUEST);
    if !guest.join(MANIFEST).is_file() {
        not_run(id, &format!("{}: no guest; `cargo xtask test` builds it", guest.display()));
        return None;
    }
    Some(Machines { qemu, guest, _turn: None })
}
