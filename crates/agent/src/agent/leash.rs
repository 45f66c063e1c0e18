//! What runs inside runs only as long as somebody says that it may: when nobody has for too long, it stands still.
//!
//! The daemon stops what it runs itself when nobody can know of its node any more. This is for when the daemon is gone too:
//! what it left would run on beside what is placed in its stead. Stopped is everything with SIGSTOP, until all of it is seen
//! to stand still; what does not stand still soon, because processes inside wake each other, is killed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::{Agent, procfs};
use crate::sys::{Target, kill, signal_everything, since_boot};

/// How often the clock is looked at: it goes on while the machine sleeps, and timers do not.
const LOOK: Duration = Duration::from_secs(1);
/// How often is looked for what was started while everything stands still.
const LOOK_STILL: Duration = Duration::from_millis(250);
/// What runs on for longer than this, although it was told to stop, is killed.
const STOP_WITHIN: Duration = Duration::from_millis(500);
/// Between two looks whether everything stands still; it takes less than a millisecond.
const AGAIN: Duration = Duration::from_millis(2);

/// Until when what is inside may run.
#[derive(Debug, Default)]
pub struct Leash {
    /// Since the machine was started. Nothing was said: for ever.
    until: Cell<Option<Duration>>,
    /// Everything was stopped.
    still: Cell<bool>,
    /// What stood still already when it was, and stays so.
    before: RefCell<BTreeSet<u32>>,
    said: Notify,
}

impl Leash {
    /// Sets the moment, never an earlier one, and lets what stands still go on if it is to come.
    pub fn lengthen(&self, agent: &Agent, other_kernel: bool, until_ms: u64, within_ms: u64) {
        let until = if other_kernel {
            since_boot().saturating_add(Duration::from_millis(within_ms))
        } else {
            Duration::from_millis(until_ms)
        };
        if self.until.get().is_none_or(|old| old < until) {
            self.until.set(Some(until));
        }
        if self.still.get() && !self.is_over() {
            self.still.set(false);
            go_on(agent.own_namespace, &self.before.take());
        }
        self.said.notify_one();
    }

    /// What may still be used of it; `None`: all the time there is.
    fn left(&self) -> Option<Duration> {
        Some(self.until.get()?.saturating_sub(since_boot()))
    }

    fn is_over(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

/// Stops everything whenever the moment has come. Never returns.
pub async fn keep(agent: &Agent) {
    let leash = &agent.leash;
    loop {
        match leash.left() {
            None => leash.said.notified().await,
            Some(left) if left.is_zero() => {
                stop(agent).await;
                let _ = timeout(LOOK_STILL, leash.said.notified()).await;
            }
            Some(left) => {
                let _ = timeout(left.min(LOOK), leash.said.notified()).await;
            }
        }
    }
}

/// Returns when everything stands still, was killed, or may go on.
async fn stop(agent: &Agent) {
    let (leash, own_namespace) = (&agent.leash, agent.own_namespace);
    if !leash.still.replace(true) {
        let all = procfs::others(own_namespace);
        leash.before.replace(all.into_iter().filter(|(_, stat)| stat.is_stopped()).map(|(pid, _)| pid).collect());
    }
    let begun = Instant::now();
    let mut still = 0;
    // Twice, for what was about to wake another when it was stopped itself.
    while still < 2 {
        signal_all(own_namespace, Signal::STOP, &BTreeSet::new());
        still = if procfs::others(own_namespace).values().all(|stat| stat.is_still()) { still + 1 } else { 0 };
        if begun.elapsed() > STOP_WITHIN {
            agent.children.kill_all(own_namespace).await;
            return;
        }
        if still == 0 {
            sleep(AGAIN).await;
        }
        if !leash.still.get() {
            return;
        }
    }
}

fn go_on(own_namespace: bool, but: &BTreeSet<u32>) {
    signal_all(own_namespace, Signal::CONT, but);
}

/// Signals everything but this process and those named.
fn signal_all(own_namespace: bool, signal: Signal, but: &BTreeSet<u32>) {
    if own_namespace && but.is_empty() {
        // All at once, those that are being born too. There may be none.
        let _ = signal_everything(signal.as_raw());
        return;
    }
    for (number, stat) in procfs::others(own_namespace) {
        let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else { continue };
        if but.contains(&number) {
            continue;
        }
        if own_namespace {
            let _ = kill(Target::Process(pid), signal.as_raw());
        } else if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
            // On the host an id may be somebody else's by now, but not while its first holder is held.
            && procfs::is_the_same(number, stat)
        {
            let _ = pidfd_send_signal(process, signal);
        }
    }
}
