//! Paused to disk: frozen, written, and the memory given back; and the way back to life.
//!
//! A sandbox that lies on disk is paused like any other, only deeper: the same may be asked of it, its clocks stand, and
//! ending it needs nobody inside. What is on disk is read back when somebody asks for it, and for no other reason: a
//! daemon that was restarted finds it lying there and leaves it.

use serde::{Deserialize, Serialize};

use super::event::{Effect, PauseTo};
use super::state::{Phase, Rung, State, Stopping, Then};
use super::step::Life;
use crate::{Cause, Exit};

/// A pause to disk: under way, reached, or being left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stow {
    /// How far it is.
    pub step: StowStep,
    /// Its agent went while it was being written. That is no news if the writing succeeds, for then nothing runs; if it
    /// fails, the sandbox is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// The steps of a pause to disk, in order. One that was paused in memory begins with the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StowStep {
    /// It is being frozen.
    Freezing,
    /// It is being written, and what ran it is then ended.
    Writing,
    /// It lies on disk; nothing of it runs.
    Lying,
    /// It is being read back.
    Reading,
}

impl State {
    /// Nothing of it runs, because it lies on disk.
    pub fn is_stowed(&self) -> bool {
        matches!(&self.phase, Phase::Stow(Stow { step: StowStep::Lying | StowStep::Reading, .. }))
    }
}

impl Life {
    pub(super) fn pause(&mut self, to: PauseTo) {
        match to {
            PauseTo::Memory => {
                self.note("pause requested");
                self.now.phase = Phase::Running { freezing: true };
                self.emit(Effect::Freeze);
            }
            PauseTo::Disk => {
                self.note("pause to disk requested");
                if matches!(self.now.phase, Phase::Paused { .. }) {
                    self.write_stow();
                } else {
                    self.freeze_to_stow();
                }
            }
        }
    }

    pub(super) fn freeze_to_stow(&mut self) {
        self.stow_at(StowStep::Freezing);
        self.emit(Effect::Freeze);
    }

    pub(super) fn write_stow(&mut self) {
        self.stow_at(StowStep::Writing);
        self.emit(Effect::Stow);
    }

    pub(super) fn read_stow(&mut self) {
        self.stow_at(StowStep::Reading);
        self.emit(Effect::Unstow);
    }

    fn stow_at(&mut self, step: StowStep) {
        self.now.phase = Phase::Stow(Stow { step, lost: None });
    }

    /// The step it is at, if it is being paused to disk or was.
    fn stow_step(&self) -> Option<StowStep> {
        if let Phase::Stow(stow) = &self.now.phase { Some(stow.step) } else { None }
    }

    pub(super) fn stowed(&mut self) {
        match &self.now.phase {
            Phase::Stow(Stow { step: StowStep::Writing, .. }) => {
                self.note("lies on disk");
                self.stow_at(StowStep::Lying);
            }
            // Given up a moment too late: there is nobody left to ask.
            Phase::Stopping(Stopping { rung: Rung::Thawing { .. }, cause }) => {
                let cause = cause.clone();
                self.note("lies on disk, and is ended there");
                self.destroy(cause, false);
            }
            _ => {}
        }
    }

    /// It is frozen still.
    pub(super) fn stow_failed(&mut self, detail: &str) {
        let Phase::Stow(Stow { step: StowStep::Writing, lost }) = &self.now.phase else { return };
        let lost = lost.clone();
        self.note(format!("pause to disk failed: {detail}"));
        match lost {
            Some(detail) => self.destroy(Cause::AgentLost { detail }, false),
            None => self.now.phase = Phase::Paused { thawing: false },
        }
    }

    pub(super) fn unstowed(&mut self) {
        if self.stow_step() != Some(StowStep::Reading) {
            return;
        }
        self.note("resumed from disk");
        self.start_clocks();
        self.now.phase = Phase::Running { freezing: false };
        self.emit(Effect::WatchAgent);
        if self.now.main_runs() {
            // What was taken of its output before is known by its place; the rest begins there.
            self.now.drained = false;
            self.emit(Effect::WatchMain);
        }
    }

    /// It lies on disk still.
    pub(super) fn unstow_failed(&mut self, detail: &str) {
        if self.stow_step() == Some(StowStep::Reading) {
            self.note(format!("resume from disk failed: {detail}"));
            self.stow_at(StowStep::Lying);
        }
    }

    pub(super) fn unstow_lost(&mut self, detail: String) {
        if self.stow_step() == Some(StowStep::Reading) {
            self.note(format!("resume from disk failed, and it is lost: {detail}"));
            self.destroy(Cause::Lost { detail }, false);
        }
    }

    /// The daemon was restarted, and the driver found it on disk.
    pub(super) fn found_stowed(&mut self) {
        let Phase::Recovering { then, .. } = self.now.phase.clone() else { return };
        self.note("found on disk");
        match then {
            Then::Stop(stopping) => return self.destroy(stopping.cause, false),
            Then::Start => return self.found_gone("it lies on disk, and was never up".to_owned()),
            Then::Pause | Then::Stow | Then::Lie => {
                if self.now.expires_at.is_some() {
                    self.stop_clocks();
                }
                self.stow_at(StowStep::Lying);
            }
            Then::Run | Then::Unstow => self.read_stow(),
        }
        self.ask_pending();
    }

    /// The agent went while the sandbox was being paused to disk, or lies there.
    pub(super) fn agent_lost_in_stow(&mut self, detail: String) {
        match &mut self.now.phase {
            Phase::Stow(Stow { step: StowStep::Freezing, .. }) => {
                self.note(format!("agent lost: {detail}"));
                self.destroy(Cause::AgentLost { detail }, false);
            }
            Phase::Stow(Stow { step: StowStep::Writing, lost }) => *lost = Some(detail),
            _ => {}
        }
    }

    /// The main process ended just before it was frozen, and the news is late.
    pub(super) fn main_exited_in_stow(&mut self, exit: Exit) {
        if matches!(self.stow_step(), Some(StowStep::Freezing | StowStep::Writing)) {
            self.end_main(exit);
            self.end_stow(Cause::Exited, None);
        }
    }

    /// Ends one that is being paused to disk, or lies there. While somebody inside may still be asked, it is in good order.
    pub(super) fn end_stow(&mut self, cause: Cause, ask: Option<super::state::Ask>) {
        match &self.now.phase {
            Phase::Stow(Stow { step: StowStep::Freezing, .. }) => self.thaw_then(cause, ask),
            Phase::Stow(Stow { step: StowStep::Writing, lost: None }) => {
                self.note("pause to disk given up");
                self.emit(Effect::AbandonStow);
                self.thaw_then(cause, ask);
            }
            _ => self.destroy(cause, false),
        }
    }
}
