//! What came of planning a job: kept with its allocations, for people.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// What came of planning a job once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Its identity, a UUID.
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// The version that was planned.
    pub job_version: u64,
    /// What came of it.
    pub status: EvaluationStatus,
    /// The deployment it worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// Instances placed, by group.
    #[serde(default)]
    pub placed: BTreeMap<String, u32>,
    /// Instances that found no node, by group. It is tried again when a node or what it runs changes.
    #[serde(default)]
    pub failures: BTreeMap<String, PlacementFailure>,
}

/// What came of planning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvaluationStatus {
    /// Everything has its place.
    Complete,
    /// Something has none.
    Blocked,
}

impl EvaluationStatus {
    /// Nomad's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Blocked => "blocked",
        }
    }
}

/// Why instances of a group found no node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementFailure {
    /// Instances without a place.
    pub unplaced: u32,
    /// Nodes looked at.
    pub evaluated: u32,
    /// Those that may not be used.
    pub filtered: u32,
    /// Those that have no room.
    pub exhausted: u32,
    /// Nodes that are ready in each datacenter that matches.
    #[serde(default)]
    pub available: BTreeMap<String, u32>,
    /// Nodes excluded by each constraint, and by what was not asked for in so many words: `missing drivers`, ….
    #[serde(default)]
    pub constraint_filtered: BTreeMap<String, u32>,
    /// Excluded nodes by their class, where they have one.
    #[serde(default)]
    pub class_filtered: BTreeMap<String, u32>,
    /// Nodes without room by their class, where they have one.
    #[serde(default)]
    pub class_exhausted: BTreeMap<String, u32>,
    /// Nodes without room by what is missing: `cpu`, `cores`, `memory`, `disk`, `network: reserved port collision web=80`.
    #[serde(default)]
    pub dimension_exhausted: BTreeMap<String, u32>,
}

impl PlacementFailure {
    /// The reasons, a line each, as people read them.
    pub fn reasons(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.evaluated == 0 {
            lines.push("No nodes were eligible for evaluation".to_owned());
        }
        lines.extend(
            self.available
                .iter()
                .filter(|(_, ready)| **ready == 0)
                .map(|(name, _)| format!("No nodes are available in datacenter {name:?}")),
        );
        let counted = |what: &BTreeMap<String, u32>, words: &dyn Fn(&str, u32) -> String| {
            what.iter().map(|(name, nodes)| words(name, *nodes)).collect::<Vec<_>>()
        };
        lines.extend(counted(&self.class_filtered, &|name, n| format!("Class {name:?}: {n} nodes excluded by filter")));
        lines.extend(counted(&self.constraint_filtered, &|name, n| {
            format!("Constraint {name:?}: {n} nodes excluded by filter")
        }));
        if self.exhausted > 0 {
            lines.push(format!("Resources exhausted on {} nodes", self.exhausted));
        }
        lines.extend(counted(&self.class_exhausted, &|name, n| format!("Class {name:?} exhausted on {n} nodes")));
        lines.extend(counted(&self.dimension_exhausted, &|name, n| {
            format!("Dimension {name:?} exhausted on {n} nodes")
        }));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_line() {
        let failure = PlacementFailure {
            unplaced: 2,
            evaluated: 3,
            filtered: 1,
            exhausted: 2,
            available: [("dc1".to_owned(), 3), ("dc9".to_owned(), 0)].into(),
            constraint_filtered: [("missing drivers".to_owned(), 1)].into(),
            dimension_exhausted: [("memory".to_owned(), 2)].into(),
            ..PlacementFailure::default()
        };
        assert_eq!(
            failure.reasons(),
            [
                "No nodes are available in datacenter \"dc9\"",
                "Constraint \"missing drivers\": 1 nodes excluded by filter",
                "Resources exhausted on 2 nodes",
                "Dimension \"memory\" exhausted on 2 nodes",
            ]
        );
        assert_eq!(PlacementFailure::default().reasons(), ["No nodes were eligible for evaluation"]);
    }
}
