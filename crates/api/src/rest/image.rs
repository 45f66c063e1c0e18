//! Images in the node's store.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Fetches an image. The answer is a stream of JSON lines: [`PullEvent`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// Image reference.
    pub image: String,
    /// `os/arch[/variant]`; absent: this node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// User name and password for the registry, for this pull alone; never kept, never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RegistryAuth>,
}

/// Credentials.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryAuth(secret)")
    }
}

/// One line of a pull or an import.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum PullEvent {
    /// How far it is.
    Progress {
        /// `resolving`, `fetching` or `converting`.
        phase: String,
        /// Each layer.
        layers: Vec<super::template::LayerStatus>,
    },
    /// The last line, if it went well.
    Done {
        /// The image.
        image: Image,
    },
    /// The last line, if it did not.
    Failed {
        /// Why.
        error: super::ErrorBody,
    },
}

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Manifest digest.
    pub digest: String,
    /// References it was fetched or imported by.
    pub references: Vec<String>,
    /// `os/arch[/variant]`.
    pub platform: String,
    /// Size of the root file.
    pub bytes: u64,
    /// Files, directories and links in it.
    pub entries: u64,
    /// When it came into the store.
    pub created_at: String,
    /// Templates, snapshots and sandboxes that need it.
    pub used_by: Vec<String>,
}

/// All images, newest last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    /// The list.
    pub images: Vec<Image>,
}

/// What a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Collected {
    /// Digests of images.
    pub images: Vec<String>,
    /// Files removed.
    pub files: u64,
    /// Bytes given back.
    pub bytes: u64,
}

/// Which images to collect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct CollectImages {
    /// Also those that only a reference holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
}

/// What the archive in the body is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ImportImage {
    /// `oci-archive`, `docker-archive` or `rootfs`.
    pub format: String,
    /// Reference it gets here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which of the archive's images, by its name there; needed if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}
