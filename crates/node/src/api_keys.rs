//! API keys: who may use the REST API, and in which namespace.
//!
//! A key is shown once, when it is made; the file keeps its SHA-256. The file is read again when it changed, so that a key
//! made or revoked on the command line works without the daemon's help.

use std::path::Path;

use moat_model::{ErrorKind, Namespace, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What a caller may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "scope")]
pub enum Scope {
    /// Everything: all namespaces, templates, images.
    Admin,
    /// Sandboxes and snapshots of one namespace; templates may be read and used.
    Namespace {
        /// Which.
        namespace: Namespace,
    },
}

/// A key as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// First characters of the key: its name.
    pub id: String,
    /// What it may.
    pub scope: Scope,
    /// For people.
    pub note: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The keys in one file.
#[derive(Debug)]
pub struct ApiKeys {}

impl ApiKeys {
    /// Opens the file, which need not exist.
    pub fn open(path: &Path) -> Result<Self> {
        let _ = path;
        Ok(Self {})
    }

    /// Makes one; returns it and the only copy of the secret, `moat_<id>_<secret>`.
    pub fn create(&self, scope: Scope, note: &str) -> Result<(ApiKey, String)> {
        let _ = (scope, note);
        Err(Error::new(ErrorKind::Unsupported, "API keys"))
    }

    /// All, oldest first.
    pub fn list(&self) -> Result<Vec<ApiKey>> {
        Ok(Vec::new())
    }

    /// Revokes one by id.
    pub fn revoke(&self, id: &str) -> Result<()> {
        let _ = id;
        Err(Error::new(ErrorKind::Unsupported, "API keys"))
    }

    /// Who brings this secret; compared in constant time.
    pub fn check(&self, secret: &str) -> Option<ApiKey> {
        let _ = secret;
        None
    }
}
