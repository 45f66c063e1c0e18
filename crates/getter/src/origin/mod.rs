//! What an artifact's source means: go-getter's addresses, and two of ours.

mod checksum;
mod detect;
mod plan;
mod redact;
mod s3;

pub(crate) use checksum::{Algorithm, Checksum, Hasher};
pub(crate) use plan::{ArchiveWish, Fetch, Git, Plan, file_name, plan};
pub(crate) use redact::redacted;
pub(crate) use s3::{S3, percent_decoded};

use moat_model::job::ArtifactSpec;

use crate::error::FetchError;

/// Who has to fetch an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The child, over the network: [`crate::Source::Network`].
    Network,
    /// The daemon, from an object store: [`crate::Source::Descriptor`].
    Nats {
        /// Bucket.
        bucket: String,
        /// Key.
        key: String,
    },
    /// The daemon, from a registry: [`crate::Source::Descriptor`].
    Oci {
        /// What comes after `oci://`, without options and sub-directory.
        reference: String,
    },
}

/// Who has to fetch `artifact`, every `${…}` replaced.
pub fn origin(artifact: &ArtifactSpec) -> Result<Origin, FetchError> {
    Ok(match plan(artifact)?.fetch {
        Fetch::Nats { bucket, key } => Origin::Nats { bucket, key },
        Fetch::Oci { reference } => Origin::Oci { reference },
        Fetch::Http(_) | Fetch::Git(_) | Fetch::S3(_) => Origin::Network,
    })
}

/// What can be said of an artifact when its job is submitted: whatever holds `${…}` is judged on the node.
pub fn check(artifact: &ArtifactSpec) -> Result<(), FetchError> {
    let open = |text: &str| text.contains("${");
    if !open(&artifact.destination) {
        crate::parent::check_destination(artifact)?;
    }
    if let Some(text) = artifact.options.get("checksum").filter(|text| !open(text)) {
        Checksum::parse(text).map_err(|e| e.about(&artifact.source))?;
    }
    let values = artifact.options.values().chain(artifact.headers.values());
    if open(&artifact.source) || values.into_iter().any(|text| open(text)) {
        return Ok(());
    }
    plan(artifact).map(drop)
}
