//! A program's file on its way into a sandbox that shows no file of the host.

use std::path::Path;

use bytes::Bytes;
use moat_model::ErrorKind;
use moat_model::file::Transfer;
use moat_model::spec::Artifact;
use tokio::io::AsyncReadExt as _;

use super::Guest;
use crate::error::{Error, Result};

/// One read of it.
const PIECE_LEN: usize = 64 << 10;

/// Copies the program's file to `/local/<name>`. What is there is replaced.
pub async fn put_artifact(guest: &dyn Guest, artifact: &Artifact) -> Result<()> {
    let failed = |e: std::io::Error| {
        let kind = if e.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Internal };
        Error::caused_by(kind, format!("artifact.path: {}", artifact.path.display()), e)
    };
    let mut file = tokio::fs::File::open(&artifact.path).await.map_err(failed)?;
    let into = Path::new("/local").join(&artifact.name).to_string_lossy().into_owned();
    let mut sink = guest.push(Some("root"), &Transfer::Write { path: into, mode: Some(0o555) }).await?;
    let mut piece = vec![0; PIECE_LEN];
    loop {
        match file.read(&mut piece).await.map_err(failed)? {
            0 => break,
            length => sink.send(Bytes::copy_from_slice(piece.get(..length).unwrap_or_default())).await?,
        }
    }
    sink.finish().await?;
    Ok(())
}
