//! Decisions about where instances of a job run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Evaluation {
    /// Its id.
    pub id: String,
    /// About which job.
    pub job: String,
    /// Version of the job it was made for.
    pub job_version: u64,
    /// `pending`, `blocked`, `complete`, `failed` or `canceled`.
    pub status: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What asked for it: `job-register`, `job-deregister`, `node-update`, ….
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub triggered_by: String,
    /// The deployment it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// Groups that could not be placed as a whole.
    #[serde(default)]
    pub failures: BTreeMap<String, PlacementFailure>,
    /// When it was asked for.
    pub created_at: String,
}

/// Why instances of a group could not be placed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlacementFailure {
    /// How many.
    pub unplaced: u32,
    /// What kept nodes from being chosen, a line each.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// Decisions about a job that are kept, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EvaluationList {
    /// The list.
    pub evaluations: Vec<Evaluation>,
}
