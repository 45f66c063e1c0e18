//! Which values of a property instances have already: for `distinct_property`.

use crate::feasible::{Board, Distinct, Slot};
use crate::values::Values;

/// How many instances have which value of one property.
#[derive(Debug)]
pub(crate) struct Occupied {
    values: Values,
    counts: Vec<u32>,
    /// What each node of the board adds to that.
    of_slots: Vec<u32>,
    /// How many have it on nodes that take nothing new; empty if there are none.
    elsewhere: Vec<u32>,
}

impl Occupied {
    pub(crate) fn new(attribute: &str, board: &Board<'_>) -> Self {
        let values = Values::new(attribute, board);
        let counts = vec![0; values.len()];
        Self { values, counts, of_slots: vec![0; board.slots.len()], elsewhere: Vec::new() }
    }

    /// So many instances are on this node of the board now.
    pub(crate) fn set(&mut self, at: usize, instances: u32) {
        let (Some(value), Some(before)) = (self.values.of_slot(at), self.of_slots.get_mut(at)) else { return };
        if let Some(count) = self.counts.get_mut(value) {
            *count = count.saturating_sub(*before).saturating_add(instances);
        }
        *before = instances;
    }

    /// Counts what is on nodes that take nothing new. They are few: those that are being emptied, and those that do not answer.
    pub(crate) fn set_elsewhere(&mut self, board: &Board<'_>, distinct: &Distinct, group: &str) {
        self.elsewhere.clear();
        if board.elsewhere.is_empty() {
            return;
        }
        self.elsewhere.resize(self.values.len(), 0);
        for (node, _) in board.elsewhere.iter().filter(|(_, of)| distinct.of_job || of == group) {
            let value = self.values.of(node.facts()).and_then(|(_, number)| number);
            if let Some(count) = value.and_then(|value| self.elsewhere.get_mut(value)) {
                *count = count.saturating_add(1);
            }
        }
    }

    /// No other instance may be on this node: `most` have its value, or it has none.
    pub(crate) fn is_full(&self, at: usize, most: u32) -> bool {
        let Some(value) = self.values.of_slot(at) else { return true };
        let count = |counts: &[u32]| counts.get(value).copied().unwrap_or(0);
        let instances = count(&self.counts).saturating_add(count(&self.elsewhere));
        instances > 0 && instances >= most
    }
}

/// How many instances on this node count.
pub(crate) fn instances(slot: &Slot<'_>, distinct: &Distinct, group: &str) -> u32 {
    if distinct.of_job { slot.instances.values().sum() } else { slot.instances.get(group).copied().unwrap_or(0) }
}
