//! Image references, as every container tool reads them: `alpine`, `node:22-alpine`, `localhost:5000/a/b@sha256:…`.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

/// A reference with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageRef {
    /// `host[:port]` of the registry, `docker.io` if none was named.
    pub registry: String,
    /// Path in it; `library/` is put before a bare name of `docker.io`.
    pub repository: String,
    /// `latest` if neither a tag nor a digest was given.
    pub tag: Option<String>,
    /// Pins the manifest, whatever the tag says.
    pub digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image {given:?}: {rule}")]
pub struct InvalidRef {
    /// What was given, cut to a printable length.
    pub given: String,
    /// What would be accepted.
    pub rule: String,
}

impl FromStr for ImageRef {
    type Err = InvalidRef;
    fn from_str(text: &str) -> Result<Self, InvalidRef> {
        Err(InvalidRef { given: text.chars().take(80).collect(), rule: "references are not read yet".to_owned() })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}
