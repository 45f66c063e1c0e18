//! What is kept of a jail between two daemons, and between two starts.

use std::io;
use std::net::Ipv4Addr;

use moat_image::Digest;
use moat_model::jail::{JailName, JailSpec, SnapshotTag};
use moat_model::spec::RootLayer;
use moat_model::{SandboxId, Timestamp};
use serde::{Deserialize, Serialize};

use super::place::Home;
use crate::durable;

/// Version of the format.
pub(super) const FORMAT: u32 = 1;

/// A jail on disk. Which of its files hold, and whether it is whole, is decided by this file alone, which is replaced as one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JailRecord {
    pub format: u32,
    pub spec: JailSpec,
    pub stage: Stage,
    /// First of the ids its files have on disk.
    pub uid_base: u32,
    /// What its root stands on, the lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<RootLayer>,
    /// Manifest of the image they are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Which making of its files holds.
    pub files: u64,
    /// It should be up.
    pub wanted: bool,
    /// The sandbox it is; written before that is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxId>,
    /// The number of this start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// The address the node gave it, if its user chose none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Ipv4Addr>,
    /// Why it went down, if nobody asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The step of a template that is being done, or at which one was cut short: `project/template/Bastillefile:7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// It is being renamed to this: its directory may have that name already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renaming: Option<JailName>,
    pub created_at: Timestamp,
}

/// How whole a jail is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// Half made: nothing of it is kept if the daemon dies.
    Making,
    /// A jail.
    Whole,
    /// Half removed: what is left goes when the daemon starts.
    Leaving,
}

impl JailRecord {
    /// What of the image store it needs.
    pub(super) fn needs(&self) -> impl Iterator<Item = Digest> {
        digests(&self.layers, self.image.as_deref())
    }

    /// Blocking.
    pub(super) fn write(&self, home: &Home) -> io::Result<()> {
        durable::replace(&home.record(), &serde_json::to_vec_pretty(self)?)
    }

    /// Blocking. None if there is no record: then the directory is not a jail.
    pub(super) fn read(home: &Home) -> io::Result<Option<Self>> {
        match std::fs::read(home.record()) {
            Ok(body) => serde_json::from_slice(&body).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What these layers need of the image store.
pub(super) fn digests(layers: &[RootLayer], image: Option<&str>) -> impl Iterator<Item = Digest> + use<> {
    let layers = layers.iter().filter_map(|layer| format!("sha256:{}", layer.digest).parse().ok());
    layers.chain(image.and_then(|image| image.parse().ok())).collect::<Vec<Digest>>().into_iter()
}

/// What is kept of a snapshot beside its files. Written last: without it there is no snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SnapshotRecord {
    pub format: u32,
    pub tag: SnapshotTag,
    pub spec: JailSpec,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<RootLayer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub bytes: u64,
    pub created_at: Timestamp,
}
