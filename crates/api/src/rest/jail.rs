//! Jails: environments with a name, an address and a root that last; their releases, templates and snapshots.
//!
//! What is asked of them and what is told are the model's types, in JSON ([`moat_model::jail`]); here are the lists and the
//! queries around them. Everything that may take long answers lines of [`moat_model::jail::JailEvent`], the last of which
//! holds the result or the failure.

use moat_model::jail::{JailView, ReleaseView, SnapshotView, TemplateView};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Jails of a namespace, in the order they are started in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JailList {
    /// The list.
    #[schema(value_type = Vec<Object>)]
    pub jails: Vec<JailView>,
}

/// Snapshots of a jail, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JailSnapshots {
    /// The list.
    #[schema(value_type = Vec<Object>)]
    pub snapshots: Vec<SnapshotView>,
}

/// All releases, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseList {
    /// The list.
    #[schema(value_type = Vec<Object>)]
    pub releases: Vec<ReleaseView>,
}

/// Templates of jails of a namespace, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JailTemplateList {
    /// The list.
    #[schema(value_type = Vec<Object>)]
    pub templates: Vec<TemplateView>,
}

/// How a jail is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RemoveJail {
    /// One that is up is stopped first.
    #[serde(default)]
    pub force: bool,
}

/// Which limit ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RemoveLimits {
    /// That of this resource; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
}

/// Which mount ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RemoveMounts {
    /// Where it is, inside.
    pub target: String,
}

/// Which redirects end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RemoveRedirects {
    /// `tcp` or `udp`, with `host_port`; both absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The one that begins here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
}

/// Makes a jail of an archive in the body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReceiveJail {
    /// What it is called [default: as the archive says].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Refused unless the archive has this digest, in hexadecimal; needed unless `force`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Its digest is not looked at.
    #[serde(default)]
    pub force: bool,
}

/// What of a console is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadConsole {
    /// So many lines before the end; absent: all that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// Go on until the client goes away.
    #[serde(default)]
    pub follow: bool,
}

/// What a body is that a release is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UploadRelease {
    /// `rootfs`, `oci-archive` or `docker-archive`: a tar archive, packed or not.
    pub format: String,
}
