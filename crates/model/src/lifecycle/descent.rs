//! The way down: the ladder of [`Rung`]s from asking a main process to the last lease released.

use super::event::Effect;
use super::state::{Ask, Phase, Rung, Stopping, Then};
use super::step::Life;
use crate::spec::{Signal, StopSpec};
use crate::{Cause, Exit, Resource};

impl Life {
    fn stopping(&mut self, cause: Cause, rung: Rung) {
        self.now.phase = Phase::Stopping(Stopping { cause, rung });
    }

    /// Begins, or hastens, the end: politely if `how` says how to ask. Callers have checked that it may be done.
    pub(super) fn bring_down(&mut self, cause: Cause, how: Option<StopSpec>) {
        let ask = how
            .filter(|how| !how.grace.is_zero())
            .map(|how| Ask { signal: how.signal, deadline: self.at.plus(how.grace) });
        match self.now.phase.clone() {
            Phase::Pending => self.release(cause),
            Phase::Preparing { .. } | Phase::Starting { .. } => self.abandon(cause),
            Phase::Running { freezing: false } => self.end_in_order(cause, ask),
            // Another may run in its stead: nothing of it is to run again, not even on the way to its death.
            Phase::Running { freezing: true } | Phase::Paused { .. } if ask.is_none() && self.now.spec.leashed => {
                self.destroy(cause, false);
            }
            Phase::Running { freezing: true } | Phase::Paused { .. } => self.thaw_then(cause, ask),
            Phase::Capturing(_) => {
                self.abandon_capture();
                self.thaw_then(cause, ask);
            }
            Phase::Stow(_) => self.end_stow(cause, ask),
            Phase::Stopping(stopping) => self.hasten(stopping, cause, ask),
            Phase::Recovering { deadline, then, failures, retry_at } => {
                let then = Then::Stop(redirect(then, cause, ask));
                self.now.phase = Phase::Recovering { deadline, then, failures, retry_at };
            }
            Phase::Stopped { .. } | Phase::Failed { .. } => {}
        }
    }

    /// A stop under way gets less time, or is turned into a kill.
    fn hasten(&mut self, stopping: Stopping, cause: Cause, ask: Option<Ask>) {
        let cause = if cause == Cause::Stopped { stopping.cause } else { cause };
        match (stopping.rung, ask) {
            (Rung::Thawing { ask: Some(_) }, ask) => self.stopping(cause, Rung::Thawing { ask }),
            // The signal first sent stands; only the clock is shortened.
            (Rung::Asking(old), Some(new)) => self.stopping(cause, Rung::Asking(Ask { signal: old.signal, ..new })),
            (Rung::Asking(_), None) => self.kill_main(cause),
            _ => {}
        }
    }

    /// A start under way is given up.
    pub(super) fn abandon(&mut self, cause: Cause) {
        self.stopping(cause, Rung::Settling);
        self.emit(Effect::AbandonStart);
    }

    pub(super) fn thaw_then(&mut self, cause: Cause, ask: Option<Ask>) {
        self.stopping(cause, Rung::Thawing { ask });
        self.emit(Effect::Thaw);
    }

    pub(super) fn thawed_to_end(&mut self, Stopping { cause, rung }: Stopping) {
        if let Rung::Thawing { ask } = rung {
            self.note("thawed to be ended");
            self.end_in_order(cause, ask);
        }
    }

    pub(super) fn not_thawed_to_end(&mut self, Stopping { cause, rung }: Stopping, detail: &str) {
        if let Rung::Thawing { .. } = rung {
            self.note(format!("thaw failed: {detail}"));
            self.destroy(cause, false);
        }
    }

    /// Ends what is not frozen: the main process by asking or killing, then its output, then the rest.
    pub(super) fn end_in_order(&mut self, cause: Cause, ask: Option<Ask>) {
        if !self.now.main_started {
            return self.destroy(cause, true);
        }
        if !self.now.main_runs() {
            return self.drain(cause);
        }
        match ask {
            Some(ask) if ask.deadline > self.at => {
                self.stopping(cause, Rung::Asking(ask));
                self.emit(Effect::Signal(ask.signal));
            }
            Some(_) => self.kill_main(Cause::StopTimedOut),
            None => self.kill_main(cause),
        }
    }

    fn kill_main(&mut self, cause: Cause) {
        let deadline = self.at.plus(self.now.deadlines.kill);
        self.stopping(cause, Rung::Killing { deadline });
        self.note("killing the main process");
        self.emit(Effect::Signal(Signal::KILL));
    }

    pub(super) fn drain(&mut self, cause: Cause) {
        if self.now.drained {
            return self.destroy(cause, true);
        }
        let deadline = self.at.plus(self.now.deadlines.drain);
        self.stopping(cause, Rung::Draining { deadline });
    }

    /// Ends everything. Without a record of the driver there is nothing to kill by: releasing the leases does it.
    pub(super) fn destroy(&mut self, cause: Cause, polite: bool) {
        if !self.now.created {
            return self.release(cause);
        }
        self.stopping(cause, Rung::Destroying { polite, failures: 0, retry_at: None });
        self.emit(Effect::Destroy { polite });
    }

    pub(super) fn destroyed(&mut self) {
        if let Phase::Stopping(Stopping { rung: Rung::Destroying { .. }, cause }) = &self.now.phase {
            let cause = cause.clone();
            self.note("nothing runs any more");
            self.measure(cause);
        }
    }

