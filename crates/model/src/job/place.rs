//! Which nodes, rather which than others.

use serde::{Deserialize, Serialize};

/// What a node must fulfil. `attribute` and `value` are texts with `${…}` of the node in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    /// Left side.
    #[serde(default)]
    pub attribute: String,
    /// How they are compared.
    pub operator: Operator,
    /// Right side.
    #[serde(default)]
    pub value: String,
}

/// How a constraint compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// `=`, `==`, `is`.
    Equal,
    /// `!=`, `not`.
    NotEqual,
    /// `<`: as numbers, else as texts.
    Less,
    /// `<=`.
    LessOrEqual,
    /// `>`.
    Greater,
    /// `>=`.
    GreaterOrEqual,
    /// A regular expression (RE2's kind).
    Regexp,
    /// Version constraints, pre-releases compared leniently.
    Version,
    /// Semantic versions, strictly.
    Semver,
    /// Every one of a comma-separated list.
    SetContains,
    /// One of them.
    SetContainsAny,
    /// The node has the attribute.
    IsSet,
    /// It has not.
    IsNotSet,
    /// No two instances on one node.
    DistinctHosts,
    /// At most so many (`value`, 1) instances with one value of the attribute.
    DistinctProperty,
}

/// What a node had better fulfil.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Affinity {
    /// What.
    pub constraint: Constraint,
    /// -100 to 100, not 0.
    pub weight: i8,
}

/// Over the values of what instances are spread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The attribute, with `${…}`.
    pub attribute: String,
    /// 1 to 100.
    pub weight: u8,
    /// How many where; evenly if there are none.
    #[serde(default)]
    pub targets: Vec<SpreadTarget>,
}

/// A share of the instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpreadTarget {
    /// Value of the attribute.
    pub value: String,
    /// Of a hundred.
    pub percent: u8,
}
