//! Where facts and output leave the engine. The node implements it; tests use one in memory.

use async_trait::async_trait;
use bytes::Bytes;
use moat_agent::protocol::{Offsets, StreamName};
use moat_model::SandboxId;
use moat_model::lifecycle::SandboxView;

use crate::error::Result;

/// Takes what sandboxes say and what becomes of them.
///
/// Every method is called by the actor of the sandbox, in order for that sandbox, and again after a crash: an
/// implementation must recognise what it already has, by offset or by the view's generation.
#[async_trait]
pub trait Outlet: Send + Sync + std::fmt::Debug {
    /// How much of each output stream is already safe.
    async fn position(&self, id: &SandboxId) -> Result<Offsets>;

    /// Takes a piece of output. When it returns, the bytes survive the daemon's death. May wait to slow the program down.
    async fn append(&self, id: &SandboxId, stream: StreamName, offset: u64, bytes: Bytes) -> Result<()>;

    /// Takes a changed view. When it returns, the fact survives the daemon's death and will be told exactly once.
    async fn announce(&self, view: &SandboxView) -> Result<()>;
}
