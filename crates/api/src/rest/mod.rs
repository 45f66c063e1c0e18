//! Wire types of the REST API, `/api/v1`.
//!
//! Names follow NanoBox where NanoBox has a name (`vcpu`, `memory_mb`, `template`, `boot_time_ms`); what is ours stands
//! beside it. Requests refuse members they do not know: a misspelt limit must not be silently absent. Units are in the
//! names. Times are RFC 3339 in UTC.

pub mod allocation;
pub mod deployment;
pub mod evaluation;
pub mod exec;
pub mod file;
pub mod image;
pub mod jail;
pub mod job;
pub mod network;
pub mod node;
pub mod sandbox;
pub mod template;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Prefix of every path.
pub const PREFIX: &str = "/api/v1";

/// Every failure, with the HTTP status of its `code` (docs/errors.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What a program may decide by: one of the ten codes, `invalid_spec` for one.
    pub code: String,
    /// For people: names the field.
    pub message: String,
    /// What would help, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Id of this request, as in the daemon's log and in the header `x-request-id`.
    pub id: String,
}

/// Says that something was accepted or done, where nothing else is to be said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// Always true.
    pub ok: bool,
}

/// A request that has nothing to say: an empty body, or `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}
