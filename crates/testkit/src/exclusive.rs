//! Serialising tests that look at, or load, the whole host.

use std::fs::File;

use anyhow::Context;

/// Held while a test needs the host in a certain way; released when dropped.
#[derive(Debug)]
pub struct HostLock(#[expect(dead_code, reason = "the lock lives as long as the open file")] File);

/// The lock is the machine's, not the checkout's: what it guards is too.
fn lock_file() -> anyhow::Result<File> {
    let path = std::env::temp_dir().join("moat-tests.lock");
    File::options().create(true).append(true).open(&path).with_context(|| format!("open {}", path.display()))
}

/// Waits until no other test of this host holds the lock in any way: for leak audits, load and measurements.
pub fn exclusive() -> anyhow::Result<HostLock> {
    let file = lock_file()?;
    file.lock().context("lock the host for one test")?;
    Ok(HostLock(file))
}

/// Waits until no test holds the host exclusively: for tests that make sandboxes and can run beside each other.
pub fn shared() -> anyhow::Result<HostLock> {
    let file = lock_file()?;
    file.lock_shared().context("share the host among tests")?;
    Ok(HostLock(file))
}
