//! Platforms: what an image is for, and whether that is what is wanted.

use moat_model::ErrorKind;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::Platform;

/// A platform as indexes and configurations write it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformDocument {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl From<PlatformDocument> for Platform {
    fn from(p: PlatformDocument) -> Self {
        Self { os: p.os, architecture: p.architecture, variant: p.variant.filter(|variant| !variant.is_empty()) }
    }
}

impl Platform {
    /// What this host runs.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "x86" => ("386", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if let Some(variant) = &self.variant {
            write!(f, "/{variant}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Platform {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let sound = parts.iter().all(|part| {
            (1..=32).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        });
        match parts.as_slice() {
            [os, architecture] if sound => {
                Ok(Self { os: (*os).to_owned(), architecture: (*architecture).to_owned(), variant: None })
            }
            [os, architecture, variant] if sound => Ok(Self {
                os: (*os).to_owned(),
                architecture: (*architecture).to_owned(),
                variant: Some((*variant).to_owned()),
            }),
            _ => Err(Error::invalid("platform", format!("{text:?} must be os/arch or os/arch/variant"))),
        }
    }
}

/// How well something fits; lower is better, `None` not at all.
pub fn fit(wanted: &Platform, there: &PlatformDocument) -> Option<u8> {
    if wanted.os != there.os || wanted.architecture != there.architecture {
        return None;
    }
    let given = there.variant.as_deref().filter(|variant| !variant.is_empty());
    match (wanted.architecture.as_str(), wanted.variant.as_deref(), given) {
        (_, Some(wanted), Some(given)) if wanted == given => Some(0),
        // The baselines, which are written with and without their name.
        ("arm64", None | Some("v8"), None | Some("v8")) | ("amd64", None | Some("v1"), None | Some("v1")) => Some(1),
        ("arm", Some("v7"), Some("v6")) => Some(2),
        ("arm", Some("v7" | "v6"), Some("v5")) => Some(3),
        (_, None, None) => Some(0),
        ("arm", None, Some(_)) => Some(4),
        _ => None,
    }
}

/// Refuses an image for another platform.
pub fn check_platform(there: &Platform, wanted: &Platform, what: &str) -> Result<()> {
    let document = PlatformDocument {
        os: there.os.clone(),
        architecture: there.architecture.clone(),
        variant: there.variant.clone(),
    };
    // An image made from nothing by an old tool may name no platform at all.
    if !(there.os.is_empty() && there.architecture.is_empty()) && fit(wanted, &document).is_none() {
        return Err(Error::new(ErrorKind::NotFound, format!("{what} is for {there} only, not for {wanted}")));
    }
    Ok(())
}
