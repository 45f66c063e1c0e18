//! Values of an attribute, as numbers. Thousands of nodes are asked for each instance that is placed, so each says what it has once
//! for a plan.

use std::borrow::Cow;
use std::collections::HashMap;

use moat_model::job::NodeFacts;

use crate::constraint::resolve;
use crate::feasible::Board;

/// Values that the nodes of a board have of one attribute.
#[derive(Debug)]
pub(crate) struct Values {
    attribute: String,
    numbers: HashMap<String, usize>,
    of_slots: Vec<Option<usize>>,
}

impl Values {
    pub(crate) fn new(attribute: &str, board: &Board<'_>) -> Self {
        let mut numbers = HashMap::new();
        let mut number = |facts: &NodeFacts| {
            let value = resolve(attribute, facts)?;
            let next = numbers.len();
            Some(match numbers.get(value.as_ref()) {
                Some(number) => *number,
                None => *numbers.entry(value.into_owned()).or_insert(next),
            })
        };
        let of_slots = board.slots.iter().map(|slot| number(slot.node.facts())).collect();
        Self { attribute: attribute.to_owned(), numbers, of_slots }
    }

    /// The value of a node of the board.
    pub(crate) fn of_slot(&self, at: usize) -> Option<usize> {
        self.of_slots.get(at).copied().flatten()
    }

    /// The value of any node, with its number if a node of the board has it too.
    pub(crate) fn of<'f>(&'f self, facts: &'f NodeFacts) -> Option<(Cow<'f, str>, Option<usize>)> {
        let value = resolve(&self.attribute, facts)?;
        let number = self.numbers.get(value.as_ref()).copied();
        Some((value, number))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Each with its number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.numbers.iter().map(|(value, number)| (value.as_str(), *number))
    }
}
