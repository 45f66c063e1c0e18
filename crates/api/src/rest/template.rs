//! Templates and their warm-up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::sandbox::ResourceLimits;

/// Makes a template of an image, or a new version of one if the image behind the reference has moved.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// Its name: letters, digits, `_`, `-`, `.`; not `host` or `scratch`.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// `os/arch[/variant]`; absent: this node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Limits of sandboxes that name none.
    #[serde(default)]
    pub resources: ResourceLimits,
    /// Environment over the image's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Instead of the image's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Instead of the image's working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
}

/// A template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// Image reference; absent for `host` and `scratch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Manifest digest of the version in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Version in use; 0 before the first is ready.
    pub version: u64,
    /// `ready`, `warming`, `failed` or `cancelled`. One that is warming or failed may still have a version in use.
    pub status: String,
    /// Size of the root file.
    pub bytes: Option<u64>,
    /// What processes get: environment, user, working directory, entrypoint, command, stop signal.
    pub defaults: TemplateDefaults,
    /// Sandboxes that live from it, pool members not counted.
    pub sandboxes: u64,
    /// Its warm pool, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolStatus>,
    /// When the version in use was made.
    pub created_at: Option<String>,
}

/// What an image, or whoever made the template, says of processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateDefaults {
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// User.
    pub user: Option<String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Command.
    pub cmd: Vec<String>,
    /// Stop signal, by name.
    pub stop_signal: Option<String>,
}

/// A warm pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {
    /// Kept ready at least.
    pub min_ready: u32,
    /// Kept ready at most.
    pub max_ready: u32,
    /// Ready now.
    pub ready: u32,
    /// Being made now.
    pub starting: u32,
    /// Creates served by it since the daemon started.
    pub hits: u64,
    /// Creates it could have served had one been ready.
    pub misses: u64,
    /// Why it is not filled, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// All templates, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TemplateList {
    /// The list.
    pub templates: Vec<Template>,
}

/// How far a warm-up is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WarmupStatus {
    /// Template.
    pub name: String,
    /// `ready`, `warming`, `failed` or `cancelled`.
    pub status: String,
    /// Of a warm-up: `queued`, `resolving`, `fetching`, `converting`, `done`.
    pub phase: String,
    /// Version in use.
    pub version: u64,
    /// Manifest digest of what is being made, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Compressed bytes taken so far.
    pub bytes_done: u64,
    /// Compressed bytes in all, once known.
    pub bytes_total: Option<u64>,
    /// Each layer.
    pub layers: Vec<LayerStatus>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<super::ErrorBody>,
    /// When it began.
    pub started_at: Option<String>,
    /// When it ended.
    pub ended_at: Option<String>,
}

/// How far one layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LayerStatus {
    /// Its digest.
    pub digest: String,
    /// Compressed bytes taken.
    pub bytes_done: u64,
    /// Compressed bytes in all.
    pub bytes_total: u64,
    /// It was in the store already.
    pub cached: bool,
    /// It is in place.
    pub done: bool,
}
