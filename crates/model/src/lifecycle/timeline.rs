//! What happened to a sandbox and when, for the question "why".

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Most steps kept. A life has about fifteen; the rest is room for pauses and retries.
pub const STEPS_MAX: usize = 96;
/// Steps at the beginning that are never dropped: how it came up.
const STEPS_KEPT_FIRST: usize = 16;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When, the first time.
    pub at: Timestamp,
    /// What, as a fragment for people.
    pub what: String,
    /// How often in a row.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub times: u32,
    /// When, the last time, if it happened more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
}

fn once() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_once(times: &u32) -> bool {
    *times == 1
}

/// An ordered, timed and bounded list of steps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline {
    steps: Vec<Step>,
}

impl Timeline {
    /// Adds a step. One that repeats the last is counted; when full, the oldest after the beginning goes.
    pub fn note(&mut self, at: Timestamp, what: impl Into<String>) {
        let what = what.into();
        if let Some(last) = self.steps.last_mut()
            && last.what == what
        {
            last.times = last.times.saturating_add(1);
            last.last_at = Some(at);
            return;
        }
        if self.steps.len() >= STEPS_MAX {
            self.steps.remove(STEPS_KEPT_FIRST);
        }
        self.steps.push(Step { at, what, times: 1, last_at: None });
    }

    /// The steps, oldest first.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_is_bounded_and_keeps_its_beginning() {
        let mut timeline = Timeline::default();
        for i in 0..500 {
            timeline.note(Timestamp::from_millis(i), format!("step {i}"));
        }
        assert_eq!(timeline.steps().len(), STEPS_MAX);
        assert_eq!(timeline.steps()[0].what, "step 0");
        assert_eq!(timeline.steps()[STEPS_MAX - 1].what, "step 499");
    }

    #[test]
    fn repetitions_are_counted() {
        let mut timeline = Timeline::default();
        for i in 0..3 {
            timeline.note(Timestamp::from_millis(i), "again");
        }
        let [only] = timeline.steps() else { panic!("{timeline:?}") };
        assert_eq!((only.times, only.last_at), (3, Some(Timestamp::from_millis(2))));
    }
}
