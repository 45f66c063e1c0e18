//! How long each thing may take. Kept in the sandbox's state, so that every decision about time can be replayed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds of every wait in a sandbox's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deadlines {
    /// `create` of the driver. A loaded machine starting fifty at once needs seconds; more than this is a hang.
    pub create: Duration,
    /// From `start` of the driver until the agent answers.
    pub agent: Duration,
    /// Until the agent says that the main process runs.
    pub main: Duration,
    /// From SIGKILL through the agent until the main process is gone; after that the driver kills from outside.
    pub kill: Duration,
    /// From the end of the main process until its output is taken: a child may hold the pipe open for ever.
    pub drain: Duration,
    /// For the agent to end everything and itself when asked to.
    pub shutdown: Duration,
    /// One driver call that ends or measures something: kill, usage, freeze, thaw, one release.
    pub effect: Duration,
    /// A capture. It writes everything a sandbox changed, gigabytes perhaps, while the sandbox stands still.
    pub capture: Duration,
    /// First wait before a failed kill or release is tried again; doubles each time.
    pub retry_initial: Duration,
    /// Longest such wait.
    pub retry_max: Duration,
    /// After a restart of the daemon, for the driver to find the sandbox and its agent to answer.
    pub recover: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            create: Duration::from_secs(30),
            agent: Duration::from_secs(15),
            main: Duration::from_secs(15),
            kill: Duration::from_secs(2),
            drain: Duration::from_secs(5),
            shutdown: Duration::from_millis(500),
            effect: Duration::from_secs(10),
            capture: Duration::from_secs(600),
            retry_initial: Duration::from_millis(100),
            retry_max: Duration::from_secs(30),
            recover: Duration::from_secs(5),
        }
    }
}

/// How soon an agent of a virtual machine answers at the latest: it has a kernel of its own to get through, perhaps on a
/// processor that is emulated, on a host with many like it. Seconds at most where nothing else runs.
const MACHINE_ANSWERS: Duration = Duration::from_secs(60);

impl Deadlines {
    /// The same for a virtual machine; what is longer already stays. How long one boots depends on what boots it, and is the
    /// operator's to say.
    #[must_use]
    pub fn of_a_machine(self) -> Self {
        Self {
            create: self.create.max(MACHINE_ANSWERS),
            main: self.main.max(MACHINE_ANSWERS),
            kill: self.kill.max(MACHINE_ANSWERS / 6),
            drain: self.drain.max(MACHINE_ANSWERS / 6),
            effect: self.effect.max(MACHINE_ANSWERS),
            recover: self.recover.max(MACHINE_ANSWERS),
            ..self
        }
    }

    /// How long to wait after the failure number `failures` (from 1) in a row.
    pub fn retry_after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        self.retry_initial.saturating_mul(1 << doublings).min(self.retry_max)
    }
}
