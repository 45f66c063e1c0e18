//! The clocks of a sandbox: its life span, which stands while it is frozen, and its time without use.
//!
//! A member of a pool has neither: its time begins with its claim.

use std::time::Duration;

use super::event::Effect;
use super::state::{CaptureStep, Capturing, Phase, State, Then};
use super::step::Life;
use super::stow::{Stow, StowStep};
use crate::spec::{OnTimeout, Owner};
use crate::{Cause, TimeLimit, Timestamp};

impl State {
    /// When a time limit passes next, and which; for a sandbox that runs.
    pub fn limit(&self) -> Option<(Timestamp, TimeLimit)> {
        // One that was claimed with a program has no time that could pass before that runs.
        if self.spec.origin.owner == Owner::Pool || self.expired.is_some() || self.awaits_program() {
            return None;
        }
        let idle = self.spec.idle_timeout.map(|span| (self.last_use.plus(span), TimeLimit::Idle));
        let absolute = self.expires_at.map(|at| (at, TimeLimit::Absolute));
        absolute.into_iter().chain(idle).min_by_key(|(at, _)| *at)
    }

    /// Its life span is not being used up just now.
    fn clock_stands(&self) -> bool {
        let frozen = match &self.phase {
            Phase::Paused { .. } => true,
            Phase::Recovering { then: Then::Pause | Then::Stow | Then::Lie | Then::Unstow, .. } => true,
            Phase::Stow(Stow { step, .. }) => *step != StowStep::Freezing,
            Phase::Capturing(Capturing { step, .. }) => *step != CaptureStep::Freezing,
            _ => false,
        };
        frozen || self.remaining.is_some()
    }
}

impl Life {
    /// It can be used, for the first time or again.
    pub(super) fn ready(&mut self) {
        if self.now.started_at.is_none() {
            self.now.started_at = Some(self.at);
            self.now.ready_at = Some(self.at);
            self.begin_clocks();
        } else {
            self.start_clocks();
        }
    }

    /// Its time begins.
    pub(super) fn begin_clocks(&mut self) {
        self.now.last_use = self.at;
        if self.now.spec.origin.owner != Owner::Pool {
            self.now.expires_at = self.now.spec.timeout.map(|span| self.at.plus(span));
        }
    }

    /// It runs again: what was left of its life span is left from now on.
    pub(super) fn start_clocks(&mut self) {
        self.now.last_use = self.at;
        if let Some(left) = self.now.remaining.take() {
            self.now.expires_at = Some(self.at.plus(left));
        }
    }

    /// Nothing in it runs any more: what is left of its life span is kept. One paused for a time limit has none.
    pub(super) fn stop_clocks(&mut self) {
        let ends = self.now.expires_at.take();
        if self.now.expired.is_some() {
            self.now.remaining = None;
        } else if let Some(ends) = ends {
            self.now.remaining = Some(ends.since(self.at));
        }
    }

    pub(super) fn limit_passed(&mut self, freezing: bool) {
        let Some((_, limit)) = self.now.limit() else { return };
        self.note(format!("{limit} reached"));
        if self.now.spec.on_timeout == OnTimeout::Kill {
            return self.bring_down(Cause::TimedOut { limit }, None);
        }
        self.now.expired = Some(limit);
        if !freezing {
            self.now.phase = Phase::Running { freezing: true };
            self.emit(Effect::Freeze);
        }
    }

    pub(super) fn keep_alive(&mut self, span: Option<Duration>, shorten: bool) {
        self.now.last_use = self.at;
        let Some(span) = span.or(self.now.spec.timeout) else { return };
        let standing = self.now.clock_stands();
        let has = if standing { self.now.remaining } else { self.now.expires_at.map(|at| at.since(self.at)) };
        // Compared to the millisecond a timestamp has: a span that is not longer changes nothing.
        if has.is_some_and(|has| span == has || span < has && !shorten) {
            return;
        }
        self.note(format!("life span set to {} ms", span.as_millis()));
        if standing {
            self.now.expires_at = None;
            self.now.remaining = Some(span);
        } else {
            self.now.expires_at = Some(self.at.plus(span));
        }
    }

    pub(super) fn resume(&mut self, timeout: Option<Duration>) {
        self.note("resume requested");
        match timeout {
            _ if self.now.spec.origin.owner == Owner::Pool => {}
            Some(span) => self.now.remaining = Some(span),
            None if self.now.expired.is_some() => self.now.remaining = self.now.spec.timeout,
            None => {}
        }
        self.now.expired = None;
        if self.now.is_stowed() {
            return self.read_stow();
        }
        self.now.phase = Phase::Paused { thawing: true };
        self.emit(Effect::Thaw);
    }

    pub(super) fn frozen(&mut self) {
        match &self.now.phase {
            Phase::Running { freezing: true } => {
                self.note("paused");
                self.stop_clocks();
                self.now.phase = Phase::Paused { thawing: false };
            }
            Phase::Stow(Stow { step: StowStep::Freezing, .. }) => {
                self.stop_clocks();
                self.write_stow();
            }
            Phase::Capturing(capturing) if capturing.step == CaptureStep::Freezing => {
                let capturing = capturing.clone();
                self.stop_clocks();
                self.write_capture(capturing);
            }
            _ => {}
        }
    }

    pub(super) fn freeze_failed(&mut self, detail: &str) {
        match &self.now.phase {
            Phase::Running { freezing: true } => {
                self.note(format!("pause failed: {detail}"));
                if let Some(limit) = self.now.expired {
                    // Half of it may be frozen.
                    return self.thaw_then(Cause::TimedOut { limit }, None);
                }
            }
            Phase::Stow(Stow { step: StowStep::Freezing, .. }) => {
                self.note(format!("pause to disk failed: freeze: {detail}"));
            }
            Phase::Capturing(capturing) if capturing.step == CaptureStep::Freezing => {
                self.note(format!("capture failed: freeze: {detail}"));
            }
            _ => return,
        }
        self.now.phase = Phase::Running { freezing: false };
        // Half of it may be frozen.
        self.emit(Effect::Thaw);
    }

    pub(super) fn thawed(&mut self) {
        match &self.now.phase {
            Phase::Paused { thawing: true } => {
                self.note("resumed");
                self.start_clocks();
                self.now.phase = Phase::Running { freezing: false };
            }
            Phase::Capturing(capturing) if capturing.step == CaptureStep::Thawing => {
                self.start_clocks();
                self.now.phase = Phase::Running { freezing: false };
            }
            Phase::Stopping(stopping) => {
                let stopping = stopping.clone();
                self.thawed_to_end(stopping);
            }
            _ => {}
        }
    }

    pub(super) fn thaw_failed(&mut self, detail: &str) {
        match &self.now.phase {
            Phase::Paused { thawing: true } => self.note(format!("resume failed: {detail}")),
            // Nobody asked for a pause; but it is one, and may be resumed like any other.
            Phase::Capturing(capturing) if capturing.step == CaptureStep::Thawing => {
                self.note(format!("could not go on after the capture, and stays paused: {detail}"));
            }
            Phase::Stopping(stopping) => {
                let stopping = stopping.clone();
                return self.not_thawed_to_end(stopping, detail);
            }
            _ => return,
        }
        self.now.phase = Phase::Paused { thawing: false };
    }
}
