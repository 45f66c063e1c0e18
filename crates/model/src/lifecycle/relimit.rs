//! Other limits for a sandbox that lives.
//!
//! As with its network, what is asked for is written down beside what is in force, and takes its place when it is in force. A
//! daemon that died in between asks for it again. If it fails, the old limits stay on record and were put back as far as they
//! were asked for; the sandbox goes on.

use std::sync::Arc;

use super::step::Life;
use crate::spec::Resources;

impl Life {
    pub(super) fn relimit(&mut self, wanted: Resources) {
        self.note("other limits requested");
        self.now.relimiting = Some(wanted);
        self.ask_relimit();
    }

    /// Asks for the limits that are not in force yet, if there are some.
    pub(super) fn ask_relimit(&mut self) {
        if let Some(resources) = self.now.relimiting.clone() {
            self.emit(super::Effect::Retune(resources));
        }
    }

    pub(super) fn relimit_done(&mut self) {
        let Some(wanted) = self.now.relimiting.take() else { return };
        let mut spec = (*self.now.spec).clone();
        spec.resources = wanted.over(&spec.resources);
        self.now.spec = Arc::new(spec);
        self.note("other limits are in force");
    }

    pub(super) fn relimit_failed(&mut self, detail: &str) {
        if self.now.relimiting.take().is_some() {
            self.note(format!("limits could not be changed, and stay as they were: {detail}"));
        }
    }
}
