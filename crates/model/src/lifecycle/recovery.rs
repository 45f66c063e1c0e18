//! What becomes of a sandbox whose daemon was away, or whose actor broke.

use super::event::{Effect, MainSeen};
use super::state::{Phase, Rung, Stopping, Then};
use super::step::Life;
use super::stow::StowStep;
use crate::{Cause, Timestamp};

impl Life {
    pub(super) fn restarted(&mut self) {
        self.now.drained &= self.now.is_terminal();
        self.now.last_use = self.at;
        let then = match self.now.phase.clone() {
            Phase::Stopped { .. } | Phase::Failed { .. } => {
                if self.now.deleting {
                    self.emit(Effect::Forget);
                }
                return;
            }
            Phase::Pending | Phase::Preparing { .. } => {
                self.note("daemon restarted");
                let detail = "the daemon ended in the middle of it".to_owned();
                return self.destroy(Cause::StartFailed { stage: "create".to_owned(), detail }, false);
            }
            Phase::Starting { .. } => Then::Start,
            Phase::Running { freezing: false } | Phase::Paused { thawing: true } => Then::Run,
            Phase::Running { freezing: true } | Phase::Paused { thawing: false } => Then::Pause,
            Phase::Stow(stow) => match stow.step {
                StowStep::Freezing | StowStep::Writing => Then::Stow,
                StowStep::Lying => Then::Lie,
                StowStep::Reading => Then::Unstow,
            },
            Phase::Capturing(capturing) => {
                if capturing.from_paused {
                    Then::Pause
                } else {
                    Then::Run
                }
            }
            Phase::Recovering { then, .. } => then,
            Phase::Stopping(stopping) => match stopping.rung {
                Rung::Thawing { .. } | Rung::Asking(_) | Rung::Killing { .. } | Rung::Draining { .. } => {
                    Then::Stop(stopping)
                }
                _ => {
                    self.note("daemon restarted");
                    return self.take_up(stopping);
                }
            },
        };
        self.note("daemon restarted; looking for the sandbox");
        let deadline = self.at.plus(self.now.deadlines.recover);
        self.look(deadline, then, 0);
    }

    pub(super) fn look(&mut self, deadline: Timestamp, then: Then, failures: u32) {
        // Whatever was between running and frozen may be frozen. What lay on disk is not, and what was being read back from
        // there must not run before its driver has seen to it.
        let thaw = match &then {
            Then::Pause | Then::Run | Then::Stow => true,
            Then::Stop(stopping) => matches!(stopping.rung, Rung::Thawing { .. }),
            Then::Start | Then::Lie | Then::Unstow => false,
        };
        self.now.phase = Phase::Recovering { deadline, then, failures, retry_at: None };
        self.emit(Effect::Recover { thaw });
    }

    /// Goes on where nothing but repeating the last effect is needed.
    fn take_up(&mut self, stopping: Stopping) {
        match stopping.rung {
            Rung::Measuring => self.measure(stopping.cause),
            Rung::Releasing { .. } => self.release(stopping.cause),
            _ => self.destroy(stopping.cause, false),
        }
    }

    pub(super) fn adopted(&mut self, main: MainSeen) {
        let Phase::Recovering { then, .. } = self.now.phase.clone() else { return };
        self.note("found, and its agent answers");
        self.emit(Effect::WatchAgent);
        if let Then::Stop(stopping) = then {
            return self.adopted_ending(stopping, main);
        }
        match main {
            _ if self.now.spec.main.is_none() => self.after_agent(),
            MainSeen::Idle if self.now.main_started => {
                let detail = "the agent knows of no main process".to_owned();
                self.destroy(Cause::Lost { detail }, true);
                return;
            }
            // Its program comes after what else came with the claim, which is asked for again below.
            MainSeen::Idle if self.now.is_claiming() => self.now.phase = Phase::Running { freezing: false },
            MainSeen::Idle => return self.after_agent(),
            MainSeen::Running => self.run_main(),
            MainSeen::Exited(exit) => {
                self.run_main();
                return self.main_exited(exit);
            }
        }
        self.ask_pending();
        match then {
            Then::Pause => {
                self.now.phase = Phase::Running { freezing: true };
                self.emit(Effect::Freeze);
            }
            Then::Stow | Then::Lie => self.freeze_to_stow(),
            _ => {}
        }
    }

    /// Asks again for what was asked for and is not in force.
    pub(super) fn ask_pending(&mut self) {
        if let Some(resources) = self.now.retuning.clone() {
            self.retune(resources);
        } else {
            self.ask_rewire();
            self.ask_relimit();
        }
    }

    fn adopted_ending(&mut self, stopping: Stopping, main: MainSeen) {
        let ask = match stopping.rung {
            Rung::Thawing { ask } => ask,
            Rung::Asking(ask) => Some(ask),
            _ => None,
        };
        if self.now.spec.main.is_some() && main != MainSeen::Idle {
            self.now.main_started = true;
            self.emit(Effect::WatchMain);
        }
        if let MainSeen::Exited(exit) = main
            && self.now.main_runs()
        {
            self.end_main(exit);
        }
        self.end_in_order(stopping.cause, ask);
    }

    pub(super) fn found_gone(&mut self, detail: String) {
        let Phase::Recovering { then, .. } = self.now.phase.clone() else { return };
        self.note(format!("not found: {detail}"));
        let cause = match then {
            Then::Stop(stopping) => stopping.cause,
            Then::Start if !self.now.main_started => Cause::StartFailed { stage: "start".to_owned(), detail },
            _ => Cause::Lost { detail },
        };
        self.destroy(cause, false);
    }

    pub(super) fn recover_failed(&mut self, detail: String) {
        let Phase::Recovering { deadline, then, failures, retry_at: None } = self.now.phase.clone() else { return };
        if self.at >= deadline {
            return self.found_gone(detail);
        }
        self.note(format!("could not look: {detail}"));
        let failures = failures.saturating_add(1);
        let retry_at = Some(self.at.plus(self.now.deadlines.retry_after(failures)).min(deadline));
        self.now.phase = Phase::Recovering { deadline, then, failures, retry_at };
    }

    pub(super) fn actor_broken(&mut self, detail: String) {
        if self.now.is_terminal() {
            return;
        }
        self.note(format!("internal error: {detail}"));
        match self.now.phase.clone() {
            Phase::Stopping(stopping) => self.take_up(stopping),
            _ => self.destroy(Cause::Lost { detail: format!("internal error: {detail}") }, false),
        }
    }
}
