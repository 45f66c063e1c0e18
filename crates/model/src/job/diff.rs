//! How two versions of a job differ, and what carrying out the newer would do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How two versions differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobDiff {
    /// As a whole.
    pub kind: DiffKind,
    /// The job.
    pub id: String,
    /// Its own values that differ.
    pub fields: Vec<FieldDiff>,
    /// Its own blocks that differ.
    pub objects: Vec<ObjectDiff>,
    /// Its groups, also those that do not differ: their updates are counted.
    pub groups: Vec<GroupDiff>,
}

/// In which way something differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiffKind {
    /// Not at all.
    None,
    /// Only the newer has it.
    Added,
    /// Only the older has it.
    Deleted,
    /// Both have it, differently.
    Edited,
}

impl DiffKind {
    /// `+`, `-`, `+/-`, or nothing.
    pub fn sign(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Added => "+",
            Self::Deleted => "-",
            Self::Edited => "+/-",
        }
    }
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupDiff {
    /// As a whole.
    pub kind: DiffKind,
    /// Which one.
    pub name: String,
    /// Its own values that differ.
    pub fields: Vec<FieldDiff>,
    /// Its own blocks that differ.
    pub objects: Vec<ObjectDiff>,
    /// Its tasks that differ.
    pub tasks: Vec<TaskDiff>,
    /// Instances by what would happen to them: `create`, `destroy`, `create/destroy update`, `in-place update`, `canary`,
    /// `migrate`, `ignore`.
    pub updates: BTreeMap<String, u32>,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskDiff {
    /// As a whole.
    pub kind: DiffKind,
    /// Which one.
    pub name: String,
    /// Its own values that differ.
    pub fields: Vec<FieldDiff>,
    /// Its own blocks that differ.
    pub objects: Vec<ObjectDiff>,
    /// `forces create`, `forces destroy`, `forces create/destroy update`, `forces in-place update`.
    pub annotations: Vec<String>,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldDiff {
    /// In which way.
    pub kind: DiffKind,
    /// Its name as in a job file, with `[…]` for a key or a place in a list.
    pub name: String,
    /// Before.
    pub old: String,
    /// After.
    pub new: String,
    /// `forces create`, … where this value alone does so.
    #[serde(default)]
    pub annotations: Vec<String>,
}

/// One block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectDiff {
    /// In which way.
    pub kind: DiffKind,
    /// Its name as in a job file, with its label.
    pub name: String,
    /// Values.
    pub fields: Vec<FieldDiff>,
    /// Blocks in it.
    pub objects: Vec<ObjectDiff>,
}
