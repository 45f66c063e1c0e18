//! Takes the output of a main process from its agent to the outlet: exactly once, whatever breaks in between.

use std::sync::Arc;
use std::time::Duration;

use moat_agent::protocol::{Offsets, StreamName};
use moat_model::SandboxId;

use crate::error::Result;
use crate::guest::{Chunk, Guest};
use crate::outlet::Outlet;

/// First wait after something broke; doubles.
const RETRY_INITIAL: Duration = Duration::from_millis(50);
/// Longest wait: an outlet on a full disk is asked twice in this time, not more.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Returns when both streams have ended and every byte is safe. Until then it starts again after every failure, from
/// what the outlet says it has; whoever spawned it ends it when there is no more agent to ask.
pub async fn pump(id: SandboxId, guest: Arc<dyn Guest>, outlet: Arc<dyn Outlet>) {
    let mut wait = RETRY_INITIAL;
    loop {
        match pass(&id, guest.as_ref(), outlet.as_ref(), &mut wait).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(sandbox = %id, error = error.chain(), "output interrupted; starting again"),
        }
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).min(RETRY_MAX);
    }
}

async fn pass(id: &SandboxId, guest: &dyn Guest, outlet: &dyn Outlet, wait: &mut Duration) -> Result<()> {
    let mut safe = outlet.position(id).await?;
    let mut reader = guest.output(safe).await?;
    while let Some(chunk) = reader.next().await? {
        let Some(chunk) = fresh(id, chunk, safe) else { continue };
        let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
        outlet.append(id, chunk.stream, chunk.offset, chunk.bytes).await?;
        *at(&mut safe, chunk.stream) = end;
        reader.acknowledge(safe).await?;
        *wait = RETRY_INITIAL;
    }
    Ok(())
}

/// The part of a chunk that is not yet safe. An agent is not trusted to keep count.
fn fresh(id: &SandboxId, mut chunk: Chunk, mut safe: Offsets) -> Option<Chunk> {
    let have = *at(&mut safe, chunk.stream);
    if chunk.offset < have {
        let known = usize::try_from(have - chunk.offset).unwrap_or(usize::MAX).min(chunk.bytes.len());
        chunk.bytes = chunk.bytes.split_off(known);
        chunk.offset = have;
    } else if chunk.offset > have {
        tracing::warn!(sandbox = %id, stream = ?chunk.stream, from = have, to = chunk.offset, "the agent skipped output");
    }
    (!chunk.bytes.is_empty()).then_some(chunk)
}

fn at(offsets: &mut Offsets, stream: StreamName) -> &mut u64 {
    match stream {
        StreamName::Stdout => &mut offsets.stdout,
        StreamName::Stderr => &mut offsets.stderr,
    }
}