    pub(super) fn destroy_failed(&mut self, detail: &str) {
        if let Phase::Stopping(Stopping { rung: Rung::Destroying { polite, failures, retry_at: None }, cause }) =
            &self.now.phase
        {
            let (polite, failures, cause) = (*polite, failures.saturating_add(1), cause.clone());
            self.note(format!("kill failed, will be tried again: {detail}"));
            let retry_at = Some(self.at.plus(self.now.deadlines.retry_after(failures)));
            self.stopping(cause, Rung::Destroying { polite, failures, retry_at });
        }
    }

    pub(super) fn measure(&mut self, cause: Cause) {
        self.stopping(cause, Rung::Measuring);
        self.emit(Effect::Measure);
    }

    /// The kernel's count decides whether a death by SIGKILL that nobody here asked for was for memory.
    pub(super) fn measured(&mut self, oom_kills: Option<u64>) {
        let Phase::Stopping(Stopping { rung: Rung::Measuring, cause }) = &self.now.phase else { return };
        let mut cause = cause.clone();
        let counted = oom_kills.is_some_and(|kills| kills > 0);
        let told = self.now.exit.is_some_and(|exit| exit.oom_killed);
        // A shell reports the death of its child by SIGKILL as 137.
        let killed = self.now.exit.is_some_and(|exit| exit.signal == Some(9) || exit.code == 137);
        let for_memory = match cause {
            Cause::Exited => told || counted && killed,
            Cause::AgentLost { .. } => counted,
            _ => false,
        };
        if for_memory {
            self.note("killed by the kernel for memory");
            let exit = self.now.exit.unwrap_or(Exit::unknown());
            self.now.exit = Some(Exit { oom_killed: true, ..exit });
            cause = Cause::OutOfMemory;
        }
        self.release(cause);
    }

    /// Releases the last lease, or ends if there is none.
    pub(super) fn release(&mut self, cause: Cause) {
        let Some(lease) = self.now.leases.last() else { return self.finish(cause) };
        let resource = lease.resource.clone();
        self.stopping(cause, Rung::Releasing { failures: 0, retry_at: None });
        self.emit(Effect::Release(resource));
    }

    pub(super) fn released(&mut self, resource: &Resource) {
        if let Some((cause, _)) = self.releasing(resource) {
            self.now.leases.pop();
            self.release(cause);
        }
    }

    pub(super) fn release_failed(&mut self, resource: &Resource, detail: &str) {
        if let Some((cause, failures)) = self.releasing(resource) {
            let failures = failures.saturating_add(1);
            self.note(format!("release failed, will be tried again: {detail}"));
            let retry_at = Some(self.at.plus(self.now.deadlines.retry_after(failures)));
            self.stopping(cause, Rung::Releasing { failures, retry_at });
        }
    }

    /// Cause and failures so far, if this resource is the one being released just now.
    fn releasing(&self, resource: &Resource) -> Option<(Cause, u32)> {
        match &self.now.phase {
            Phase::Stopping(Stopping { rung: Rung::Releasing { failures, retry_at: None }, cause })
                if self.now.leases.last().is_some_and(|lease| lease.resource == *resource) =>
            {
                Some((cause.clone(), *failures))
            }
            _ => None,
        }
    }

    fn finish(&mut self, cause: Cause) {
        if self.now.main_started {
            self.now.exit.get_or_insert(Exit::unknown());
        }
        self.now.ended_at = Some(self.at);
        self.now.retuning = None;
        self.now.relimiting = None;
        self.now.rewiring = None;
        self.note(cause.message());
        self.now.phase = match cause {
            Cause::AgentLost { .. } | Cause::Lost { .. } | Cause::StartFailed { .. } => Phase::Failed { cause },
            _ => Phase::Stopped { cause },
        };
        if self.now.deleting {
            self.emit(Effect::Forget);
        }
    }

    /// The deadline of a rung, or the wait before a retry, is over.
    pub(super) fn rung_over(&mut self, Stopping { cause, rung }: Stopping) {
        match rung {
            Rung::Asking(_) => {
                self.note("did not stop in time");
                self.kill_main(if cause == Cause::Stopped { Cause::StopTimedOut } else { cause });
            }
            Rung::Killing { .. } => {
                self.note("main process outlived its kill; ending everything from outside");
                self.destroy(cause, false);
            }
            Rung::Draining { .. } => {
                self.note("output not at its end in time; the rest is given up");
                self.destroy(cause, true);
            }
            Rung::Destroying { polite, failures, .. } => {
                self.stopping(cause, Rung::Destroying { polite, failures, retry_at: None });
                self.emit(Effect::Destroy { polite });
            }
            Rung::Releasing { failures, .. } => {
                if let Some(lease) = self.now.leases.last() {
                    let resource = lease.resource.clone();
                    self.stopping(cause, Rung::Releasing { failures, retry_at: None });
                    self.emit(Effect::Release(resource));
                }
            }
            Rung::Settling | Rung::Thawing { .. } | Rung::Measuring => {}
        }
    }
}

/// What a sandbox that is being looked for will be ended by.
fn redirect(then: Then, cause: Cause, ask: Option<Ask>) -> Stopping {
    match then {
        Then::Stop(Stopping { cause: old, rung }) => {
            let cause = if cause == Cause::Stopped { old } else { cause };
            let rung = match (rung, ask) {
                (Rung::Asking(old), Some(new)) => Rung::Asking(Ask { signal: old.signal, ..new }),
                (_, ask) => Rung::Thawing { ask },
            };
            Stopping { cause, rung }
        }
        // It may be frozen, so whatever else it thaws first.
        _ => Stopping { cause, rung: Rung::Thawing { ask } },
    }
}
