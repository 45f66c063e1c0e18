//! Keeping what others can be made from, the files of a sandbox or the whole machine: frozen, written, let go on.
//!
//! A capture never changes what others see of the phase: a running sandbox stays running, a paused one paused.

use std::path::PathBuf;

use super::event::{CaptureKind, Effect};
use super::state::{CaptureStep, Capturing, Phase};
use super::step::Life;

impl Life {
    pub(super) fn capture(&mut self, kind: CaptureKind, into: PathBuf) {
        self.note(match kind {
            CaptureKind::Files => "capture requested",
            CaptureKind::Machine => "capture of the whole machine requested",
        });
        let from_paused = matches!(self.now.phase, Phase::Paused { .. });
        let capturing = Capturing { step: CaptureStep::Freezing, from_paused, kind, into };
        if from_paused {
            return self.write_capture(capturing);
        }
        self.now.phase = Phase::Capturing(capturing);
        self.emit(Effect::Freeze);
    }

    pub(super) fn write_capture(&mut self, capturing: Capturing) {
        self.emit(Effect::Capture { kind: capturing.kind, into: capturing.into.clone() });
        self.now.phase = Phase::Capturing(Capturing { step: CaptureStep::Writing, ..capturing });
    }

    /// The driver has done with it, one way or the other.
    pub(super) fn capture_written(&mut self, how: &str) {
        let Phase::Capturing(capturing) = &self.now.phase else { return };
        if capturing.step != CaptureStep::Writing {
            return;
        }
        let capturing = capturing.clone();
        self.note(how);
        if capturing.from_paused {
            self.now.phase = Phase::Paused { thawing: false };
        } else {
            self.now.phase = Phase::Capturing(Capturing { step: CaptureStep::Thawing, ..capturing });
            self.emit(Effect::Thaw);
        }
    }

    /// The sandbox is being ended.
    pub(super) fn abandon_capture(&mut self) {
        if let Phase::Capturing(Capturing { step: CaptureStep::Writing, .. }) = &self.now.phase {
            self.note("capture given up");
            self.emit(Effect::AbandonCapture);
        }
    }
}
