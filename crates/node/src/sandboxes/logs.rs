//! Output of main processes: kept in the same log files as that of workloads, under an id made of the sandbox's.

use std::sync::Arc;

use data_encoding::BASE32HEX_NOPAD;
use moat_api::nex::LogCursor;
use moat_api::sandbox::LogsResponse;
use moat_model::{ErrorKind, Namespace, NodeId, SandboxId, WorkloadId, WorkloadName};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::logfile::WorkloadRef;
use crate::stream::{LogPlace, history};

use super::{Sandboxes, no_such};

/// The id its log has: always the same for a sandbox, so that it is found after it is gone.
pub(super) fn log_id(sandbox: &SandboxId) -> WorkloadId {
    let digest = Sha256::digest(sandbox.as_str().as_bytes());
    let text = BASE32HEX_NOPAD.encode(digest.get(..12).unwrap_or_default()).to_ascii_lowercase();
    // Twelve bytes are twenty digits, whatever they are: the rule of these ids.
    WorkloadId::parse(&text).unwrap_or_else(|_| unreachable!("{text} is not an id"))
}

/// Whom its output belongs to.
pub(super) fn reference(node: &NodeId, namespace: &Namespace, sandbox: &SandboxId) -> Result<WorkloadRef> {
    let name = WorkloadName::parse(sandbox.as_str())
        .map_err(|e| Error::caused_by(ErrorKind::Internal, "name the log of a sandbox", e))?;
    Ok(WorkloadRef { namespace: namespace.clone(), name, id: log_id(sandbox), node: node.clone() })
}

impl Sandboxes {
    /// A piece of what its main process wrote; also after it has ended. One without a main process has written nothing.
    pub async fn logs(&self, namespace: &Namespace, id: &SandboxId, place: LogPlace) -> Result<LogsResponse> {
        self.get(namespace, id)?;
        match self.shared.base.outlet.log(&log_id(id)).await? {
            Some(log) if log.workload().namespace == *namespace => history::read(Arc::clone(&log), place).await,
            Some(_) => Err(no_such(id)),
            None => {
                let cursor = place.after.unwrap_or(LogCursor { stdout: 0, stderr: 0 });
                Ok(LogsResponse { lines: Vec::new(), cursor, more: false })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sandbox_has_a_log_id() {
        for n in 0..=255 {
            let id = SandboxId::from_parts(moat_model::Timestamp::from_millis(7), [n; 10]);
            assert_eq!(log_id(&id), log_id(&id));
            assert_eq!(log_id(&id).as_str().len(), 20);
        }
    }
}
