//! Stopping a group from being scheduled.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::tree::{Hierarchy, check_name, read, write};
use super::{CgroupError, Result};

/// How long the kernel may take to stop every process: it waits for system calls that cannot be interrupted.
const FREEZE_WAIT: Duration = Duration::from_secs(10);
/// Pause between two looks; freezing a handful of processes takes 0.1 ms.
const PAUSE: Duration = Duration::from_millis(1);

impl Hierarchy {
    /// Stops every process of the group; returns when none runs any more. On failure the group is thawed again.
    pub async fn freeze(&self, name: &str) -> Result<()> {
        let (file, frozen, _) = self.freezer_of(name)?;
        write(&file, frozen).map_err(CgroupError::io("freezing", &file))?;
        let deadline = Instant::now() + FREEZE_WAIT;
        while !is_frozen(&file)? {
            if Instant::now() >= deadline {
                self.thaw(name)?;
                return Err(CgroupError::Deadline {
                    doing: "freezing",
                    name: name.to_owned(),
                    seconds: FREEZE_WAIT.as_secs(),
                    left: "a process does not stop".to_owned(),
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Lets the group go on.
    pub fn thaw(&self, name: &str) -> Result<()> {
        let (file, _, thawed) = self.freezer_of(name)?;
        write(&file, thawed).map_err(CgroupError::io("thawing", file))
    }

    /// Whether the group is stopped now.
    pub fn is_frozen(&self, name: &str) -> Result<bool> {
        let (file, ..) = self.freezer_of(name)?;
        is_frozen(&file)
    }

    fn freezer_of(&self, name: &str) -> Result<(PathBuf, &'static str, &'static str)> {
        check_name(name)?;
        self.freezer_file(name).ok_or_else(|| CgroupError::Unsupported {
            field: "pause",
            why: format!(
                "cgroup {name} has no freezer here, or is gone: version 2, or version 1's freezer, must be mounted"
            ),
        })
    }
}

/// Version 1 tells in the file that is written to, version 2 in `cgroup.events`.
fn is_frozen(file: &Path) -> Result<bool> {
    if file.ends_with("freezer.state") {
        return Ok(read(file)?.trim() == "FROZEN");
    }
    let events = read(&file.with_file_name("cgroup.events"))?;
    Ok(events.lines().any(|line| line.trim() == "frozen 1"))
}
