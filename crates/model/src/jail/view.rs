//! What is published of jails.

use serde::{Deserialize, Serialize};

use super::{JailSpec, ReleaseName, SnapshotTag, TemplateName};
use crate::{SandboxId, Timestamp};

/// A jail as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailView {
    /// As declared; its address is filled in.
    pub spec: JailSpec,
    /// The number a node gave it when it was started; none while it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// Whether it runs.
    pub state: JailState,
    /// The sandbox it is, while it is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxId>,
    /// The isolation it has, as replies say it (`container`, `microvm/tcg`), while it is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<String>,
    /// Where its files lie on the node.
    pub path: String,
    /// A template that was cut short, and where: `project/template/Bastillefile:7`. Applying it again is fine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupted: Option<String>,
    /// Since when it exists.
    pub created_at: Timestamp,
}

/// Whether a jail runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum JailState {
    /// It runs.
    Up,
    /// It does not.
    Down {
        /// Why, if it was not asked to stop.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
    },
    /// Something is being done to it: `create`, `clone`, `start`, `stop`, `template`, `export`, `rollback`, `destroy`.
    Busy {
        /// What.
        doing: String,
    },
}

/// A release: what roots are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseView {
    /// What it is called.
    pub name: ReleaseName,
    /// What it was made from.
    pub source: String,
    /// SHA-256 of its layers, the lowest first.
    pub layers: Vec<String>,
    /// Jails that need it.
    pub used_by: Vec<String>,
    /// When it was made, or updated.
    pub created_at: Timestamp,
}

/// A template of jails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateView {
    /// What it is called.
    pub name: TemplateName,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Which state of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// What a template was found to have when it was looked through, with all it includes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateCheck {
    /// Lines that do something, in their order.
    pub hooks: Vec<TemplateHook>,
    /// Templates that were looked at, the asked one first.
    pub templates: Vec<TemplateName>,
    /// Repositories of templates that are included and not here: they are fetched when it is applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// What whoever applies it should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A line of a template that does something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateHook {
    /// Whose.
    pub template: TemplateName,
    /// Where it begins, counted from 1.
    pub line: usize,
    /// Its verb, in capitals.
    pub verb: String,
    /// What follows, as it was written.
    pub text: String,
}

/// A snapshot of a jail's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// What it is called.
    pub tag: SnapshotTag,
    /// When it was made.
    pub created_at: Timestamp,
    /// What it takes on disk, shared blocks counted.
    pub bytes: u64,
}
