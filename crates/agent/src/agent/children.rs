//! The one place that waits for children, and the certain end of all of them.
//!
//! A process id names a process only until it is reaped. As nothing else here reaps, and nothing runs beside this
//! thread, an id in the table is the process it was registered for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use moat_model::Exit;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::procfs;
use crate::sys::{Target, kill};

/// A process that was sent SIGKILL and is not stuck in the kernel is gone long before.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// A new child may have appeared without one having ended.
const KILL_AGAIN: Duration = Duration::from_millis(20);

/// Children by id, and who wants to know of their end.
#[derive(Debug)]
pub struct Children {
    waiting: RefCell<BTreeMap<i32, oneshot::Sender<Exit>>>,
    reaped: watch::Sender<u64>,
}

impl Default for Children {
    fn default() -> Self {
        Self { waiting: RefCell::default(), reaped: watch::Sender::new(0) }
    }
}

impl Children {
    /// Waits for a child. Call right after the fork, before anything is awaited.
    pub fn register(&self, pid: Pid) -> oneshot::Receiver<Exit> {
        let (ended, wait) = oneshot::channel();
        self.waiting.borrow_mut().insert(pid.as_raw_pid(), ended);
        wait
    }

    /// Signals a registered child; false if it has ended.
    pub fn signal(&self, pid: Pid, signal: i32) -> bool {
        self.waiting.borrow().contains_key(&pid.as_raw_pid()) && kill(Target::Process(pid), signal).is_ok()
    }

    /// Reaps for ever.
    pub async fn run(&self) -> std::io::Result<()> {
        let mut ended = signal(SignalKind::child())?;
        loop {
            self.reap();
            if ended.recv().await.is_none() {
                return Ok(());
            }
        }
    }

    fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(ended) = self.waiting.borrow_mut().remove(&pid.as_raw_pid()) {
                // Nobody may be interested any more.
                let _ = ended.send(exit_of(status));
            }
            self.reaped.send_modify(|n| *n += 1);
        }
    }

    /// Kills everything below this agent, until nothing is left or only what the kernel cannot kill.
    ///
    /// Children whose parent dies come to this process (as the first of its namespace, or as a subreaper), so killing
    /// direct children round after round reaches everything, whatever session or group it moved to.
    pub async fn kill_all(&self, own_namespace: bool) {
        let deadline = Instant::now() + KILL_DEADLINE;
        let mut reaped = self.reaped.subscribe();
        loop {
            reaped.mark_unchanged();
            self.reap();
            let left = if own_namespace { kill_namespace() } else { kill_children() };
            if !left || Instant::now() >= deadline {
                return;
            }
            let _ = timeout_at(deadline.min(Instant::now() + KILL_AGAIN), reaped.changed()).await;
        }
    }
}

/// Kills everything in the pid namespace but this process, its first; false if there was nothing.
fn kill_namespace() -> bool {
    crate::sys::signal_everything(libc::SIGKILL).is_ok()
}

/// Kills direct children; false if there were none.
fn kill_children() -> bool {
    let children = procfs::children();
    for pid in children.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
        // Not reaped yet, so it is the child it was.
        let _ = kill_process(pid, Signal::KILL);
    }
    !children.is_empty()
}

/// How a wait status is told.
pub fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::code(code),
        (None, Some(signal)) => Exit::signal(signal),
        (None, None) => Exit::unknown(),
    }
}
