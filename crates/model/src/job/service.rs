//! What a group or a task offers, and how one sees that it works.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Text;

/// A service by name, in the cluster's directory while its task runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// What it is found by.
    pub name: Text,
    /// Label of the port, or a number; none for services reached otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Which task it is, where that cannot be seen from where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Free words.
    #[serde(default)]
    pub tags: Vec<Text>,
    /// The same while it is a canary.
    #[serde(default)]
    pub canary_tags: Vec<Text>,
    /// Free values.
    #[serde(default)]
    pub meta: BTreeMap<String, Text>,
    /// How one sees that it works.
    #[serde(default)]
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Unique in its service.
    pub name: String,
    /// What is tried. Not flattened: serde cannot refuse unknown keys beside a flattened one.
    pub kind: CheckKind,
    /// How often; at least 1 s.
    pub interval: Duration,
    /// How long it may take; at least 1 s.
    pub timeout: Duration,
    /// Label of another port than the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Restarts the task when it fails again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<CheckRestart>,
    /// Its result does not count for the health of a deployment.
    #[serde(default)]
    pub ignored_on_update: bool,
}

/// What is tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum CheckKind {
    /// A connection is accepted.
    Tcp,
    /// A request is answered with less than 400.
    Http {
        /// `https` rather than `http`.
        #[serde(default)]
        tls: bool,
        /// No certificate is verified.
        #[serde(default)]
        tls_skip_verify: bool,
        /// Begins with `/`.
        path: Text,
        /// `GET` unless said otherwise.
        method: String,
        /// Sent along.
        #[serde(default)]
        headers: BTreeMap<String, Vec<Text>>,
        /// Sent along.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<Text>,
    },
    /// A program inside the task ends with 0.
    Script {
        /// Resolved as the task's own command is.
        command: Text,
        /// Arguments.
        #[serde(default)]
        args: Vec<Text>,
    },
}

/// When a failing check restarts the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRestart {
    /// Failures in a row.
    pub limit: u32,
    /// None of them counts so soon after a start.
    pub grace: Duration,
}
